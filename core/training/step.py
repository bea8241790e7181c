"""One step of the optimizer: forward, loss, backward, clipping, update, average."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.transforms import resize
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.tasks.base import Task
from torchdeck.core.training import sharding
from torchdeck.core.training.compiling import Compiling
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.loss_check import LossCheck
from torchdeck.core.training.optimizers import build_optimizer, restore
from torchdeck.core.training.own_optimizers import needs_closure
from torchdeck.core.training.own_schedules import build_schedule
from torchdeck.core.training.schedules import Schedules
from torchdeck.core.training.window import AccumulationWindow

#: Seconds between two measurements of the gradients' norm where no clipping needs it: it reads every gradient again.
_NORM_EVERY = 0.25


class NotFinite(Exception):
    """The loss of a step, or another figure of it, is NaN or infinite."""

    def __init__(self, value: float, name: str = "loss", changed: bool = False) -> None:
        """``changed``: whether the step may have changed the weights before."""
        super().__init__(value)
        self.value, self.name, self.changed = value, name, changed


def ema_state(ema: AveragedModel | None) -> dict[str, Any] | None:
    """What a checkpoint keeps of an average."""
    return {"model": ema.module.state_dict(), "averaged": ema.n_averaged} if ema is not None else None


def load_ema(ema: AveragedModel | None, state: dict[str, Any] | None) -> None:
    """An average back from a checkpoint.

    Raises UserError for one that was not kept before.
    """
    if ema is None:
        return
    if state is None:
        raise UserError("--resume: trainer.ema was not used before; it can't begin in mid-run.")
    ema.module.load_state_dict(state["model"])
    ema.n_averaged.copy_(state["averaged"])


class OptimizerStep:
    """What a step changes (weights, optimizer, gradient scaler, average) and how."""

    def __init__(
        self,
        experiment: Experiment,
        net: nn.Module,
        task: Task,
        device: torch.device,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``tell`` hears what is decided on the way."""
        options = experiment.trainer
        self.net, self.task = net, task
        self.precision = devices.precision(options.precision, device)
        own = task.loss.parameters if task.loss is not None else []
        self._device = device
        self.channels_last = any(
            p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            for p in net.parameters()
        )
        #: Whether each process keeps but a part of each weight.
        self.sharded = sharding.is_asked_for(experiment)
        if self.sharded:
            sharding.refuse_unable(experiment, task, self.precision.scaler)
            sharding.shard(net, device)
        self.optimizer = self.build_optimizer(experiment, net, own)
        #: Whether a step of the optimizer asks for the loss again, as a line search does.
        self._needs_closure = needs_closure(self.optimizer)
        if self._needs_closure and self.precision.scaler:
            raise UserError(
                f"optimizer.name = {experiment.optimizer.name!r} asks for the loss again in each step, which does not "
                "go with the gradient scaler of fp16; set trainer.precision to fp32 or bf16.",
                field="trainer.precision",
            )
        self.ema = build_ema(net, options.ema)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaler)
        #: On the device, where it was measured since it was last asked for.
        self._gradient_norm: Tensor | None = None
        self._limit = options.clip_norm
        self._image_sizes = options.image_sizes
        self._world = distributed.world()
        #: A step of the user's own may call anything of the model, of which DistributedDataParallel sees only forward:
        #: there, gradients are averaged once they are complete.
        self._averages = experiment.task.step is not None and self._world.size > 1
        kept = self._averages or self.sharded
        self._parallel = net if kept else self.distribute(net)
        self.compiling = Compiling(self._parallel, options.compile, device, tell)
        self._parameters = [*(p for p in net.parameters() if p.requires_grad), *own]
        self._check = LossCheck(experiment, self._parameters, task.loss is None)
        self._norm_at = 0.0

    def build_optimizer(self, experiment: Experiment, net: nn.Module, own: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over the parameters of the model, and those of a loss of the user's."""
        return build_optimizer(experiment.optimizer, net, self._device, own)

    def distribute(self, net: nn.Module) -> nn.Module:
        """What is called in place of the model, so that gradients are averaged over all processes."""
        return distributed.distribute_model(net, self._device)

    def build_schedule(
        self, experiment: Experiment, total: int, per_epoch: int, tell: Callable[[str], None]
    ) -> Schedules:
        """The schedule of its learning rates."""
        return build_schedule(experiment.schedule, self.optimizer, total, per_epoch, tell)

    def epoch_began(self) -> None:
        """An epoch begins with the next step."""

    def __call__(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        """Change the weights by one step and tell ``window`` of it.

        ``done``: how much of the training is behind, 0..1. ``measures``: whether the gradients' norm is wanted.
        Raises NotFinite before anything is changed. On a GPU looking at the loss would wait for it; there whoever reads
        the window looks.
        """
        with self.compiling.measuring(done):
            self._change(batches, window, done, measures)

    def _change(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        samples = sum(batch.size for batch in batches)
        weight = sum(self.task.weight(batch) for batch in batches)
        told: list[tuple[Tensor, dict[str, Tensor]]] = []

        def gradients() -> float:
            """Make the gradients; returns the loss, for an optimizer with a line search, which asks again."""
            self.optimizer.zero_grad(set_to_none=True)
            kept = [] if told else window.kept
            told.append(self._gradients(batches, kept, done, samples, weight))
            self._clip_and_measure(measures)
            return told[-1][0]  # type: ignore[return-value]

        if self._needs_closure:
            self.optimizer.step(gradients)
        else:
            gradients()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        loss, parts = told[0]
        window.add(self.task.told(loss, samples), samples, weight, parts)

    def _gradients(
        self, batches: list[Batch], kept: list[Any], done: float, samples: int, weight: Tensor | int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the gradients of the batches; returns the loss and its parts. ``kept`` gets what right answers are
        counted of."""
        losses: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with self._unshared_until(number == len(batches)):
                with self.autocast():
                    step = self.task.forward(self.compiling.forward, self._prepare(batch, done))
                    self.task.add_loss(step)
                    loss = self._check.has_graph(step.loss)
                    if len(batches) > 1:
                        loss = self.task.share(loss, batch, weight)
                if isinstance(weight, Tensor) and self._device.type == "cpu" and not weight:
                    raise UserError(
                        "No target of a batch counts: all are ignored (task.args.ignore_index), or of classes of "
                        "weight 0, and there is no loss of none; leave them out, or set a larger trainer.batch_size.",
                        field="trainer.batch_size",
                    )
                if self._device.type == "cpu" and not math.isfinite(loss.item()):
                    raise NotFinite(loss.item())
                if number == 1:
                    self._check.untouched()
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
            for name, part in step.parts.items():
                share = part.detach() * (batch.size / samples)
                parts[name] = parts[name] + share if name in parts else share
            answers = self.task.keep(step)
            if answers is not None:
                kept.append(answers)
        self._check.learns()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), parts

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the precision of the training."""
        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision.dtype)

    def take_gradient_norm(self) -> float | None:
        """The last norm of the gradients that was measured since this was last asked; waits for the device."""
        norm, self._gradient_norm = self._gradient_norm, None
        return None if norm is None else float(norm)

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, for a checkpoint. It shares the live tensors."""
        module = self._loss_module
        return {
            "model": sharding.weights(self.net) if self.sharded else self.net.state_dict(),
            "loss": module.state_dict() if module is not None else None,
            "ema": ema_state(self.ema),
            "optimizer": self._optimizer_state(),
            "scaler": self.scaler.state_dict(),
            "compiled": self.compiling.chosen,
        }

    def _optimizer_state(self) -> dict[str, Any]:
        return sharding.optimizer_state(self.net, self.optimizer) if self.sharded else self.optimizer.state_dict()

    def load_weights(self, weights: dict[str, Any]) -> None:
        """The weights of a checkpoint."""
        if self.sharded:
            sharding.load_weights(self.net, weights)
        else:
            self.net.load_state_dict(weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was; the optimizer's options stay those of the experiment.

        Raises UserError for an average that was not kept before, and what torch raises where the state does not fit.
        """
        self.load_weights(state["model"])
        if self._loss_module is not None and state.get("loss") is not None:
            self._loss_module.load_state_dict(state["loss"])
        load_ema(self.ema, state["ema"])
        if self.sharded:
            sharding.load_optimizer(self.net, self.optimizer, state["optimizer"])
        else:
            restore(self.optimizer, state["optimizer"])
        if self.precision.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.compiling.chosen is None and state.get("compiled") is not None:
            self.compiling.use(state["compiled"])

    def _unshared_until(self, last: bool) -> AbstractContextManager[Any]:
        """Among several processes, gradients are averaged once a step: with its last batch."""
        if self.sharded:
            self.net.set_requires_gradient_sync(last)  # type: ignore[operator]
        if self._world.size == 1 or last or self._averages or self.sharded:
            return nullcontext()
        return self._parallel.no_sync()  # type: ignore[operator]

    @property
    def _loss_module(self) -> nn.Module | None:
        return self.task.loss.module if self.task.loss is not None else None

    def _prepare(self, batch: Batch, done: float) -> Batch:
        """Progressive resizing and the memory layout."""
        x = batch.x
        if not (isinstance(x, Tensor) and x.ndim == 4):
            return batch
        size = next((s.size for s in self._image_sizes if done < s.until), None)
        if size is not None:
            x = resize(x, size)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return batch if x is batch.x else batch._replace(x=x)

    def _clip_and_measure(self, wanted: bool) -> None:
        if self._averages:
            distributed.average_gradients(self._parameters)
            distributed.share_buffers(self.net)
        now = time.perf_counter()
        # Processes that share a model measure together or not at all, and their clocks differ.
        measuring = wanted and now - self._norm_at >= _NORM_EVERY and not self.sharded
        if self._limit is None and not measuring:
            return
        self._norm_at = now
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = sharding.whole(torch.nn.utils.get_total_norm(gradients))
        if self._limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._limit, norm)
        self._gradient_norm = norm
