"""Optuna's samplers and pruners from what the experiment names."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from torchdeck.core import catalog
from torchdeck.core.data.seeds import derive
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.space import Space

# What is experimental in Optuna is said in its documentation; warnings would land in the middle of a screen.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def build_sampler(experiment: Experiment, space: Space, number: int) -> BaseSampler:
    """The sampler of the trial with that number.

    Its seed is made from the study's seed and the number: the same study draws the same trials, also after an
    interruption, and no two workers draw the same one.

    Raises UserError for what the sampler can't search.
    """
    entry = catalog.find("sampler", experiment.sampler.name)
    args = {k: v for k, v in experiment.sampler.resolved().items() if v is not None}
    seed = experiment.search.seed if entry.fact("fixed") else derive(experiment.search.seed, "trial", number)
    cls: Any = getattr(optuna.samplers, entry.fact("class"))
    if entry.name == "grid":
        args["search_space"] = space.grid()
    if entry.name == "brute-force":
        for key, dimension in space.dimensions.items():
            space.all_values(key, dimension)
    if entry.name in ("CMA-ES", "GP", "QMC"):
        args["warn_independent_sampling"] = False
    if entry.name == "QMC":
        args["warn_asynchronous_seeding"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(seed=seed % 2**32, **args)


def check_sampler(experiment: Experiment, space: Space, several: bool) -> None:
    """Raises UserError when the sampler can't search this space, or has too many objectives."""
    entry = catalog.find("sampler", experiment.sampler.name)
    if several and not entry.fact("several"):
        raise UserError(
            f"sampler.name = {entry.name!r} knows one objective only; use NSGA-II or TPE for several.",
            field="sampler.name",
        )
    build_sampler(experiment, space, 0)


def pruner_name(experiment: Experiment) -> str:
    """What auto stands for: Optuna prunes by one objective only (optuna#3450)."""
    name = experiment.pruner.name
    if name != "auto":
        return name
    return "none" if len(experiment.search.objectives) > 1 else "median"


def build_pruner(experiment: Experiment) -> BasePruner:
    """The pruner.

    Raises UserError for values that Optuna refuses.
    """
    if experiment.pruner.name != "auto":
        return _pruner(experiment, experiment.pruner.name, experiment.pruner.resolved())
    # The first epochs tell little of a model whose learning rate is still warming up.
    args = {"n_warmup_steps": _whole_trial(experiment) // 5} if pruner_name(experiment) == "median" else {}
    return _pruner(experiment, pruner_name(experiment), args)


def _whole_trial(experiment: Experiment) -> int:
    """Epochs of a trial, or steps where those are what is judged by."""
    trainer = experiment.trainer
    return (trainer.steps or trainer.epochs) if trainer.eval_steps else trainer.epochs


def _pruner(experiment: Experiment, name: str, args: dict[str, Any]) -> BasePruner:
    entry = catalog.find("pruner", name)
    args = {k: v for k, v in args.items() if v is not None}
    if entry.name == "percentile":
        args.setdefault("percentile", 25.0)
    if entry.name == "hyperband":
        args.setdefault("max_resource", _whole_trial(experiment))
    if entry.name == "patient":
        inner = args.pop("inner", None)
        args = {"patience": 3, **args, "wrapped_pruner": _pruner(experiment, inner, {}) if inner else None}
    cls: Any = getattr(optuna.pruners, entry.fact("class"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**args)
    except (ValueError, TypeError) as error:
        raise UserError(f"pruner.name = {entry.name!r}: {error}", field="pruner.name") from None
