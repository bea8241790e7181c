"""Losses that can be picked by name.

Facts: ``tasks``, those that it is for; of a loss with a factory, which is called with its parameters and returns a
function of (all outputs of the model, targets), ``adds_up``, how the losses of batches make that of a set
(core.tasks.training_loss.Kind).
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

_WEIGHTS = Param("class_weights", "any", None, "a weight per class, or 'balanced' for the inverse of its share")

_CLASSES = ("classification", "segmentation", "language", "token_classification")
_NUMBERS = ("classification", "regression", "reconstruction")

LOSSES: tuple[Entry, ...] = (
    Entry(
        "loss",
        "cross_entropy",
        "cross entropy of the logits (classification)",
        (
            Param("label_smoothing", "float", 0.0, "share of the target spread over all classes", low=0, high=0.99),
            _WEIGHTS,
        ),
        facts={"tasks": _CLASSES},
    ),
    Entry(
        "loss",
        "nll",
        "negative log likelihood; log_softmax is applied first, which leaves log-probabilities as they are",
        (_WEIGHTS,),
        facts={"tasks": _CLASSES},
    ),
    Entry(
        "loss",
        "bce_with_logits",
        "binary cross entropy of each logit (one-hot for several classes)",
        (Param("label_smoothing", "float", 0.0, "how far targets are moved towards one half", low=0, high=0.99),),
        facts={"tasks": ("classification", "multilabel", "segmentation", "reconstruction")},
    ),
    Entry(
        "loss",
        "mse",
        "mean squared error (of the one-hot target in classification)",
        facts={"tasks": _NUMBERS},
    ),
    Entry(
        "loss",
        "l1",
        "mean absolute error (of the one-hot target in classification)",
        facts={"tasks": _NUMBERS},
    ),
    Entry(
        "loss",
        "huber",
        "Huber loss: squared near zero, absolute beyond delta",
        (Param("delta", "float", 1.0, "where it turns from squared to absolute", low=1e-9),),
        facts={"tasks": _NUMBERS},
    ),
    Entry(
        "loss",
        "elbo",
        "of a variational autoencoder (reconstruction, mean, log variance): its error and the divergence (Kingma and "
        "Welling 2014)",
        (
            Param(
                "reconstruction",
                "str",
                "bce_with_logits",
                "the error of the reconstruction, summed over a sample; bce: of outputs from 0 to 1",
                choices=("bce_with_logits", "bce", "mse"),
            ),
            Param("beta", "float", 1.0, "what the divergence is multiplied by", low=0),
        ),
        facts={"tasks": ("reconstruction",), "adds_up": "mean"},
        factory="torchdeck.core.tasks.vae_loss:Elbo",
    ),
    Entry(
        "loss",
        "nt_xent",
        "of two views: each must find the other among all of the batch (Chen et al. 2020, SimCLR)",
        (Param("temperature", "float", 0.5, "the similarities are divided by it", low=1e-4, high=100),),
        facts={"tasks": ("contrastive",), "adds_up": "batches"},
        factory="torchdeck.core.tasks.contrastive_losses:NTXent",
    ),
    Entry(
        "loss",
        "triplet",
        "of an anchor, a positive and a negative (torch.nn.TripletMarginLoss)",
        (
            Param("margin", "float", 1.0, "how much nearer the positive must be", low=0),
            Param("p", "float", 2.0, "which norm measures distances", low=1e-3),
        ),
        facts={"tasks": ("contrastive",), "adds_up": "mean"},
        factory="torchdeck.core.tasks.contrastive_losses:Triplet",
    ),
)
