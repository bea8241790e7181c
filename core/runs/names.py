"""Names of metrics, however their writer spelled them: ``Loss/train``, ``val_acc`` and ``epoch_loss`` have homes."""

from __future__ import annotations

import re

#: Higher is better for these; of all others the least value is the best.
HIGHER = frozenset(
    {"accuracy", "top5", "f1", "r2", "auc", "auroc", "precision", "recall", "map", "miou", "iou", "bleu"}
)

_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "eval": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_ALIASES = {"acc": "accuracy", "f1_score": "f1", "lr": "learning_rate", "top_5": "top5", "acc5": "top5",
            "categorical_accuracy": "accuracy", "sparse_categorical_accuracy": "accuracy"}  # fmt: skip


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


def watched(text: str) -> tuple[str, bool]:
    """A metric that decides, and whether more of it is better: told by its name, or by ``maximize my_metric``."""
    direction, _, name = text.strip().rpartition(" ")
    if direction.strip() in ("maximize", "minimize"):
        return name, direction.strip() == "maximize"
    return text.strip(), higher_is_better(text.strip())


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better, told from its name."""
    last = re.split(r"[/]", name)[-1].lower()
    return _ALIASES.get(last, last) in HIGHER
