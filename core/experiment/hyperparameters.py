"""The experiment on one level: what TensorBoard's hparams, lists of runs and comparisons show of it."""

from __future__ import annotations

from typing import Any

from torchdeck.core.experiment.schema import Experiment


def flat(experiment: Experiment) -> dict[str, Any]:
    """The experiment as hparams: one level, and only kinds that the plug-in knows; lists become texts, None is left
    out."""
    result: dict[str, Any] = {}
    dumped = experiment.model_dump(mode="json", exclude={"tracking", "search", "sampler", "pruner"})
    for section in ("data", "task", "model", "optimizer", "schedule", "loss"):
        picked = getattr(experiment, section)
        dumped[section]["args"] = picked.resolved() if picked.name else {}
    for name in experiment.model.parts if experiment.task.step else ():
        optimizer = experiment.optimizer.of_part(name)
        chosen = {"name": optimizer.name, "lr": optimizer.learning_rate(), "weight_decay": optimizer.decay()}
        dumped["optimizer"]["parts"][name] = chosen | {"args": optimizer.resolved()}
    dumped["optimizer"] |= {"lr": experiment.optimizer.learning_rate(), "weight_decay": experiment.optimizer.decay()}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, bool | int | float | str):
            result[prefix] = value
        elif value is not None and value not in ([], ()):
            result[prefix] = str(value)

    add("", dumped)
    return result
