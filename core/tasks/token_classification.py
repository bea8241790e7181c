"""A class for each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import Metric
from torchdeck.core.tasks.tokens import CountedTokens, classes_last


class TokenClassificationTask(Task):
    """Logits [B, T, C] (or [B, C, T]) of classes [B, T], of which those that are ``task.args.ignore_index`` do not
    count."""

    resizes = False

    @property
    def decides(self) -> str:  # type: ignore[override]
        """Accuracy, where it is counted."""
        return "accuracy" if self.measures else "loss"

    @property
    def _ignored(self) -> int:
        return self._args["ignore_index"]

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Run the model; the classes come last, unless a loss of the user's takes the logits as they are."""
        step = super().forward(net, batch)
        if self.loss is None or not self.loss.own:
            logits = classes_last(step.outputs, step.targets, self._info.classes)
            step.outputs = step.outputs if logits is None else logits
        return step

    def of_task(self, step: Step) -> list[Metric]:
        """Accuracy, f1 and the confusion matrix."""
        return [CountedTokens(self._info.classes, self._ignored)]

    def fits(self, step: Step) -> bool:
        """Whether the outputs are logits of the targets' classes."""
        return self._info.classes > 0 and classes_last(step.outputs, step.targets, self._info.classes) is not None

    @property
    def counts(self) -> bool:
        """Whether right answers are counted while training."""
        return self.measures

    def keep(self, step: Step) -> Any:
        """How many tokens are right, and how many count, on the device."""
        logits = classes_last(step.outputs, step.targets, self._info.classes) if self.measures else None
        if logits is None:
            return None
        counted = step.targets != self._ignored
        return torch.stack([((logits.detach().argmax(-1) == step.targets) & counted).sum(), counted.sum()])

    def count_right(self, kept: list[Any]) -> tuple[float, float]:
        """Right tokens, and those that count."""
        right, counted = torch.stack(kept).sum(0).tolist()
        return float(right), float(counted)

    def weight(self, batch: Batch) -> Tensor | int:
        """What the loss says; of a model that gives its loss, how many tokens count."""
        if self.loss is not None:
            return super().weight(batch)
        y = self.targets(batch)
        return (y != self._ignored).sum() if isinstance(y, Tensor) else batch.size

    def check(self, step: Step) -> None:
        """The outputs must be logits of the tokens' classes, unless the loss is the user's own.

        Raises UserError where they are not.
        """
        y, classes = step.targets, self._info.classes
        if self.loss is not None and not self.loss.own and not self.fits(step):
            wanted = [*y.shape, classes] if isinstance(y, Tensor) else f"a class for each of {shapes(y)}"
            raise UserError(
                f"model.name = {self._experiment.model.name!r} returned {shapes(step.outputs)} for the targets "
                f"{shapes(y)}; {wanted} is needed.",
                field="model.name",
            )
        super().check(step)
