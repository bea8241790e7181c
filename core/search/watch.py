"""Whose a trial is, whether its process lives, and what is asked of it, all through the study's storage: so it works
for workers on any machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from torchdeck.core.errors import UserError
from torchdeck.core.runs import process
from torchdeck.core.search.study import Study, trial_id

#: Attributes of a trial: its process, its heartbeat, and what somebody asks of it (stop or prune).
PROCESS, BEAT, COMMAND = "torchdeck:process", "torchdeck:beat", "torchdeck:command"

#: Seconds between two looks for commands, and between two beats.
_LOOK, _BEAT = 1.0, 15.0


class Owners:
    """Tells whether the processes of running trials live.

    On this machine the system knows. Of another one only the heartbeat is known, and how long *this* process has seen
    it unchanged: clocks of two machines differ.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}

    def alive(self, trial: FrozenTrial) -> bool:
        """Whether the process that trains it lives; one that is not known, does not."""
        who = trial.system_attrs.get(PROCESS)
        if not isinstance(who, dict):
            return False
        beat = trial.system_attrs.get(BEAT)
        now = time.monotonic()
        seen, since = self._seen.get(trial_id(trial), (None, now))
        if seen != (who, beat):
            seen, since = (who, beat), now
        self._seen[trial_id(trial)] = (seen, since)
        return process.alive(who, time.time() - (now - since))


class Watch(threading.Thread):
    """Beats the heart of a running trial, and looks what is asked of it, of the study, and by the clock."""

    def __init__(
        self, study: Study, trial: optuna.Trial, obey: Callable[[str], bool], out_of_time: Callable[[], bool]
    ) -> None:
        """``obey`` is called with stop, prune or pause until it says that it was done."""
        super().__init__(name="torchdeck-watch", daemon=True)
        self._study, self._trial = study, trial
        self._obey, self._out_of_time = obey, out_of_time
        self._over = threading.Event()

    def run(self) -> None:
        """Look until the trial is over; a storage that fails is asked again."""
        beaten = time.monotonic()
        done = False
        while not self._over.wait(_LOOK):
            try:
                with self._study.errors():
                    if time.monotonic() - beaten >= _BEAT:
                        self._study.storage.set_trial_system_attr(trial_id(self._trial), BEAT, time.time())
                        beaten = time.monotonic()
                    wish = "" if done else self._wish()
                if wish:
                    done = self._obey(wish)
            except UserError:
                continue

    def _wish(self) -> str:
        if self._study.stopped or self._out_of_time():
            return "pause"
        command = self._study.storage.get_trial_system_attrs(trial_id(self._trial)).get(COMMAND)
        return str(command) if command in ("stop", "prune") else ""

    def end(self) -> None:
        """The trial is over."""
        self._over.set()
        self.join()


def ask_of(study: Study, number: int, command: str) -> None:
    """Ask the worker of a running trial to stop it (its value so far counts) or to prune it.

    Raises UserError when it does not run.
    """
    from optuna.trial import TrialState

    trial = next((t for t in study.optuna.get_trials(deepcopy=False) if t.number == number), None)
    if trial is None:
        raise UserError(f"There is no trial {number} in the study {study.name!r}.")
    if trial.state == TrialState.WAITING:
        study.storage.set_trial_user_attr(trial_id(trial), "reason", "taken out before it began")
        study.storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
        return
    if trial.state != TrialState.RUNNING:
        raise UserError(f"Trial {number} is over already: {trial.state.name.lower()}.")
    study.storage.set_trial_system_attr(trial_id(trial), COMMAND, command)
