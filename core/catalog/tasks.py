"""Tasks that can be picked by name: how a batch becomes a loss, and which figures are told.

Facts: ``metrics``, the figures of each evaluation; ``targets``, what the targets are:

- ``classes``: a class number a sample; its classes are counted and checked;
- ``class_map``: a class number a pixel or a token;
- ``labels``: 0 or 1 for each of several labels;
- ``numbers``: floats of any shape;
- ``tokens``: the tokens that follow;
- ``input``: the inputs are the targets;
- ``boxes``: a dict with ``boxes`` and ``labels``, as torchvision's detectors take them;
- ``given``: whatever the data set gives, as it is.

``normalised``: the transforms of images where the experiment names none (``ToTensor`` comes with each).
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param

_IGNORE = Param("ignore_index", "int", -100, "targets of this value are left out of the loss and of the figures")
_PROBABILITIES = Param(
    "probabilities",
    "bool",
    None,
    "whether outputs of yes or no are probabilities, and no logits; default: with torch.nn:BCELoss",
)

TASKS: tuple[Entry, ...] = (
    Entry(
        "task",
        "auto",
        "taken from the first sample, the model's forward and the loss",
        facts={"metrics": (), "targets": "given"},
    ),
    Entry(
        "task",
        "classification",
        "one class a sample: accuracy, top5, f1",
        (_PROBABILITIES,),
        facts={"metrics": ("loss", "accuracy", "top5", "f1"), "targets": "classes", "normalised": True},
        factory="torchdeck.core.tasks.classification:ClassificationTask",
    ),
    Entry(
        "task",
        "multilabel",
        "several labels a sample, each 0 or 1: f1 (macro and micro), exact match, mAP",
        (
            Param("threshold", "float", 0.5, "probability from which a label counts as predicted", low=0, high=1),
            _PROBABILITIES,
        ),
        facts={"metrics": ("loss", "f1", "f1_micro", "exact_match", "map"), "targets": "labels", "normalised": True},
        factory="torchdeck.core.tasks.multilabel:MultilabelTask",
    ),
    Entry(
        "task",
        "regression",
        "numbers of any shape: mae, rmse, r2",
        facts={"metrics": ("loss", "mae", "rmse", "r2"), "targets": "numbers", "normalised": True},
        factory="torchdeck.core.tasks.regression:RegressionTask",
    ),
    Entry(
        "task",
        "segmentation",
        "a class for each pixel: mIoU, Dice, accuracy, and the IoU of each class",
        (
            _IGNORE,
            _PROBABILITIES,
            Param(
                "aux_weight",
                "float",
                0.5,
                "what the loss of an auxiliary output counts for (torchvision's reference training)",
                low=0,
            ),
        ),
        facts={"metrics": ("loss", "miou", "dice", "accuracy", "iou"), "targets": "class_map", "normalised": True},
        factory="torchdeck.core.tasks.segmentation:SegmentationTask",
    ),
    Entry(
        "task",
        "detection",
        "boxes and their classes, by torchvision's interface: mAP",
        facts={"metrics": ("loss", "map", "map50", "map75"), "targets": "boxes"},
        factory="torchdeck.core.tasks.detection:DetectionTask",
    ),
    Entry(
        "task",
        "language",
        "the next token: perplexity, bits per byte, accuracy",
        (
            _IGNORE,
            Param("prompt", "str", None, "text that the samples written while training begin with"),
            Param("sample_tokens", "int", 100, "tokens of the text written after each epoch; 0: none", low=0),
            Param(
                "temperature",
                "float",
                1.0,
                "of what is written: its logits are divided by it; 0: the most likely",
                low=0,
            ),
        ),
        facts={"metrics": ("loss", "perplexity", "accuracy", "bits_per_byte"), "targets": "tokens"},
        factory="torchdeck.core.tasks.language:LanguageTask",
    ),
    Entry(
        "task",
        "token_classification",
        "a class for each token: accuracy, f1",
        (_IGNORE,),
        facts={"metrics": ("loss", "accuracy", "f1"), "targets": "class_map"},
        factory="torchdeck.core.tasks.token_classification:TokenClassificationTask",
    ),
    Entry(
        "task",
        "reconstruction",
        "the input is the target: mae, rmse, PSNR",
        (
            Param(
                "logits",
                "bool",
                None,
                "whether a reconstruction is logits, whose sigmoid is compared; default: as the loss tells",
            ),
        ),
        facts={"metrics": ("loss", "mae", "rmse", "psnr"), "targets": "input"},
        factory="torchdeck.core.tasks.reconstruction:ReconstructionTask",
    ),
    Entry(
        "task",
        "contrastive",
        "two views of a sample, or an anchor with a positive (and a negative): retrieval among the batch, and "
        "nearest neighbours where there are labels",
        facts={
            "metrics": ("loss", "top1", "top5", "neighbour_accuracy", "triplet_accuracy"),
            "targets": "given",
            "normalised": True,
        },
        factory="torchdeck.core.tasks.contrastive:ContrastiveTask",
    ),
    Entry(
        "task",
        "own",
        "the model or a function of your own makes the loss of a batch (task.step)",
        facts={"metrics": ("loss",), "targets": "given"},
        factory="torchdeck.core.tasks.own:own_task",
    ),
    Entry(
        "task",
        "lightning",
        "a LightningModule: its training_step, validation_step and configure_optimizers",
        facts={"metrics": ("loss",), "targets": "given"},
        factory="torchdeck.core.tasks.lightning:LightningTask",
    ),
)
