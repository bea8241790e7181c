"""``self.log`` of a LightningModule: what it told, and how that becomes the figures of a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.metric_names import figure_of
from torchdeck.core.tasks.metrics import Metric, figures_of

Reduce = str | Callable[[Tensor], Any]


class Log:
    """Stands for ``self.log`` and ``self.log_dict`` in a step, and keeps what was told."""

    def __init__(self) -> None:
        #: Numbers of this step, by our name for them.
        self.values: dict[str, Tensor] = {}
        #: How the numbers of steps make that of a set, where not by their mean.
        self.reduces: dict[str, Reduce] = {}
        #: How many samples a number is of, where the module told it.
        self.sizes: dict[str, int] = {}
        #: Metrics of torchmetrics, which are computed over the set.
        self.metrics: dict[str, Any] = {}
        #: Whether this is training, or which part is evaluated.
        self.mode = "train"
        #: What each figure of a mode is called in the module's own words.
        self.names: dict[tuple[str, str], str] = {}

    def log(
        self,
        name: str,
        value: Any,
        *args: Any,
        reduce_fx: Reduce = "mean",
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Keep a number, or a metric. How it is shown (prog_bar, on_step, logger) is ours to decide.

        Raises UserError for what is neither, and for two names that mean the same figure.
        """
        figure = figure_of(name)
        known = self.names.setdefault((self.mode, figure), name)
        if known != name:
            raise UserError(
                f"self.log: {name!r} and {known!r} are both the figure {figure!r}; call one of them something else."
            )
        if isinstance(value, Mapping):
            self.log_dict({f"{name}_{key}": one for key, one in value.items()}, reduce_fx=reduce_fx)
        elif all(hasattr(value, part) for part in ("update", "compute", "reset")):
            self.metrics[figure] = value
        else:
            self._keep(figure, name, value)
            if reduce_fx not in ("mean", torch.mean):
                self.reduces[figure] = reduce_fx
            if batch_size is not None:
                self.sizes[figure] = int(batch_size)

    def _keep(self, figure: str, name: str, value: Any) -> None:
        try:
            number = value.detach().reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value))
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"self.log({name!r}, ...): {type(value).__name__} is no single number.") from None
        self.values[figure] = number.float()

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Each of them."""
        for name, value in dictionary.items():
            self.log(name, value, **options)

    def take(self) -> dict[str, Tensor]:
        """The numbers of a step, which are forgotten."""
        values, self.values = self.values, {}
        return values

    def computed(self) -> dict[str, float]:
        """The metrics over the set, which begin anew."""
        found: dict[str, float] = {}
        for figure, metric in self.metrics.items():
            found |= figures_of(figure, metric.compute(), f"self.log({figure!r}, ...)")
            metric.reset()
        self.metrics.clear()
        return found


class Logged(Metric):
    """The figures of a set that a module logs: the means of its numbers by samples, or their sum, greatest or least,
    and its metrics over the set."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._values: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, list[int]] = {}

    def take(self, step: Any) -> None:
        """Take what a step told; its loss is a figure, too, where the module logs none."""
        told = dict(step.parts)
        if step.loss is not None:
            told.setdefault("loss", step.loss.detach())
        for name, value in told.items():
            self._values.setdefault(name, []).append(value)
            self._sizes.setdefault(name, []).append(self._log.sizes.get(name, step.size))

    def compute(self) -> dict[str, float]:
        """The figures, the loss first."""
        found = {name: self._reduced(name) for name in sorted(self._values, key=lambda name: name != "loss")}
        return found | self._log.computed()

    def _reduced(self, name: str) -> float:
        values = torch.stack([v.double().cpu() for v in self._values[name]])
        reduce = self._log.reduces.get(name, "mean")
        if reduce == "mean":
            weights = torch.tensor(self._sizes[name], dtype=torch.float64)
            return float((values * weights).sum() / weights.sum())
        if not isinstance(reduce, str):
            return float(reduce(values))
        known: dict[str, Callable[[Tensor], Tensor]] = {"sum": torch.sum, "max": torch.max, "min": torch.min}
        if reduce not in known:
            raise UserError(f"self.log(..., reduce_fx={reduce!r}) is not known; choose mean, sum, max or min.")
        return float(known[reduce](values))
