"""Names of metrics, however their writer spelled them: ``Loss/train``, ``val_acc`` and ``epoch_loss`` have homes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torchdeck.core import catalog

#: Words in the names of metrics of which more is better, and of which less is: the field's usual ones.
_HIGHER = frozenset(
    [
        "accuracy",
        "acc",
        "auc",
        "auroc",
        "roc",
        "aucroc",
        "auprc",
        "prauc",
        "aucpr",
        "ap",
        "auap",
        "map",
        "map50",
        "map75",
        "mar",
        "f1",
        "f2",
        "fbeta",
        "fscore",
        "dice",
        "iou",
        "jaccard",
        "miou",
        "kappa",
        "mcc",
        "matthews",
        "ndcg",
        "dcg",
        "mrr",
        "hit",
        "hits",
        "match",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
        "tpr",
        "tnr",
        "ppv",
        "npv",
        "psnr",
        "ssim",
        "msssim",
        "r2",
        "bleu",
        "sacrebleu",
        "rouge",
        "rouge1",
        "rouge2",
        "rougel",
        "meteor",
        "cider",
        "spice",
        "chrf",
        "bertscore",
        "spearman",
        "spearmanr",
        "pearson",
        "pearsonr",
        "kendall",
        "corr",
        "correlation",
        "ccc",
        "concordance",
        "cindex",
        "top1",
        "top3",
        "top5",
        "top10",
        "explained",
        "purity",
        "nmi",
        "ari",
        "silhouette",
        "auprg",
    ]
)
_LOWER = frozenset(
    [
        "loss",
        "error",
        "err",
        "rmse",
        "mse",
        "mae",
        "mape",
        "smape",
        "msle",
        "rmsle",
        "medae",
        "mase",
        "perplexity",
        "ppl",
        "nll",
        "wer",
        "cer",
        "ter",
        "mer",
        "eer",
        "fid",
        "kid",
        "lpips",
        "brier",
        "ece",
        "mce",
        "hamming",
        "divergence",
        "kl",
        "kld",
        "distance",
        "dist",
        "emd",
        "chamfer",
        "hausdorff",
        "fpr",
        "fnr",
        "far",
        "frr",
        "bits",
        "bpb",
        "bpc",
        "bpd",
        "crps",
        "pinball",
        "huber",
        "regret",
        "latency",
        "residual",
        "deviance",
        "bce",
        "ce",
    ]
)

#: The metrics that are measured by task, and what else has a curve of its own.
MEASURED: dict[str, tuple[str, ...]] = {entry.name: entry.fact("metrics") for entry in catalog.entries("task")}
#: Those of which there is one for each class or target, too.
OF_EACH = ("mae", "rmse", "r2", "iou", "map")
TAKEN = ("learning_rate", "gradient_norm", "samples_per_second", "data_wait", "memory", "epoch", "step")

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_ALIASES = {
    "acc": "accuracy",
    "f1_score": "f1",
    "lr": "learning_rate",
    "top_5": "top5",
    "acc5": "top5",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
}


def canonical(tag: str, part: str = "") -> str:
    """``train/loss``, ``val/accuracy`` ... for a tag of any tool; ``part`` where the folder tells it (Keras).

    A tag that names no part stays as it is.
    """
    words = [w for w in re.split(r"[/_.\s-]+", tag.strip().lower()) if w]
    found = next((i for i in (0, len(words) - 1) if len(words) > 1 and words[i] in _PARTS), None)
    if found is None and not part:
        name = tag.strip("/")
        return _ALIASES.get(name.lower(), name)
    if found is not None:
        part = _PARTS[words.pop(found)]
    if len(words) > 1 and words[0] == "epoch":  # Keras: epoch_loss
        words.pop(0)
    name = "_".join(words)
    return f"{part}/{_ALIASES.get(name, name)}"


def figure_of(name: str) -> str:
    """What we call a figure that somebody's code calls ``val_loss`` or ``train/acc``: the part of the data is known
    anyway."""
    spelled = canonical(name)
    part, slash, rest = spelled.partition("/")
    return rest if slash and part in ("train", "val", "test") else spelled


def metric(name: str) -> tuple[str, str]:
    """The part and the metric that a user means: ``val_acc`` is (val, accuracy), ``best_loss`` (best, loss)."""
    lower = name.lower()
    for part in ("best", "last"):
        for sign in "_/.":
            if lower.startswith(part + sign):
                rest = lower[len(part) + 1 :]
                return part, _ALIASES.get(rest, rest)
    spelled = canonical(name)
    part, slash, rest = spelled.partition("/")
    return (part, rest) if slash and part in ("train", "val", "test") else ("", _ALIASES.get(lower, name))


def watched(text: str, own: Sequence[str] = ()) -> tuple[str, bool | None]:
    """A metric that decides, and whether more of it is better: told by its name, or by ``maximize my_metric``; None
    where neither tells. ``val_loss`` is the loss; ``own`` are the names of the user's metrics."""
    direction, _, name = text.strip().rpartition(" ")
    part, plain = metric(name)
    name = plain if part == "val" else name
    if direction.strip() in ("maximize", "minimize"):
        return name, direction.strip() == "maximize"
    return name, direction_of(name, own)


def known_direction(name: str) -> bool | None:
    """Whether more of a metric is better, told from the words in its name; None where they don't tell.

    A loss or an error of something good (``dice_loss``) is still a loss.
    """
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    if any(word in _LOWER for word in words):
        return False
    return True if any(word in _HIGHER for word in words) else None


def direction_of(name: str, own: Sequence[str] = ()) -> bool | None:
    """Whether more of what is measured is better, as ``known_direction``; of one target's or one class's figure
    (``r2_distance``) as of its metric: the words of a target tell nothing."""
    return known_direction(whole_of(name, (*own, *OF_EACH)) or name)


def whole_of(name: str, metrics: Iterable[str]) -> str | None:
    """The metric of which a figure is, or is that of one target or one class (``recall_cat``); None for none of
    them."""
    found = [metric for metric in metrics if name == metric or name.startswith(f"{metric}_")]
    return max(found, key=len, default=None)


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better, told from its name; where that does not tell, less is."""
    return bool(known_direction(name))


def short_name(reference: str) -> str:
    """What a metric of the user's is called: ``recall`` for path/to/met.py:recall."""
    return reference.rpartition(":")[2].rpartition(".")[2]
