"""What a run that is done is measured by: its best weights, on validation and test set."""

from __future__ import annotations

from pathlib import Path

from torchdeck.core.checkpoints.names import BEST
from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.machine import distributed
from torchdeck.core.training.build import Built
from torchdeck.core.training.evaluation import Report


def evaluate_best(built: Built, checkpoints: Path | None) -> tuple[Report | None, Report | None]:
    """Load the weights of the best epoch from ``checkpoints`` (None in a process that writes none) and evaluate them on
    the validation set and, this once, on the test set; None where there is no such set."""
    _load_best(built, checkpoints)
    trainer, test = built.trainer, built.data.test
    return trainer.evaluate(), trainer.evaluator.evaluate(
        trainer.trained_net, test, "test"
    ) if test is not None else None


def _load_best(built: Built, checkpoints: Path | None) -> None:
    state = None
    if checkpoints is not None and built.data.val is not None and (checkpoints / BEST).exists():
        state = load_checkpoint(checkpoints / BEST, "the best checkpoint")
    state = distributed.share(state)
    if state is None:
        return  # without validation there is no telling which epoch was best: the last one it is
    built.trainer.load_weights(state["model"])
    if built.trainer.ema is not None and state["ema"] is not None:
        built.trainer.ema.module.load_state_dict(state["ema"]["model"])
