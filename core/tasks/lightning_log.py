"""``self.log`` of a LightningModule: what it told, and how that becomes the figures of a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.metric_names import figure_of
from torchdeck.core.tasks.metrics import Metric, figures_of

#: Reductions by name, which ``reduce_fx`` may give as torch's functions, too.
_FUNCTIONS: dict[Any, str] = {torch.mean: "mean", torch.sum: "sum", torch.max: "max", torch.min: "min"}
_KNOWN = tuple(_FUNCTIONS.values())


class Reduced:
    """One figure of a set, made of the values of its batches: their mean by samples, their sum, greatest or least."""

    def __init__(self, reduce: str) -> None:
        self.reduce = reduce
        self._total: Tensor | None = None
        self._weight = 0.0

    def take(self, value: Tensor, size: float) -> None:
        """The value of one more batch, of so many samples; it stays on its device."""
        value = value.double() if value.device.type != "mps" else value
        value = value * size if self.reduce == "mean" else value
        if self._total is None:
            self._total = value
        elif self.reduce in ("max", "min"):
            self._total = (torch.maximum if self.reduce == "max" else torch.minimum)(self._total, value)
        else:
            self._total = self._total + value
        self._weight += size

    def value(self) -> float:
        """The figure."""
        assert self._total is not None
        return float(self._total) / (self._weight if self.reduce == "mean" else 1.0)

    def state(self) -> list[Any]:
        """What a checkpoint keeps."""
        return [self.reduce, self._total, self._weight]

    @classmethod
    def of(cls, state: list[Any]) -> Reduced:
        """Back from a checkpoint."""
        made = cls(state[0])
        made._total, made._weight = state[1], float(state[2])
        return made


class Log:
    """Stands for ``self.log`` and ``self.log_dict`` in a step, and keeps what was told."""

    def __init__(self) -> None:
        #: Numbers of this step, by our name for them.
        self.values: dict[str, Tensor] = {}
        #: How the numbers of steps make that of a set, where not by their mean.
        self.reduces: dict[str, str] = {}
        #: How many samples a number is of, where the module told it.
        self.sizes: dict[str, int] = {}
        #: Metrics of torchmetrics, which are computed over the set.
        self.metrics: dict[str, Any] = {}
        #: Whether this is training, or which part is evaluated.
        self.mode = "train"
        #: Whether a step is made, and not a hook of an epoch: there, numbers are those of steps unless it says so.
        self.in_step = False
        #: What each figure of a mode is called in the module's own words.
        self.names: dict[tuple[str, str], str] = {}
        #: Which figures of the training are told of the whole epoch.
        self.of_epoch: set[str] = set()
        #: What ``self.trainer.callback_metrics`` holds, by the module's own names.
        self.callback_metrics: dict[str, Tensor] = {}
        #: Figures of this epoch of training whose values do not simply have a mean by the samples of steps.
        self._epoch: dict[str, Reduced] = {}

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        *args: Any,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Keep a number, or a metric. How it is shown (prog_bar, logger) is ours to decide.

        Raises UserError for what is neither, and for a reduction that Lightning doesn't know either.
        """
        if isinstance(value, Mapping):
            made = {f"{name}_{key}": one for key, one in value.items()}
            self.log_dict(made, on_step=on_step, on_epoch=on_epoch, reduce_fx=reduce_fx, batch_size=batch_size)
            return
        figure = self._figure(name)
        training = self.mode == "train"
        steps = training and self.in_step if on_step is None else on_step
        if on_epoch or (on_epoch is None and not (training and self.in_step)):
            self.of_epoch.add(figure)
        if all(hasattr(value, part) for part in ("update", "compute", "reset")):
            self.metrics[figure] = value
            now = getattr(value, "_forward_cache", None)
        else:
            self._keep(figure, name, value)
            now = self.values[figure]
            reduce = _reduction(reduce_fx)
            if reduce != "mean":
                self.reduces[figure] = reduce
            if batch_size is not None:
                self.sizes[figure] = int(batch_size)
        if training and steps and isinstance(now, Tensor):
            self.callback_metrics[name] = now
            if figure in self.of_epoch:
                self.callback_metrics[f"{name}_step"] = now

    def _figure(self, name: str) -> str:
        """Our name for a figure: the module's own where two would be the same (``loss`` and ``train_loss``)."""
        figure = figure_of(name)
        if self.names.setdefault((self.mode, figure), name) == name:
            return figure
        figure = name.replace("/", "_")
        known = self.names.setdefault((self.mode, figure), name)
        if known != name:
            raise UserError(
                f"self.log: {name!r} and {known!r} are both the figure {figure!r}; call one of them something else."
            )
        return figure

    def _keep(self, figure: str, name: str, value: Any) -> None:
        try:
            number = value.detach().reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value))
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"self.log({name!r}, ...): {type(value).__name__} is no single number.") from None
        self.values[figure] = number.float()

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Each of them."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def take(self) -> dict[str, Tensor]:
        """The numbers of a step, which are forgotten."""
        values, self.values = self.values, {}
        return values

    def forget(self) -> None:
        """What was told in a trial, but for the names."""
        self.values.clear()
        self.metrics.clear()
        self.callback_metrics.clear()
        self._epoch.clear()

    # --- an epoch of training --------------------------------------------------------------------------------------

    def step_made(self, values: Mapping[str, Tensor], size: int) -> None:
        """The numbers of a step of training, of which those are added up here that have no mean by samples."""
        for figure, value in values.items():
            if figure in self.reduces or figure in self.sizes:
                self._add(figure, value, self.sizes.get(figure, size))

    def step_ended(self, size: int) -> None:
        """What hooks have logged after the step itself."""
        for figure, value in self.take().items():
            self._add(figure, value, self.sizes.get(figure, size))

    def _add(self, figure: str, value: Tensor, size: float) -> None:
        kept = self._epoch.get(figure)
        if kept is None:
            kept = self._epoch[figure] = Reduced(self.reduces.get(figure, "mean"))
        kept.take(value, size)

    def epoch_figures(self) -> dict[str, float]:
        """The figures of the epoch that were added up here, and the metrics; all begin anew."""
        found = {figure: one.value() for figure, one in self._epoch.items()}
        self._epoch.clear()
        return found | self.computed()

    def computed(self) -> dict[str, float]:
        """The metrics over the set, which begin anew."""
        found = self.peeked()
        for metric in self.metrics.values():
            metric.reset()
        self.metrics.clear()
        return found

    def peeked(self) -> dict[str, float]:
        """The metrics over what was seen of the set."""
        found: dict[str, float] = {}
        for figure, metric in self.metrics.items():
            found |= figures_of(figure, metric.compute(), f"self.log({figure!r}, ...)")
        return found

    def told(self, mode: str, figures: Mapping[str, float]) -> None:
        """Figures of an epoch, for ``callback_metrics``."""
        for figure, value in figures.items():
            name = self.names.get((mode, figure))
            if name is None or (mode == "train" and figure not in self.of_epoch):
                continue
            number = torch.tensor(float(value))
            self.callback_metrics[name] = number
            if f"{name}_step" in self.callback_metrics:
                self.callback_metrics[f"{name}_epoch"] = number

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in mid-epoch keeps."""
        return {
            "epoch": {figure: one.state() for figure, one in self._epoch.items()},
            "callback_metrics": dict(self.callback_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to where a checkpoint was."""
        self._epoch = {figure: Reduced.of(one) for figure, one in state["epoch"].items()}
        self.callback_metrics.update(state["callback_metrics"])


class Logged(Metric):
    """The figures of a set that a module logs: the means of its numbers by samples, or their sum, greatest or least,
    and its metrics over the set."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._found: dict[str, Reduced] = {}

    def take(self, step: Any) -> None:
        """Take what a step told; its loss is a figure, too, where the module logs none."""
        told = dict(step.parts)
        if step.loss is not None:
            told.setdefault("loss", step.loss.detach())
        for name, value in told.items():
            kept = self._found.setdefault(name, Reduced(self._log.reduces.get(name, "mean")))
            kept.take(value, self._log.sizes.get(name, step.size))

    def so_far(self) -> dict[str, float]:
        """The figures of what was seen of the set, the loss first."""
        values = {name: one.value() for name, one in self._found.items()}
        return dict(sorted(values.items(), key=lambda pair: pair[0] != "loss")) | self._log.peeked()

    def compute(self) -> dict[str, float]:
        """The figures, the loss first; the metrics begin anew."""
        found = self.so_far()
        self._log.computed()
        return found


def _reduction(given: Any) -> str:
    """The name of a ``reduce_fx``.

    Raises UserError for another.
    """
    name = given.lower() if isinstance(given, str) else _FUNCTIONS.get(given, getattr(given, "__name__", ""))
    if name not in _KNOWN:
        raise UserError(
            f"self.log(..., reduce_fx={given!r}) is not known; choose mean, sum, max or min, or log a metric of "
            "torchmetrics."
        )
    return str(name)
