"""Which searched fields matter: Optuna's importances."""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import TrialState

from torchdeck.core.errors import UserError
from torchdeck.core.search.study import Study

#: Evaluators by name: fANOVA (Hutter et al. 2014), PED-ANOVA (Watanabe et al. 2023), mean decrease of impurity.
EVALUATORS = {
    "fanova": "FanovaImportanceEvaluator",
    "ped-anova": "PedAnovaImportanceEvaluator",
    "mdi": "MeanDecreaseImpurityImportanceEvaluator",
}


def importances(study: Study, evaluator: str = "fanova", objective: str | None = None) -> dict[str, float]:
    """The share of each parameter in the objective's variance, the greatest first; they add up to one.

    Raises UserError while there are too few trials, and for an objective that is not sought.
    """
    names = [one.name for one in study.objectives]
    if objective is not None and objective not in names:
        raise UserError(f"{objective!r} is not sought; choose from {', '.join(names)}.")
    place = names.index(objective) if objective else 0
    done = [t for t in study.optuna.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(done) < 2:
        raise UserError(f"Importances need two complete trials or more; there are {len(done)}.")
    cls = getattr(optuna.importance, EVALUATORS[evaluator])
    kwargs = {} if evaluator == "ped-anova" else {"seed": 0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(
                study.optuna, evaluator=cls(**kwargs), target=lambda trial: trial.values[place]
            )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"Importances can't be told: {str(error).splitlines()[0]}") from None
