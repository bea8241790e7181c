"""Optimizers as a LightningModule gets them: ``self.optimizers()``, and in its optimizer_step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchdeck.core.tasks.lightning import LightningTask, module_hook
from torchdeck.core.training.stepping import StepOptimizer


class LightningOptimizer(StepOptimizer):
    """An optimizer whose step calls the module's hooks, as Lightning's own wrapper does."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        task: LightningTask,
        limit: float | None = None,
        after_backward: Callable[[], None] | None = None,
    ) -> None:
        """``after_backward``: called once the gradients are made, in place of the clipping to ``limit``; of automatic
        optimisation."""
        super().__init__(optimizer, device, False, limit)
        self._task, self._after_backward = task, after_backward

    def step(self, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        """Change the weights, by the gradients that there are or those that ``closure`` makes."""

        def gradients() -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            if self._after_backward is not None:
                self._after_backward()
            else:
                self.average()
                module_hook(self._task.module, "on_before_optimizer_step", self.optimizer)
                self.clip()
            return loss

        made = self.optimizer.step(gradients, **options)
        self.stepped()
        if self._after_backward is None:
            self._task.trainer.global_step += 1
        return made

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """While this lasts, only what this optimizer trains has gradients."""
        module = self._task.module
        module.toggle_optimizer(self)
        try:
            yield
        finally:
            module.untoggle_optimizer(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was, learning rates and all: they are the module's own affair."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])
        self.load_gradients(state.get("gradients", {}))
