"""Several workers on one machine: a process each, bound to a GPU or to its share of the CPU's cores.

The process that started them looks after them: it tells of finished trials, hands on signals, and starts a worker anew
that was killed. What it trained goes on from its checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import FrozenTrial

from torchdeck.core.errors import UserError
from torchdeck.core.machine.children import PARENT
from torchdeck.core.machine.devices import cores
from torchdeck.core.machine.launch import command, environment, last_line
from torchdeck.core.machine.nvidia import assignable
from torchdeck.core.search.study import Study
from torchdeck.core.session import batch
from torchdeck.core.session.batch import Signals

#: Seconds between two looks, and how many workers may die in a row without a trial that was finished meanwhile.
_PACE, _DEATHS = 0.5, 8


class Workers:
    """``count`` worker processes of one study."""

    def __init__(
        self, study: Study, count: int, told: Callable[[FrozenTrial], None], note: Callable[[str], None], trust: bool
    ) -> None:
        self._study, self._count = study, count
        self._told, self._note, self._trust = told, note, trust
        self._began = time.time()
        self._seen: set[int] = {t.number for t in study.trials() if t.state.is_finished()}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        #: Why the study ended before its time.
        self.failure: str | None = None

    def work(self, signals: Signals | None = None) -> int:
        """Until all workers are done; returns the exit code."""
        signals = signals or Signals()
        passed = 0
        deaths = 0
        code = batch.DONE
        with batch.handling(signals):
            for place in range(self._count):
                self._start(place)
            while self._processes:
                time.sleep(_PACE)
                deaths = 0 if self._tell() else deaths
                if (wanted := signals.interrupts + signals.terminate) > passed:
                    passed = wanted
                    self._note("stopping after checkpoints (Ctrl-C again: at once)")
                    for process in self._processes.values():
                        process.send_signal(signal.SIGTERM if signals.terminate else signal.SIGINT)
                for place, process in list(self._processes.items()):
                    ended = process.poll()
                    if ended is None:
                        continue
                    del self._processes[place]
                    if ended < 0 and not signals.ending:
                        deaths += 1
                        self._note(
                            f"a worker was ended by {signal.Signals(-ended).name}; its trial continues in another"
                        )
                        if deaths < _DEATHS:
                            self._start(place)
                            continue
                        self.failure = f"{deaths} workers in a row were killed"
                    if ended not in (batch.DONE, batch.INTERRUPTED, batch.TERMINATED):
                        code = batch.FAILED
                        self.failure = self.failure or last_line(self._log(place)) or "a worker failed and said nothing"
                if signals.ending and code == batch.DONE:
                    code = batch.TERMINATED if signals.terminate else batch.INTERRUPTED
            self._tell()
        return code

    def _start(self, place: int) -> None:
        words = command("torchdeck.core.search.serve", str(self._study.folder), "--worker", str(self._began))
        words += ["--trust-code"] if self._trust else []
        try:
            with self._log(place).open("wb") as log:
                self._processes[place] = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.worker_environment(place),
                    start_new_session=True,
                )
        except OSError as error:
            raise UserError(f"A worker can't be started: {error.strerror}.") from None

    def _log(self, place: int) -> Path:
        return self._study.folder / f"worker-{place}.log"

    def worker_environment(self, place: int) -> dict[str, str]:
        """The environment of the worker at that place (from 0): its GPU, round robin, or its share of the cores."""
        values = {**environment(), PARENT: str(os.getpid())}
        gpus = [] if self._study.experiment.trainer.device == "cpu" else assignable()
        if gpus:
            values["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
        share = max(1, cores() // self._count)
        values.setdefault("OMP_NUM_THREADS", str(share))
        return values

    def _tell(self) -> bool:
        """Tell of trials that were finished since the last look, and whether there were any."""
        with self._study.errors():
            fresh = [t for t in self._study.trials() if t.state.is_finished() and t.number not in self._seen]
        fresh.sort(key=lambda t: t.datetime_complete or t.datetime_start or 0)
        for trial in fresh:
            self._seen.add(trial.number)
            self._told(trial)
        return bool(fresh)
