"""What a LightningModule finds where its Lightning Trainer would be: the figures of the training that it reads."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from torchdeck.core.errors import UserError
from torchdeck.core.machine import distributed
from torchdeck.core.usercode import writer


class _Logger:
    """``self.logger``: its ``experiment`` is the run's own SummaryWriter."""

    @property
    def experiment(self) -> Any:
        """What ``add_scalar``, ``add_image`` and the like are called on."""
        return writer.current()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Figures for TensorBoard."""
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the experiment has them."""


class LightningTrainer:
    """Stands where a LightningModule's ``self.trainer`` is. It has what modules commonly read; all else is told.

    Raises UserError for an attribute that it has not.
    """

    gradient_clip_algorithm = None
    barebones = False
    fast_dev_run = False
    sanity_checking = False
    datamodule = None
    check_val_every_n_epoch = 1
    val_check_interval = 1.0
    num_nodes = 1

    def __init__(self, accumulate: int, clip_norm: float | None) -> None:
        world = distributed.world()
        self.current_epoch = self.global_step = self.max_epochs = self.max_steps = 0
        self.num_training_batches: int | float = 0
        self.estimated_stepping_batches: int | float = 0
        self.accumulate_grad_batches, self.gradient_clip_val = accumulate, clip_norm
        self.global_rank, self.local_rank, self.world_size = world.rank, world.local_rank, world.size
        self.num_devices = 1
        self.is_global_zero = world.first
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.training = True
        self.validating = self.testing = self.predicting = False
        self.should_stop = False
        self.logger = _Logger()
        self.loggers = [self.logger]
        self.strategy = SimpleNamespace(
            _lightning_optimizers=self.optimizers, backward=lambda loss, _, *a, **k: loss.backward(*a, **k)
        )

    @property
    def logged_metrics(self) -> dict[str, torch.Tensor]:
        """The last figures."""
        return self.callback_metrics

    def __deepcopy__(self, memo: dict[int, Any]) -> LightningTrainer:
        return self  # an averaged copy of the module belongs to the same training

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            f"The LightningModule reads self.trainer.{name}, which torchdeck, training it without a Lightning Trainer, "
            "has not.",
            field="model.name",
        )


#: What of a trainer's a module may read.
KNOWN = {
    *(name for name in vars(LightningTrainer) if not name.startswith("__")),
    *vars(LightningTrainer(1, None)),
}

#: Hooks of a module that are not called.
_NOT_CALLED = (
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
    "on_load_checkpoint",
    "on_save_checkpoint",
    "configure_callbacks",
    "configure_sharded_model",
    "optimizer_zero_grad",
    "lr_scheduler_step",
    "training_epoch_end",
    "validation_epoch_end",
    "test_epoch_end",
)


def refuse_unsupported(module: nn.Module, name: str) -> None:
    """Raises UserError for what a module's own code needs and has not: parts of its trainer, and hooks that are not
    called. It is told from the text of its class, before the training."""
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.split(".")[0].startswith(_FOREIGN)]
    for kind in kinds:
        own = next((hook for hook in _NOT_CALLED if hook in vars(kind)), None)
        if own is not None:
            raise UserError(
                f"model.name = {name!r}: its {own} would not be called; torchdeck trains a LightningModule without a "
                "Lightning Trainer.",
                field="model.name",
            )
        unknown = sorted(_read_of_trainer(kind) - KNOWN)
        if unknown:
            raise UserError(
                f"model.name = {name!r} needs its trainer: it reads self.trainer.{unknown[0]}, which torchdeck has "
                "not.",
                field="model.name",
            )


#: Packages whose classes are no code of the user's.
_FOREIGN = ("lightning", "pytorch_lightning", "torch", "builtins", "abc", "typing")


def _read_of_trainer(kind: type) -> set[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return set()
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "trainer"
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "self"
    }
