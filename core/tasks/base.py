"""What a task is: how a batch becomes a loss, and which figures are told of it.

A task is made for one experiment, its data and its model. ``forward`` runs the model, ``add_loss`` makes the loss of
what it gave; training does both, evaluation gives the outputs to the metrics, of which the loss of the set is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import catalog
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import map_tensors, shapes
from torchdeck.core.data.masks import ignored_by
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.metric_names import MEASURED
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.models.calls import caller_of, in_precision_of, logits_of, loss_of
from torchdeck.core.tasks.metrics import LossMetric, Metric, StepLoss
from torchdeck.core.tasks.training_loss import TrainingLoss


@dataclass(slots=True)
class Step:
    """What a model made of a batch, on the device."""

    #: Its outputs, floats as float32: usually logits [B, ...].
    outputs: Any
    #: What they are compared with.
    targets: Any
    #: How many samples.
    size: int
    #: A scalar; None until the loss is added.
    loss: Tensor | None = None
    #: Parts of the loss, and other figures that are means over samples, by name; each has a curve of its own.
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Task:
    """How a batch becomes a loss, and which figures are told. Built-in tasks override what they do otherwise."""

    #: The figure that chooses the best epoch where the user names none.
    decides = "loss"
    #: Whether images may be mirrored and averaged in evaluation, and trained on in smaller sizes.
    mirrors = False
    resizes = True
    #: Whether there is a loss in evaluation: detectors give theirs in training mode only.
    loss_in_evaluation = True
    #: Whether it changes the weights itself, in steps that can't be evaluated.
    makes_own_steps = False
    #: Whether the model says itself which of its modules are in training mode, rather than all.
    keeps_modes = False

    def __init__(
        self,
        experiment: Experiment,
        info: DataInfo,
        net: nn.Module,
        loss: TrainingLoss | None,
        device: torch.device,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``loss``: None where the model gives its loss itself. ``warn`` is told what was taken for granted."""
        self.name = info.task
        self.loss = loss
        self._experiment, self._info, self._device, self._warn = experiment, info, device, warn
        self._args = catalog.find("task", info.task).resolve(experiment.task.args)
        if "ignore_index" in self._args:  # a loss of torch's may say it, too
            self._args["ignore_index"] = ignored_by(experiment)
        self.caller = caller_of(net, experiment.model.name)
        #: Whether the model computes in float64, as its writer has it.
        self._double = any(p.dtype == torch.float64 for p in net.parameters())
        self._net = net
        #: Whether the outputs have the form that the figures of the task are made of; tried before training.
        self.measures = True
        self.begin()

    def begin(self) -> None:
        """What else a task makes ready, once all that it was made for is known."""

    # --- a step ----------------------------------------------------------------------------------------------------

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Run the model; its loss is there only where it gives it itself."""
        targets = self.targets(batch)
        x = batch.x
        if self._double:
            x, targets = (in_precision_of(self._net, part) for part in (x, targets))
        raw = self.caller(net, x, targets if self.loss is None else None)
        if self.loss is None:
            return self._with_loss_of_model(raw, targets, batch.size)
        return Step(floats(self.outputs(raw)), targets, batch.size)

    def one_call(self, batch: Batch) -> Any:
        """The inputs of one call of the model, as its summary makes it."""
        return batch.x

    def outputs(self, raw: Any) -> Any:
        """What of the model's output the loss and the figures are made of."""
        if self.loss is not None and self.loss.takes_all and not hasattr(raw, "logits"):
            return raw
        return logits_of(raw)

    def targets(self, batch: Batch) -> Any:
        """What the outputs are compared with."""
        return batch.y

    def _with_loss_of_model(self, raw: Any, targets: Any, size: int) -> Step:
        found = loss_of(raw)
        if found is None:
            return Step(floats(logits_of(raw)), targets, size)
        loss, parts = found
        outputs = logits_of(raw)
        return Step(floats(outputs), targets, size, loss.float(), parts)

    def add_loss(self, step: Step) -> None:
        """Make the loss of the outputs, unless it is there.

        Raises UserError where there is none.
        """
        if step.loss is not None:
            return
        if self.loss is None:
            raise UserError(
                f"model.name = {self._experiment.model.name!r} gave {shapes(step.outputs)} and no loss; name one in "
                "loss.name, or make it in a step of your own (task.step).",
                field="loss.name",
            )
        step.loss, step.parts = self.loss.with_parts(step.outputs, step.targets)

    def weight(self, batch: Batch) -> Tensor | int:
        """What the loss of a batch counts for among those of others: its samples, or the weights of its targets."""
        return self.loss.weight(self.targets(batch), batch.size) if self.loss is not None else batch.size

    def weight_of_step(self, step: Step) -> Tensor | int:
        """The same, where the model gives the loss."""
        return step.size

    def share(self, loss: Tensor, batch: Batch, total: Tensor | float) -> Tensor:
        """The part of a batch in the loss of the step that several batches make together; ``total``: of their
        weights."""
        if self.loss is not None and self.loss.kind == "sum":
            return loss
        weight = self.weight(batch)
        part = loss * (weight / total)
        # Where all targets are ignored there is no loss, which torch calls NaN.
        return part if isinstance(weight, int) else torch.where(weight > 0, part, 0.0)

    def told(self, loss: Tensor, samples: int) -> Tensor:
        """The loss of a step as it is told: a sum over the batch as its mean over samples."""
        return loss / samples if self.loss is not None and self.loss.kind == "sum" else loss

    # --- figures ---------------------------------------------------------------------------------------------------

    def metrics(self, step: Step, samples: int) -> list[Metric]:
        """The metrics of an evaluation of so many samples, by what the model made of the first batch; the loss is the
        first."""
        loss: Metric = LossMetric(self.loss, samples) if self.loss is not None else StepLoss(self.weight_of_step)
        if not self.fits(step):
            return [loss]
        figures = self.of_task(step)
        for metric in figures:
            metric.of_probabilities = self.takes_probabilities(step.outputs)
        return [loss, *figures]

    def takes_probabilities(self, outputs: Any) -> bool:
        """Whether outputs that stand for yes or no are probabilities and no logits: those of BCELoss, or as the user
        says."""
        said = self._args.get("probabilities")
        known = self.loss is not None and isinstance(self.loss.module, nn.BCELoss)
        return (known if said is None else said) and self.stands_for_yes(outputs)

    def stands_for_yes(self, outputs: Any) -> bool:
        """Whether each output is one of yes or no."""
        return False

    def as_logits(self, outputs: Any) -> Any:
        """The logits of outputs, which may be probabilities."""
        return outputs.logit() if self.takes_probabilities(outputs) else outputs

    def of_task(self, step: Step) -> list[Metric]:
        """The figures of the task itself."""
        return []

    def fits(self, step: Step) -> bool:
        """Whether the outputs have the form that the figures of the task are made of."""
        return self.measures

    def in_own_unit(self, values: Any) -> Any:
        """Outputs or targets in the targets' own unit."""
        return values

    def keep(self, step: Step) -> Any:
        """What is kept of a training step to count right answers of, on the device; None: nothing is counted."""
        return None

    def count_right(self, kept: list[Any]) -> tuple[float, float]:
        """Right answers and how many there were, in what was kept of several steps; this waits for the device."""
        return 0.0, 0.0

    #: Whether something is shown in words after each epoch.
    writes = False

    def text(self, net: Callable[..., Any], epoch: int) -> str | None:
        """What is shown in words after an epoch; None: nothing. ``net`` is in evaluation mode; random states are put
        back afterwards."""
        return None

    @property
    def counts(self) -> bool:
        """Whether right answers are counted while training."""
        return False

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures of the task."""
        return MEASURED[self.name]

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """What a model made of mirror images as if they were the images themselves."""
        return outputs

    def describe(self, outputs: Any) -> list[dict[str, Any]] | None:
        """What the outputs say of each sample, as plain values by name, for predictions; None where the task has no
        words for it."""
        return None

    # --- what it hears of the training --------------------------------------------------------------------------------

    def planned(self, trainer: Any) -> None:
        """How long the training will be is known; its step is yet to be built."""

    def fit_began(self, trainer: Any) -> None:
        """Before the first step."""

    def epoch_began(self, trainer: Any) -> None:
        """Before the first step of an epoch."""

    def epoch_figures(self) -> dict[str, float]:
        """What else it tells of an epoch of training."""
        return {}

    def epoch_ended(self, trainer: Any, train: Mapping[str, float], val: Mapping[str, float]) -> dict[str, float]:
        """After an epoch of training and its evaluation, which gave these figures; what else it tells of it."""
        return {}

    def fit_ended(self) -> None:
        """After the last step."""

    def evaluation_began(self, net: Any, part: str) -> None:
        """Before the first batch of an evaluation of ``net`` on that part of the data."""

    def evaluation_ended(self, net: Any) -> dict[str, Tensor]:
        """After its last batch; figures that came at the end, in place of those of the same names."""
        return {}

    def evaluated(self) -> None:
        """Once the figures of an evaluation are made."""

    # --- before training -------------------------------------------------------------------------------------------

    def check(self, step: Step) -> None:
        """Look at what the model made of a few samples, before training.

        Raises UserError for a misfit.
        """
        if not self.fits(step):
            self.measures = False
            left_out = ", ".join(n for n in self.figures if n != "loss")
            if left_out:
                shape = list(step.outputs.shape[1:]) if isinstance(step.outputs, Tensor) else shapes(step.outputs)
                self._warn(
                    f"The outputs have the shape {shape} and are judged by the loss alone: {left_out} are not measured."
                )
        elif self._may_be_probabilities(logits_of(step.outputs)):
            self._warn(
                "The outputs lie within 0 and 1, and are taken for logits; task.args.probabilities = true says that "
                "they are probabilities, and false that they are not."
            )

    def _may_be_probabilities(self, outputs: Any) -> bool:
        """Whether outputs of yes or no could be probabilities, for all that is known of a loss of the user's."""
        known = self.takes_probabilities(outputs) or (self.loss is not None and not self.loss.own)
        if known or self._args.get("probabilities") is not None or not self.stands_for_yes(outputs):
            return False
        return isinstance(outputs, Tensor) and bool(((outputs >= 0) & (outputs <= 1)).all())


def floats(outputs: Any) -> Any:
    """Floats of 16 bits, of autocast, as float32."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.dtype in _HALF else outputs
    return map_tensors(lambda t: t.float() if t.dtype in _HALF else t, outputs)


_HALF = (torch.float16, torch.bfloat16)
