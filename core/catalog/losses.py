"""Losses that can be picked by name."""

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
        facts={"tasks": ("classification", "multilabel", "reconstruction")},
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
)
