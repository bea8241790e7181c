"""Code that a run or checkpoint names: the user's own may run, that of others only where the user says so."""

from __future__ import annotations

from pathlib import Path

from torchdeck.core import catalog
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.references import references
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.runs.trust import made_here
from torchdeck.core.usercode.objects import is_object

#: Code of ours that a preset names as the user would name theirs.
_OURS = "torchdeck.core.models.gan:"


def code_named(experiment: Experiment, path: Path) -> str | None:
    """The code that using this run or checkpoint would run though nobody vouched for it; None when there is none."""
    return None if made_here(path) else code_in(experiment)


def code_in(experiment: Experiment) -> str | None:
    """The first of the user's own code that an experiment names; None when it names none. Objects that Python gives it
    are none: nothing but the process itself can give them; nor is what comes with torchdeck."""
    named = (name for name in references(experiment) if catalog.is_user_code(name))
    return next((name for name in named if not is_object(name) and not name.startswith(_OURS)), None)


def refuse_code(experiment: Experiment, path: Path) -> None:
    """Raises UserError when using this run or checkpoint would run code that nobody vouched for."""
    code = code_named(experiment, path)
    if code is not None:
        raise UserError(
            f"{str(path)!r} was not made here and would run the code {code!r}; if you trust it, say --trust-code."
        )
