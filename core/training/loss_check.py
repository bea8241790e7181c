"""What is looked at in every step, so that nothing trains on with a loss of which nothing is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.base import Step
from torchdeck.core.tasks.training_loss import TrainingLoss


class LossCheck:
    """Looks at the loss of a step and at the gradients that it gives. Looking costs next to nothing: it ends with the
    first parameter that has a gradient, which is the first one of nearly every model."""

    def __init__(self, experiment: Experiment, parameters: Sequence[Tensor], of_model: bool) -> None:
        """``parameters``: those that are trained. ``of_model``: whether the model gives the loss itself."""
        self._parameters = parameters
        self._step = experiment.task.step
        made_by = {
            "task.step": self._step,
            "loss.name": None if of_model else experiment.loss.name,
            "model.name": experiment.model.name,
        }
        self._key, self._name = next((key, name) for key, name in made_by.items() if name is not None)

    def has_graph(self, loss: Tensor | None) -> Tensor:
        """The loss.

        Raises UserError for one without a graph.
        """
        assert loss is not None
        if not loss.requires_grad:
            raise self._error(
                "the loss has no graph: it was detached, made under torch.no_grad or of numbers, or does not depend on "
                "a parameter that is trained"
            )
        return loss

    def untouched(self) -> None:
        """Before the first backward pass of a step: raises UserError where a step of the user's own has left gradients,
        which would be added to those of the loss that it returned."""
        if self._step is not None and any(p.grad is not None for p in self._parameters):
            raise self._error(
                "it called backward() itself and left gradients. A step of (model, batch) returns the loss, of which "
                "backward is called for it; one that needs it on the way calls the model's zero_grad() after it"
            )

    def learns(self) -> None:
        """After the backward passes of a step: raises UserError where no parameter has a gradient."""
        if all(p.grad is None for p in self._parameters):
            raise self._error("the loss does not depend on any parameter that is trained")

    def _error(self, text: str) -> UserError:
        return UserError(f"{self._key} = {self._name!r}: {text}.", field=self._key)


def tell_broadcast(loss: TrainingLoss | None, step: Step, name: str | None, warn: Callable[[str], None]) -> None:
    """Tell of a loss of the user's that sets each output [B, 1] against all targets [B], which is rarely meant."""
    out, y = step.outputs, step.targets
    if loss is None or not loss.own or not (isinstance(out, Tensor) and isinstance(y, Tensor)):
        return
    if out.shape != (*y.shape, 1) and y.shape != (*out.shape, 1):
        return
    try:
        flat = min(out.shape, y.shape, key=len)
        alike = float(loss(out.reshape(flat), y.reshape(flat)))
        found, again = float(loss(out, y)), float(loss(out, y))
    except Exception:
        return  # it needs the shapes as they are
    if found == again and abs(found - alike) > 1e-4 * max(abs(found), abs(alike)):
        warn(
            f"loss.name = {name!r} gives {found:.6g} for outputs of the shape {list(out.shape)} and targets "
            f"of the shape {list(y.shape)}, which PyTorch broadcasts, and {alike:.6g} where both have one shape: make "
            "them alike, with squeeze(-1) or unsqueeze(-1)."
        )
