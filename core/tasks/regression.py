"""Numbers of any shape."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchdeck.core.data.infer import only_0_and_1
from torchdeck.core.data.losses_known import kind_of_loss
from torchdeck.core.errors import UserError
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import Metric, Regression


class RegressionTask(Task):
    """Numbers [B, ...] like the targets'."""

    mirrors = True

    def of_task(self, step: Step) -> list[Metric]:
        """mae, rmse and r2."""
        return [Regression(self._info)]

    def fits(self, step: Step) -> bool:
        """Whether the outputs are numbers like the targets."""
        out, y = step.outputs, step.targets
        if not (isinstance(out, Tensor) and isinstance(y, Tensor)):
            return False
        # Outputs for targets of 0 and 1 with a loss of the user's are logits, not amounts.
        takes = None if self.loss is None else kind_of_loss(self.loss.module or self.loss.function)
        of_numbers = takes == "numbers" or (self.loss is not None and not self.loss.own)
        labels = takes not in (None, "numbers") or (not of_numbers and only_0_and_1(y))
        return out.numel() == y.numel() and not labels

    def in_own_unit(self, values: Any) -> Any:
        """Outputs or targets in the targets' own unit."""
        return self._info.in_own_unit(values)

    def check(self, step: Step) -> None:
        """The outputs must be as many as the targets, unless the loss is the user's own.

        Raises UserError where they are not.
        """
        out, y = step.outputs, step.targets
        if self.loss is not None and not self.loss.own:
            name = self._experiment.model.name
            if not isinstance(out, Tensor):
                raise UserError(
                    f"model.name = {name!r} returned a {type(out).__name__}; a tensor [batch, outputs] is needed.",
                    field="model.name",
                )
            if out.numel() != y.numel() or len(out) != len(y):
                wanted = [step.size, *(self._info.target_shape or (1,))]
                raise UserError(
                    f"model.name = {name!r} returned the shape {list(out.shape)} for a batch of {step.size}; "
                    f"{wanted} is needed, for the targets are numbers (task.name says otherwise).",
                    field="model.name",
                )
        super().check(step)
