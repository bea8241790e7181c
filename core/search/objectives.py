"""What a search seeks: metrics of the validation set, and what a model costs."""

from __future__ import annotations

from dataclasses import dataclass

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import metric_names as names
from torchdeck.core.experiment.schema import Experiment

#: Measured on the trained model, not on data; of all less is better.
COSTS = ("parameters", "latency", "seconds")


@dataclass(frozen=True)
class Objective:
    """A metric of the best epoch's validation, or a cost; ``higher``: more of it is better."""

    name: str
    higher: bool

    @property
    def text(self) -> str:
        """As it is written in an experiment, and in a trainer's ``best``."""
        return f"{'maximize' if self.higher else 'minimize'} {self.name}"

    @property
    def cost(self) -> bool:
        """Whether it is a cost of the model."""
        return self.name in COSTS


def objectives(experiment: Experiment) -> tuple[Objective, ...]:
    """The objectives of an experiment's search.

    Raises UserError for what can't be one.
    """
    found = tuple(_objective(text, experiment) for text in experiment.search.objectives)
    if not found:
        raise UserError("search.objectives is empty; name at least one metric.", field="search.objectives")
    twice = next((one.name for one in found if sum(o.name == one.name for o in found) > 1), None)
    if twice is not None:
        raise UserError(f"search.objectives names {twice!r} twice.", field="search.objectives")
    if found[0].cost and len(found) == 1 and experiment.search.function is None:
        raise UserError(
            f"search.objectives = ['{found[0].name}'] alone seeks the least model, whatever it has learned; name "
            f"a metric first.",
            field="search.objectives",
        )
    if len(found) > 1 and experiment.pruner.name not in ("auto", "none"):
        raise UserError(
            f"pruner.name = {experiment.pruner.name!r} with {len(found)} objectives: Optuna prunes by one "
            "objective only; leave the pruner out, or name one objective.",
            field="pruner.name",
        )
    return found


def with_directions(experiment: Experiment) -> Experiment:
    """The experiment with the directions written out that the user's own metrics tell (``higher_is_better``, as
    torchmetrics has it) and their names don't. It runs their code.

    Raises UserError or UserCodeError for a metric that can't be loaded.
    """
    texts = tuple(_directed(text, experiment) for text in experiment.search.objectives)
    if texts == experiment.search.objectives:
        return experiment
    return experiment.model_copy(update={"search": experiment.search.model_copy(update={"objectives": texts})})


def _directed(text: str, experiment: Experiment) -> str:
    tracking = experiment.tracking
    own = dict(zip(tracking.metric_names, tracking.metrics, strict=True))
    name, higher = names.watched(experiment.trainer.monitor if text == "auto" else text, list(own))
    whole = names.whole_of(name, own)
    if higher is not None or whole is None:
        return text
    import torch

    from torchdeck.core.tasks.user_metrics import UserMetric

    told = UserMetric(own[whole], torch.device("cpu")).higher_is_better
    return text if told is None else Objective(name, told).text


def _objective(text: str, experiment: Experiment) -> Objective:
    name, higher = names.watched(text)
    direction = text.split()[0] if " " in text.strip() else ""
    if name == "auto":
        name, higher = _usual(experiment)
    part, metric = names.metric(name)
    if name not in COSTS and part in ("test", "train", "last"):
        why = "the test set is read once, at the end" if part == "test" else "a model is chosen by its best validation"
        raise UserError(
            f"search.objectives: {text!r} can't be sought: {why}; name the validation's metric, such as {metric!r}.",
            field="search.objectives",
        )
    if not direction and name not in (*COSTS, "auto"):
        higher = names.direction_of(metric, experiment.tracking.metric_names)
    if name in COSTS and not direction:
        higher = False
    if higher is None:
        raise UserError(
            f"search.objectives: it is not known whether more of {text!r} is better; write 'maximize {metric}' or "
            f"'minimize {metric}'.",
            field="search.objectives",
        )
    if experiment.trainer.validation_share == 0 and name not in COSTS:
        raise UserError(
            "search.objectives needs a validation set; set trainer.validation_share above 0.", field="search.objectives"
        )
    return Objective(metric if name not in COSTS else name, higher)


def _usual(experiment: Experiment) -> tuple[str, bool | None]:
    if experiment.trainer.monitor != "auto":
        return names.watched(experiment.trainer.monitor, experiment.tracking.metric_names)
    task = experiment.chosen_task()
    if task == "detection":  # whose loss is there while training only
        return "map", True
    return ("accuracy", True) if task in ("classification", "token_classification") else ("loss", False)
