"""Optimizers as a step of the user's own gets them: it calls their ``zero_grad``, ``backward`` and ``step``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.machine import distributed
from torchdeck.core.training.optimizers import restore


def _nothing() -> None:
    return None


class StepOptimizer:
    """One optimizer in the hands of a step of the user's own.

    ``step()`` averages the gradients over all processes, clips them (trainer.clip_norm) and changes the weights;
    under fp16 the loss is scaled by ``backward(loss)``, which stands for the backward of the loss itself.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, device: torch.device, scales: bool, limit: float | None = None
    ) -> None:
        """``scales``: whether gradients need scaling, as with fp16."""
        self.optimizer = optimizer
        #: How many steps it has made.
        self.steps = 0
        #: The norm of the gradients of the last step, where it was measured.
        self.gradient_norm: Tensor | None = None
        #: Whether the norm is wanted though nothing is clipped.
        self.measures = False
        self._limit = limit
        self._scaler = torch.amp.GradScaler(device.type, enabled=scales)
        self._scaled = False
        #: The gradients that the last step has used, as they were then.
        self._used: dict[int, tuple[TensorWeakRef, int]] = {}

    def __getattr__(self, name: str) -> Any:
        """What else an optimizer has: ``param_groups``, ``state``, ``defaults``."""
        return getattr(self.__dict__["optimizer"], name)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none)
        self._scaled = False

    def backward(self, loss: Tensor, **options: Any) -> None:
        """The backward of the loss, scaled where the precision needs it."""
        self._scaled = True
        self._scaler.scale(loss).backward(**options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the weights.

        Raises UserError for unscaled gradients of fp16.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._scaler.is_enabled() and not self._scaled:
            raise UserError(
                "With fp16 gradients need scaling: call backward(loss) of the optimizer instead of that of the loss, "
                "or set trainer.precision = 'bf16' or 'fp32'.",
                field="trainer.precision",
            )
        self.average()
        self.clip()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.stepped()
        return loss

    def stepped(self) -> None:
        """Count a step."""
        self.steps += 1
        self._used.clear()
        for at, parameter in enumerate(self._parameters()):
            gradient = parameter.grad
            if gradient is not None:
                self._used[at] = TensorWeakRef(gradient), gradient._version

    def gradients(self, everything: bool = False) -> dict[int, Tensor]:
        """The gradients that a step is yet to use, by the place of their parameter: somebody adds them up by hand.
        ``everything``: also those that one has used."""
        found = {}
        for at, parameter in enumerate(self._parameters()):
            gradient = parameter.grad
            if gradient is None:
                continue
            used, version = self._used.get(at, (_nothing, 0))
            if everything or gradient._version != version or used() is not gradient:
                found[at] = gradient
        return found

    def load_gradients(self, kept: Mapping[int, Tensor]) -> None:
        """Gradients back from a checkpoint."""
        for at, parameter in enumerate(self._parameters()):
            if at in kept:
                parameter.grad = kept[at].to(parameter.device, copy=True)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def average(self) -> None:
        """Make the gradients those of all processes together."""
        distributed.average_gradients(self._parameters())

    def clip(self) -> None:
        """Clip the gradients, and measure their norm where that is wanted."""
        if self._limit is None and not self.measures:
            return
        parameters = self._parameters()
        self._scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._limit, norm)
        self.gradient_norm = norm

    def state_dict(self) -> dict[str, Any]:
        """All that steps change. It shares the live tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "steps": self.steps,
            "gradients": self.gradients(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was; the optimizer's options stay those of the experiment."""
        restore(self.optimizer, state["optimizer"])
        self.steps = int(state["steps"])
        self.load_gradients(state.get("gradients", {}))
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


class Optimizers(Mapping[str, StepOptimizer]):
    """The optimizers of several parts: ``optimizers.generator`` or ``optimizers["generator"]``."""

    def __init__(self, parts: Mapping[str, StepOptimizer]) -> None:
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> StepOptimizer:
        """The optimizer of that part.

        Raises UserError where there is none.
        """
        found = self._parts.get(name)
        if found is None:
            raise UserError(
                f"There is no optimizer of {name!r} (a part without a parameter to train has none); "
                f"{did_you_mean(name, list(self._parts))}",
                field="optimizer.parts",
            )
        return found

    def __getattr__(self, name: str) -> StepOptimizer:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class Groups(torch.optim.Optimizer):
    """The parameter groups of several optimizers, for who sets learning rates; the first optimizer's is the one that is
    shown."""

    def __init__(self, optimizers: list[StepOptimizer]) -> None:
        self._optimizers = optimizers
        self.defaults = optimizers[0].optimizer.defaults
        self.state = {}  # type: ignore[assignment]
        # torch's schedulers warn where nobody has called the step of the optimizer that they were given.
        self._opt_called = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """All of them, as they stand: loading a state makes new ones."""
        return [group for one in self._optimizers for group in one.optimizer.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing: the step of the user's own steps its optimizers."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for one in self._optimizers:
            one.zero_grad(set_to_none)
