"""The steps of a LightningModule, tried on a few real samples before the training, with a copy of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes, to_device
from torchdeck.core.errors import Error, UserError, first_line, ran_out_of_memory
from torchdeck.core.tasks.lightning import LightningTask, has, module_hook
from torchdeck.core.training.evaluation import Tried, evaluating
from torchdeck.core.training.random import unchanged_random_states
from torchdeck.core.training.trainer import Trainer
from torchdeck.core.usercode import user_errors

#: Hooks that may log what a trial does not see.
_LOG_LATER = ("on_train_epoch_end", "on_train_batch_end", "on_train_epoch_start", "on_train_start")


def try_lightning(trainer: Trainer, task: LightningTask, warn: Callable[[str], None]) -> Tried:
    """Try the steps, and tell what of the experiment is not used; which figures there will be.

    Raises UserError for a training_step without a loss, for what is not measured, and for a scheduler that goes by a
    figure that is never logged.
    """
    batch = Batch(*(to_device(part, trainer.device) for part in trainer.data.sample))
    figures = _tried(trainer, task, batch, warn)
    task.decides = next(iter(figures), "loss")
    trainer.monitor.auto = task.decides
    of_own = "its own optimizer and schedule" if task.trainer.optimizers else "no optimizer of its own"
    warn(
        f"model.name = {trainer.experiment.model.name!r} is a LightningModule with {of_own}"
        f"{': [optimizer] and [schedule] are not used' if task.trainer.optimizers else '; [optimizer] is used'}. It is "
        "trained without a Lightning Trainer, and without a sanity check of the validation"
        f"{'' if trainer.data.val is not None else '; there is no validation'}."
    )
    # Hooks at the end of an epoch, and steps that optimise by hand, may log more.
    return Tried(tuple(figures), (trainer.monitor.name,))


def _tried(trainer: Trainer, task: LightningTask, batch: Batch, warn: Callable[[str], None]) -> list[str]:
    net: Any = trainer.net
    try:
        copy.deepcopy(net)
    except Exception as error:
        warn(
            f"model.name = {trainer.experiment.model.name!r} can't be copied ({type(error).__name__}: "
            f"{first_line(error)}); its steps are not tried before the training."
        )
        return []
    figures: list[str] = []
    with unchanged_random_states(trainer.device), _raising(trainer, batch), user_errors():
        if not task.makes_own_backward:
            figures = _try_training(task, net, batch)
        if trainer.data.val is not None:
            figures = _try_validation(trainer, task, copy.deepcopy(net), batch)
    if not task.makes_own_backward:
        _refuse_unseen_figures(trainer, task)
    task.log.forget()
    return figures


def _try_training(task: LightningTask, net: Any, batch: Batch) -> list[str]:
    try:
        step = _train_once(task, copy.deepcopy(net), batch)
    except Error:
        raise
    except Exception:
        # It may need what its hooks make before the first step.
        tried = copy.deepcopy(net)
        with task.attached(tried):
            for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
                module_hook(tried, hook)
        step = _train_once(task, tried, batch)
    task.add_loss(step)
    return ["loss", *step.parts, *task.log.computed()]


def _train_once(task: LightningTask, tried: Any, batch: Batch) -> Any:
    task.log.in_step = True
    tried.training = True
    return task.forward(tried, task.transferred(tried, batch))


def _try_validation(trainer: Trainer, task: LightningTask, tried: Any, batch: Batch) -> list[str]:
    """As Lightning's sanity check does: with the hooks around it, which may log, too."""
    task.trainer.sanity_checking = True
    try:
        with evaluating(tried), torch.no_grad():
            task.evaluation_began(tried, "val")
            step = task.forward(tried, batch)
            for metric in task.metrics(step, step.size):
                metric.take(step)
            late = task.evaluation_ended(tried)
    finally:
        task.trainer.sanity_checking = False
    trainer.evaluator.refuse_without_outputs(step)
    found = ["loss"] if step.loss is not None or "loss" in late else []
    return list(dict.fromkeys([*found, *step.parts, *late, *task.log.computed()]))


def _refuse_unseen_figures(trainer: Trainer, task: LightningTask) -> None:
    """Raises UserError for a scheduler that goes by a figure that is never logged."""
    seen = set(task.log.names.values())
    for one in task.trainer.lr_scheduler_configs:
        asked = (one.monitor or "").removesuffix("_epoch").removesuffix("_step")
        known = one.monitor in seen or asked in seen or any(has(task.module, hook) for hook in _LOG_LATER)
        if one.reduce_on_plateau and one.strict and not known:
            raise UserError(
                f"configure_optimizers of {trainer.experiment.model.name!r} gave a {type(one.scheduler).__name__} that "
                f"goes by {one.monitor!r}, which is not logged; there are {', '.join(sorted(seen)) or 'none'}.",
                field="model.name",
            )


@contextlib.contextmanager
def _raising(trainer: Trainer, batch: Batch) -> Iterator[None]:
    """What the model itself raises, where it is one of an installed package: a UserError."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise UserError(
            f"model.name = {trainer.experiment.model.name!r} raised in its step, given a batch of the shape "
            f"{shapes(batch.given)}: {type(error).__name__}: {first_line(error)}.",
            field="model.name",
        ) from None
