"""One step of the optimizer: forward, loss, backward, clipping, update, average."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.transforms import resize
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.models.build import logits_of
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.losses import TrainingLoss
from torchdeck.core.training.optimizers import build_optimizer
from torchdeck.core.training.window import AccumulationWindow

#: Seconds between two measurements of the gradients' norm where no clipping needs it: it reads every gradient again.
_NORM_EVERY = 0.25


class NotFinite(Exception):
    """The loss of a step is NaN or infinite; the weights are as they were."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


class OptimizerStep:
    """What a step changes (weights, optimizer, gradient scaler, average) and how."""

    def __init__(self, experiment: Experiment, net: nn.Module, loss: TrainingLoss, device: torch.device) -> None:
        options = experiment.trainer
        self.net, self.loss = net, loss
        self.precision = devices.precision(options.precision, device)
        self.optimizer = build_optimizer(experiment.optimizer, net, device, loss.parameters)
        self.ema = build_ema(net, options.ema)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaler)
        self.channels_last = any(
            p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            for p in net.parameters()
        )
        #: On the device, where it was measured since it was last asked for.
        self._gradient_norm: Tensor | None = None
        self._device = device
        self._limit = options.clip_norm
        self._image_sizes = options.image_sizes
        self._world = distributed.world()
        self._parallel = distributed.distribute_model(net, device)
        self._forward: Callable[[Tensor], Any] = torch.compile(self._parallel) if options.compile else self._parallel
        self._parameters = [*(p for p in net.parameters() if p.requires_grad), *loss.parameters]
        self._norm_at = 0.0

    def __call__(
        self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool, counts_right: bool
    ) -> None:
        """Change the weights by one step and tell ``window`` of it.

        ``done``: how much of the training is behind, 0..1. ``measures``: whether the gradients' norm is wanted.
        ``counts_right``: whether the outputs are kept, to count right answers.
        Raises NotFinite before anything is changed. On a GPU looking at the loss would wait for it; there whoever reads
        the window looks.
        """
        samples = sum(len(y) for _, y in batches)
        weight = sum(self.loss.weight(y) for _, y in batches)
        step_loss: Tensor | None = None
        for number, (x, y) in enumerate(batches, start=1):
            x = self._prepare(x, done)
            with self._unshared_until(number == len(batches)):
                with self.autocast():
                    logits = logits_of(self._forward(x)).float()
                    loss = self.loss(logits, y)
                    if len(batches) > 1:
                        loss = self.loss.share(loss, y, weight)
                if self._device.type == "cpu" and not math.isfinite(loss.item()):
                    raise NotFinite(loss.item())
                self.scaler.scale(loss).backward()
            detached = loss.detach()
            step_loss = detached if step_loss is None else step_loss + detached
            if counts_right:
                window.outputs.append((logits.detach(), y))
        self._clip_and_measure(measures)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        assert step_loss is not None
        window.add(self.loss.told(step_loss, samples), samples, weight)

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
        module, ema = self.loss.module, self.ema
        return {
            "model": self.net.state_dict(),
            "loss": module.state_dict() if module is not None else None,
            "ema": {"model": ema.module.state_dict(), "averaged": ema.n_averaged} if ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was; the optimizer's options stay those of the experiment.

        Raises UserError for an average that was not kept before, and what torch raises where the state does not fit.
        """
        self.net.load_state_dict(state["model"])
        if self.loss.module is not None and state.get("loss") is not None:
            self.loss.module.load_state_dict(state["loss"])
        if self.ema is not None:
            if state["ema"] is None:
                raise UserError("--resume: trainer.ema was not used before; it can't begin in mid-run.")
            self.ema.module.load_state_dict(state["ema"]["model"])
            self.ema.n_averaged.copy_(state["ema"]["averaged"])
        chosen = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, chosen, strict=True):
            group.update(options)
        if self.precision.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _unshared_until(self, last: bool) -> AbstractContextManager[Any]:
        """Among several processes, gradients are averaged once a step: with its last batch."""
        if self._world.size == 1 or last:
            return nullcontext()
        return self._parallel.no_sync()  # type: ignore[operator]

    def _prepare(self, x: Tensor, done: float) -> Tensor:
        """Progressive resizing and the memory layout."""
        if x.ndim == 4:
            size = next((s.size for s in self._image_sizes if done < s.until), None)
            if size is not None:
                x = resize(x, size)
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
        return x

    def _clip_and_measure(self, wanted: bool) -> None:
        now = time.perf_counter()
        measuring = wanted and now - self._norm_at >= _NORM_EVERY
        if self._limit is None and not measuring:
            return
        self._norm_at = now
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._limit, norm)
        self._gradient_norm = norm
