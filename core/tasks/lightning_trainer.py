"""What a LightningModule finds where its Lightning Trainer would be: the figures of the training that it reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.errors import UserError
from torchdeck.core.machine import distributed
from torchdeck.core.usercode import writer


class _Part:
    """A part of what Lightning has.

    Raises UserError for an attribute that it has not.
    """

    #: What the module calls it.
    _called = "self.trainer"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            f"The LightningModule reads {self._called}.{name}, which torchdeck, training it without a Lightning "
            "Trainer, has not.",
            field="model.name",
        )


class Logger(_Part):
    """``self.logger``: its ``experiment`` is the run's own SummaryWriter."""

    _called = "self.logger"

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

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run has it (tracking.graph)."""


class _Strategy(_Part):
    """``self.trainer.strategy``: how gradients are made, and what processes tell each other."""

    _called = "self.trainer.strategy"

    def __init__(self) -> None:
        self._lightning_optimizers: list[Any] = []
        #: The module, once it is known.
        self.module: Any = None

    def backward(self, loss: Tensor, optimizer: Any, *args: Any, **options: Any) -> None:
        """What ``self.manual_backward`` calls: the backward of the module between its hooks."""
        self.module.on_before_backward(loss)
        self.module.backward(loss, *args, **options)
        self.module.on_after_backward()

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """The tensors of all processes [P, ...]; of one alone the tensor as it is."""
        size = distributed.world().size
        if size == 1:
            return tensor
        found = [torch.zeros_like(tensor) for _ in range(size)]
        torch.distributed.all_gather(found, tensor.detach().contiguous(), group)
        return torch.stack(found)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all processes."""
        if distributed.world().size > 1:
            torch.distributed.barrier()


def _clip(optimizer: Any, clip_val: float = 0.0, gradient_clip_algorithm: Any = "norm") -> None:
    """What ``self.clip_gradients`` calls: over the parameters of the optimizer, as Lightning's plugin does."""
    if clip_val <= 0:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if gradient_clip_algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, clip_val)
    else:
        torch.nn.utils.clip_grad_norm_(parameters, clip_val)


class LightningTrainer(_Part):
    """Stands where a LightningModule's ``self.trainer`` is. It has what modules commonly read; all else is told."""

    gradient_clip_algorithm = None
    barebones = False
    fast_dev_run = False
    check_val_every_n_epoch = 1
    val_check_interval = 1.0
    num_nodes = 1
    progress_bar_callback = None
    precision_plugin = SimpleNamespace(clip_gradients=_clip)

    def __init__(self, accumulate: int, clip_norm: float | None, log_every: int = 50) -> None:
        world = distributed.world()
        self.current_epoch = self.global_step = self.max_epochs = self.max_steps = 0
        self.num_training_batches: int | float = 0
        self.num_val_batches: list[int] = []
        self.estimated_stepping_batches: int | float = 0
        self.accumulate_grad_batches, self.gradient_clip_val = accumulate, clip_norm
        self.log_every_n_steps = log_every
        self.global_rank, self.local_rank, self.world_size = world.rank, world.local_rank, world.size
        self.num_devices = 1
        self.is_global_zero = world.first
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.callback_metrics: dict[str, Tensor] = {}
        self.training = True
        self.validating = self.testing = self.predicting = self.sanity_checking = False
        self.should_stop = False
        self.is_last_batch = False
        self.logger = Logger()
        self.loggers = [self.logger]
        self.strategy = _Strategy()

    @property
    def evaluating(self) -> bool:
        """Whether a set is evaluated."""
        return self.validating or self.testing

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """The last figures."""
        return self.callback_metrics

    def __deepcopy__(self, memo: dict[int, Any]) -> LightningTrainer:
        return self  # an averaged copy of the module belongs to the same training


def public(kind: type, *made: Any) -> set[str]:
    """The names of what a class and its objects have."""
    found = {name for one in (kind, *made) for name in vars(one)}
    return {name for name in found if not name.startswith("_")}
