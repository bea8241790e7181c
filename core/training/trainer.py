"""The training loop: Ignite's Engine around one step, with everything that is read out of it.

It reads top down in the order in which a person would explain it: build, run, step, after each step, end of epoch,
state.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.load import LoadedData
from torchdeck.core.errors import Diverged, TrainingError, UserError
from torchdeck.core.events import EpochEnded, Evaluated, Event, LogLine, StateChanged, StepSummary, TextWritten
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.tasks.base import Task
from torchdeck.core.training import sharding
from torchdeck.core.training.checkpointing import CheckpointClock, finite_weights
from torchdeck.core.training.epoch_state import EpochState
from torchdeck.core.training.evaluation import Evaluator, Report, loss_module
from torchdeck.core.training.feeding import Feeding
from torchdeck.core.training.monitor import Monitor
from torchdeck.core.training.profiling import profiling
from torchdeck.core.training.random import get_states, set_states
from torchdeck.core.training.step import NotFinite
from torchdeck.core.training.steps import build_step
from torchdeck.core.training.window import AccumulationWindow

# Ignite logs what it raises; we tell it ourselves, once.
logging.getLogger("ignite").setLevel(logging.CRITICAL)

#: Called with (state_dict, whether it is the best so far) when a checkpoint is due.
Save = Callable[[dict[str, Any], bool], None]

#: Asked after each evaluation, with (epoch, step, metrics of the validation set, whether they are the best so far),
#: whether the run ends here, as pruned.
Judge = Callable[[int, int, dict[str, float], bool], bool]


class _EndedWhileWaiting(Exception):
    """The training ends while it waits for data: there is no step to end it after."""


def nothing(*_: object) -> None:
    """What is called where nobody wants to be called."""


def goes_on(epoch: int, step: int, val: dict[str, float], best: bool) -> bool:
    """The judge where nobody judges."""
    return False


class Trainer:
    """Everything that one training changes, and the loop that changes it.

    ``epoch`` and ``step`` count what is done.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: LoadedData,
        net: nn.Module,
        task: Task,
        device: torch.device,
        publish: Callable[[Event], None],
        *,
        obey: Callable[[Trainer], None] = nothing,
        save: Save = nothing,
        judge: Judge = goes_on,
    ) -> None:
        """``publish`` hears what happens. ``obey`` is called after each step, and once a second while data are waited
        for, to carry out what was commanded.
        """
        options = experiment.trainer
        self.experiment, self.data, self.device = experiment, data, device
        self.publish, self._obey, self._save, self._judge = publish, obey, save, judge
        self.net = net
        self.task = task
        self.world = distributed.world()
        self.epoch_length = -(-len(data.train) // options.accumulate)
        self.total_steps = options.steps or options.epochs * self.epoch_length
        self.total_epochs = -(-self.total_steps // self.epoch_length)
        task.planned(self)
        self._optimizer_step = build_step(experiment, net, task, device, self._inform)
        self.precision, self.channels_last = self._optimizer_step.precision, self._optimizer_step.channels_last
        self.optimizer, self.ema = self._optimizer_step.optimizer, self._optimizer_step.ema
        self.scheduler = self._optimizer_step.build_schedule(
            experiment, self.total_steps, self.epoch_length, self._inform
        )
        self.evaluator = Evaluator(
            data.info,
            task,
            device,
            self._optimizer_step.autocast,
            options.flip_test,
            experiment.tracking.metrics,
            self.channels_last,
        )
        self.monitor = Monitor(experiment, task.decides, self.evaluator.direction)
        self.step = 0
        self.stopping = False
        #: Whether a search has given this trial up.
        self.pruned = False
        self._failure: str | None = None
        self._clock = CheckpointClock(options)
        self._epoch_state = EpochState()
        self._window = AccumulationWindow(task.count_right)
        self._summary_due = False
        self._feeding = Feeding(data.train, options.accumulate, self.epoch_length, self._window, self.tell_state)
        for feed in (data.train, data.val, data.test):
            if feed is not None:
                feed.waiting = self._while_waiting

    @property
    def epoch(self) -> int:
        """The epoch that the last step belongs to, from 1."""
        return max(1, -(-self.step // self.epoch_length))

    @property
    def trained_net(self) -> nn.Module:
        """What is evaluated and exported: the averaged weights, or the model itself."""
        return self.ema.module if self.ema is not None else self.net

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self, profile_folder: Path | None = None) -> str:
        """Train until the end, a stop or early stopping; returns done, stopped or pruned.

        ``profile_folder``: where the profiler's trace goes, if one is asked for (trainer.profile).
        Raises Aborted on abort, TrainingError when the loss is no number or a file can't be written, and UserCodeError
        from the user's code.
        """
        if self.step >= self.total_steps or self.monitor.stops:
            return "done"
        engine = Engine(lambda engine, batches: self._train_step(batches))
        # A run that goes on begins at its own place; the feeds begin there, too.
        engine.state.iteration, engine.state.epoch = self.step, self.step // self.epoch_length
        engine.state.max_epochs, engine.state.epoch_length = self.total_epochs, self.epoch_length
        if not self.task.keeps_modes:
            self.net.train()
        module = loss_module(self.task)
        if module is not None:
            module.train()
        self.task.fit_began(self)
        self._clock.restart()
        self._epoch_state.began = time.monotonic()
        self._window.restart()
        profiled = profile_folder if self.experiment.trainer.profile else None
        with usercode.user_errors(), profiling(profiled) as traced, contextlib.suppress(_EndedWhileWaiting):
            if profiled is not None:
                engine.add_event_handler(Events.ITERATION_COMPLETED, traced)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
            engine.run(self._feeding.steps(self.step), epoch_length=self.epoch_length)
        self.task.fit_ended()
        if self.pruned:
            return "pruned"
        return "stopped" if self.stopping else "done"

    def _while_waiting(self, seconds: float) -> None:
        """Called once a second while a batch is waited for: tell when that is unusual, and obey."""
        if self.world.size > 1:
            return  # commands are obeyed by all at the same step
        if self._feeding.still_waiting(seconds):
            self._warn(f"no batch has come for {seconds:.0f} s: the data loader is waited for")
        self._obey(self)
        if self.stopping or self.pruned:
            raise _EndedWhileWaiting

    # --- what it can be told, by the thread that trains ------------------------------------------------------------

    def stop(self, pruned: bool = False) -> None:
        """End after this step, with a checkpoint; ``pruned``: as a trial that was given up."""
        self.stopping, self.pruned = True, pruned
        if self._clock.last_step != self.step:
            self.write_checkpoint()

    def skip_time(self, seconds: float) -> None:
        """A pause of that length is over: it counts neither for the rate nor for the epoch's duration."""
        self._window.began += seconds
        self._epoch_state.began += seconds

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on; the schedule goes on from it in proportion."""
        self.scheduler.set_learning_rate(value, self.step)
        self.tell_state(f"learning rate {value:g}")

    def evaluate_now(self) -> Report | None:
        """Evaluate between two steps and publish the result; None without a validation set."""
        report = self.evaluate()
        if report is not None:
            self.publish(Evaluated(epoch=self.epoch, step=self.step, val=report.metrics))
        return report

    def tell_state(self, state: str) -> None:
        """Publish that the run is running, paused, stalled, ..."""
        self.publish(StateChanged(epoch=self.epoch, step=self.step, state=state))

    # --- what it can be told, by any thread ------------------------------------------------------------------------

    def fail(self, message: str) -> None:
        """The run can't go on, say because its files can't be written: it ends after the step that it is in."""
        self._failure = message

    def raise_if_failed(self) -> None:
        """Raises TrainingError once ``fail`` was called."""
        if self._failure is not None:
            raise TrainingError(self._failure)

    # --- one step --------------------------------------------------------------------------------------------------

    def _train_step(self, batches: list[Batch]) -> None:
        self.scheduler.set(self.step)
        if self.step % self.epoch_length == 0:
            self._optimizer_step.epoch_began()
            self.task.epoch_began(self)
        every = self.experiment.tracking.every_steps
        self._summary_due = (self.step + 1) % every == 0 or self._window.overdue()
        try:
            self._optimizer_step(batches, self._window, self.step / self.total_steps, self._summary_due)
        except NotFinite as error:
            raise self._diverged(error.value, error.name, error.changed) from None
        self.step += 1

    def _diverged(self, value: float, name: str = "loss", changed: bool = False) -> Diverged:
        lr = self.scheduler.learning_rate()
        weights = "the last checkpoint before is kept" if changed else "the weights were left as they were"
        return Diverged(
            f"The {name if name == 'loss' else f'figure {name!r}'} became {value} at step {self.step + 1} "
            f"(epoch {self.step // self.epoch_length + 1}, learning rate {lr:.3g}); {weights}. Try a smaller "
            "optimizer.lr or set trainer.clip_norm."
        )

    # --- after each step -------------------------------------------------------------------------------------------

    def _after_step(self, engine: Engine) -> None:
        self.raise_if_failed()
        end_of_epoch = self.step % self.epoch_length == 0 or self.step == self.total_steps
        if self._summary_due or end_of_epoch:
            self._summarize()
        if end_of_epoch:
            # Commands and due checkpoints wait for the end of the epoch, whose results belong into the checkpoint.
            self._end_epoch()
        else:
            if self._evaluation_due():
                self._evaluate_between()
            if self._checkpoint_due():
                self.write_checkpoint()
        self._obey(self)
        if self.stopping or self.pruned or self.step == self.total_steps:
            engine.terminate()

    def _summarize(self) -> None:
        window = self._window
        train, losses = self._epoch_state.add(window)
        bad = next((v for v in losses if not math.isfinite(v)), None)
        if bad is not None and self.device.type != "cpu":
            raise self._diverged(bad, changed=self.task.makes_own_steps)
        if self.task.makes_own_steps:
            name, value = next(((n, v) for n, v in train.items() if not math.isfinite(v)), ("", 0.0))
            if name:
                raise self._diverged(value, name, changed=True)
        elapsed = max(time.perf_counter() - window.began, 1e-9)
        self._feeding.usual = elapsed / max(len(window.losses), 1)
        self.publish(
            StepSummary(
                epoch=self.epoch,
                step=self.step,
                train=train,
                losses=tuple(losses),
                learning_rate=self.scheduler.learning_rate(),
                gradient_norm=self._optimizer_step.take_gradient_norm(),
                samples_per_second=window.samples * self.world.size / elapsed,
                data_wait=min(1.0, window.waited / elapsed),
                memory=devices.memory_used(self.device),
            )
        )
        window.restart()

    def _evaluation_due(self) -> bool:
        every = self.experiment.trainer.eval_steps
        return every > 0 and self.step % every == 0

    def _evaluate_between(self) -> None:
        report = self.evaluate_now()
        if report is not None:
            self.pruned = distributed.share(self._judge(self.epoch, self.step, report.metrics, False))

    # --- end of an epoch -------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        train = self._epoch_state.metrics() | self.task.epoch_figures()
        report = self.evaluate()
        val = report.metrics if report else {}
        train |= self.task.epoch_ended(self, train, val)
        # GPUs may differ in the last digit, and must decide alike.
        value = distributed.share(self.monitor.value(val or train))
        best = self.monitor.epoch_ended(self.epoch, value, distributed.share((val or train).get("loss", math.nan)))
        if self.scheduler.epoch_ended(value, self.monitor.higher_is_better, val or train):
            self._inform(f"{self.monitor.name} has stalled: learning rate cut")
        self.publish(
            EpochEnded(
                epoch=self.epoch,
                step=self.step,
                train=train,
                val=val,
                learning_rate=self.scheduler.learning_rate(),
                seconds=self._epoch_state.seconds(),
                best=best,
            )
        )
        self._epoch_state = EpochState()
        self._show_text()
        self._window.restart()
        if self.monitor.stops:
            self._inform(f"no better for {self.monitor.bad_epochs} epochs: stopping early")
            self.total_steps = self.step
        self.pruned = self.pruned or distributed.share(self._judge(self.epoch, self.step, val, best))
        last = self.step == self.total_steps
        if best or last or self._agreed(self._clock.due_after_epoch(self.step)):
            self.write_checkpoint(best)

    @property
    def sharded(self) -> bool:
        """Whether each process keeps but a part of each weight."""
        return self._optimizer_step.sharded

    def _agreed(self, due: bool) -> bool:
        """What the first process says, where all have to do it together: their clocks differ."""
        return distributed.share(due) if self.sharded else due

    def _checkpoint_due(self) -> bool:
        if self.sharded and self.step % self.experiment.tracking.every_steps:
            return False  # to agree at each step would cost more than the step
        return self._agreed(self._clock.due(self.step))

    def load_weights(self, weights: dict[str, Any]) -> None:
        """The weights of a checkpoint, in place of those that there are."""
        self._optimizer_step.load_weights(weights)

    def _show_text(self) -> None:
        text = self.evaluator.text(self.trained_net, self.epoch)
        if text is not None:
            self.publish(TextWritten(epoch=self.epoch, step=self.step, text=text))

    def evaluate(self) -> Report | None:
        """Evaluate on the validation set, with the averaged weights where there are such; None without such a set."""
        return self.evaluator.evaluate(self.trained_net, self.data.val) if self.data.val else None

    def _inform(self, message: str) -> None:
        self.publish(LogLine(level="info", message=message))

    def _warn(self, message: str) -> None:
        self.publish(LogLine(level="warning", message=message))

    # --- state -----------------------------------------------------------------------------------------------------

    def write_checkpoint(self, best: bool = False) -> None:
        """Hand the state to the writer, unless the weights are spoilt.

        Raises Diverged when they are.
        """
        finite = sharding.all_finite(self.net) if self.sharded else finite_weights(self.net)
        if not finite:
            raise Diverged(
                f"The weights became NaN or infinite by step {self.step}; the last checkpoint before is kept. Try a "
                "smaller optimizer.lr or set trainer.clip_norm."
            )
        if self.world.first or self.sharded:
            state = self.state_dict()
            if self.world.first:
                self._save(state, best)
        self._clock.wrote(self.step)

    def state_dict(self) -> dict[str, Any]:
        """What the training needs to go on exactly here, as plain containers and tensors, loadable with
        ``weights_only=True``. It shares the live tensors."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "epoch_length": self.epoch_length,
            "processes": self.world.size,
            "feed": self.data.train.state_dict(),
            **self._optimizer_step.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": get_states(self.device),
            "best": self.monitor.state_dict(),
            **self._epoch_state.state_dict(self._window),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where ``state`` was; the experiment's own settings (say, weight decay) are kept.

        Raises UserError when the state does not fit the experiment.
        """
        try:
            self._load(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"--resume: the checkpoint does not fit the experiment: {reason}") from None

    def _load(self, state: dict[str, Any]) -> None:
        self._optimizer_step.load_state_dict(state)
        self.scheduler.load_state_dict(state["scheduler"])
        before, step = int(state["epoch_length"]), int(state["step"])
        others = int(state.get("processes", self.world.size)) != self.world.size
        if before != self.epoch_length and others and step % before == 0:
            step = step // before * self.epoch_length  # whole epochs are the same among any number of processes
        elif before != self.epoch_length:
            raise UserError(
                f"--resume: an epoch had {state['epoch_length']} steps and now has {self.epoch_length}; keep the "
                "data and trainer.batch_size as they were, or start a new run from these weights (model.weights)."
            )
        self.step = step
        if state.get("feed") is not None:
            self.data.train.load_state_dict(state["feed"])
        self.monitor.load_state_dict(state["best"])
        if self.step % self.epoch_length:
            self._epoch_state.load_state_dict(state, self.task.counts)
        set_states(state["random"], self.device)
