"""The training loop: Ignite's Engine around one step, with everything that is read out of it.

It reads top down in the order in which a person would explain it: build, run, step, after each step, end of epoch.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.control import Control
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.load import LoadedData
from torchdeck.core.data.transforms import resize
from torchdeck.core.errors import Diverged, TrainingError, UserError
from torchdeck.core.events import EpochEnded, Evaluated, Event, LogLine, StateChanged, StepSummary
from torchdeck.core.experiment.metric_names import watched
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.models.build import logits_of
from torchdeck.core.training import commands
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.evaluation import Evaluator, Report
from torchdeck.core.training.losses import TrainingLoss
from torchdeck.core.training.optimizers import build_optimizer
from torchdeck.core.training.schedules import Scheduler
from torchdeck.core.training.window import AccumulationWindow

# Ignite logs what it raises; we tell it ourselves, once.
logging.getLogger("ignite").setLevel(logging.CRITICAL)

#: Seconds between two measurements of the gradients' norm where no clipping needs it: it reads every gradient again.
_NORM_EVERY = 0.25

#: Seconds between checkpoints at the end of epochs that are neither the best nor the last: epochs of a few
#: milliseconds would else spend more time on the disk than on training.
_EPOCH_CHECKPOINT = 10.0


class Trainer:
    """Everything that one training changes, and the loop that changes it.

    ``epoch`` and ``step`` count what is done. ``save`` is called with (state, best) when a checkpoint is due.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: LoadedData,
        net: nn.Module,
        loss: TrainingLoss,
        device: torch.device,
        control: Control,
        publish: Callable[[Event], None],
    ) -> None:
        options = experiment.trainer
        self.experiment, self.data, self.device = experiment, data, device
        #: Where the run was started, for whoever goes on from a checkpoint.
        self.folder = str(Path.cwd())
        self.control, self.publish = control, publish
        self.precision = devices.precision(options.precision, device)
        self.net = net
        self.loss = loss
        self.optimizer = build_optimizer(experiment.optimizer, net, device, loss.parameters)
        self.epoch_length = -(-len(data.train) // options.accumulate)
        self.total_steps = options.steps or options.epochs * self.epoch_length
        self.total_epochs = -(-self.total_steps // self.epoch_length)
        self.scheduler = Scheduler(experiment.schedule, self.optimizer, self.total_steps, self.epoch_length)
        self.ema = build_ema(net, options.ema)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scaler)
        self.channels_last = any(
            p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
            for p in net.parameters()
        )
        self.evaluator = Evaluator(
            data.info, loss, device, self._autocast, options.flip_test, experiment.tracking.metrics, self.channels_last
        )
        self.world = distributed.world()
        self._parallel = distributed.distribute_model(net, device)
        self._forward: Callable[[Tensor], Any] = torch.compile(self._parallel) if options.compile else self._parallel
        self._parameters = [*(p for p in net.parameters() if p.requires_grad), *loss.parameters]
        #: Whether right answers are counted while training: not where the outputs are no classes.
        self.counts_right = data.info.task == "classification"

        self.step = 0
        self.best_value: float | None = None
        #: The loss of the best epoch, which decides between equal values.
        self.best_loss: float | None = None
        self.best_epoch = 0
        self._bad_epochs = 0
        self.stopping = False
        #: Whether a search has given this trial up.
        self.pruned = False
        self.paused = False
        self.paused_at = 0.0
        self.write_failure: str | None = None
        #: Whether data are waited for longer than is usual, and how many seconds a step usually takes.
        self.stalled = False
        self.usual = 3.0
        for feed in (data.train, data.val, data.test):
            if feed is not None:
                feed.waiting = functools.partial(commands.while_waiting, self)
        self.save: Callable[[dict[str, Any], bool], None] = lambda state, best: None
        #: Asked after each evaluation, with (epoch, step, metrics of the validation set, whether they are the best so
        #: far): whether the run ends here, as pruned.
        self.judge: Callable[[int, int, dict[str, float], bool], bool] = lambda epoch, step, val, best: False
        #: Where the profiler's trace goes (trainer.profile).
        self.profile_folder: Path | None = None
        self._profiler: torch.profiler.profile | None = None
        self.last_saved_step = -1
        self._wrote_at = time.monotonic()

        #: Loss times weight, right answers, samples, weight: over the epoch so far, added up step by step.
        self._epoch_sums = [0.0, 0.0, 0.0, 0.0]
        self._epoch_started = time.monotonic()
        self._epoch_seconds_before = 0.0
        self.window = AccumulationWindow()
        self._summary_due = False
        self._norm_at = 0.0
        self._gradient_norm: Tensor | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the last step belongs to, from 1."""
        return max(1, -(-self.step // self.epoch_length))

    # --- run -------------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Train until the end, a stop or early stopping; returns done, stopped or pruned.

        Raises commands.Aborted on abort, TrainingError when the loss is no number or a file can't be written, and
        UserCodeError from the user's code.
        """
        if self.step >= self.total_steps or self._stalled():
            return "done"
        engine = Engine(lambda engine, batches: self._train_step(batches))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
        # A run that goes on begins at its own place; the feeds begin there, too.
        engine.state.iteration, engine.state.epoch = self.step, self.step // self.epoch_length
        engine.state.max_epochs, engine.state.epoch_length = self.total_epochs, self.epoch_length
        self.net.train()
        if self.loss.module is not None:
            self.loss.module.train()
        self._wrote_at = self._epoch_started = time.monotonic()
        self.window.restart()
        with usercode.user_errors(), self._profiling(), contextlib.suppress(commands.Ended):
            engine.run(self._batches(), epoch_length=self.epoch_length)
        return "pruned" if self.pruned else "stopped" if self.stopping else "done"

    def skip_time(self, seconds: float) -> None:
        """A pause of that length is over: it counts neither for the rate nor for the epoch's duration."""
        self.window.began += seconds
        self._epoch_started += seconds

    @contextmanager
    def _profiling(self) -> Iterator[None]:
        """Trace a few steps, once they have warmed up, where that was asked for."""
        if not self.experiment.trainer.profile or self.profile_folder is None:
            yield
            return
        few = torch.profiler.schedule(wait=5, warmup=3, active=5, repeat=1)
        ready = torch.profiler.tensorboard_trace_handler(str(self.profile_folder))
        with torch.profiler.profile(schedule=few, on_trace_ready=ready) as self._profiler:
            yield
        self._profiler = None

    def _batches(self) -> Iterator[list[Batch]]:
        """The batches of each step from where the run stands, over all epochs: ``accumulate`` for a step."""
        accumulate = self.experiment.trainer.accumulate
        epoch, position = divmod(self.step, self.epoch_length)
        while True:
            feed = self.data.train.epoch(epoch, position * accumulate)
            position = 0
            epoch += 1
            group: list[Batch] = []
            while True:
                began = time.perf_counter()
                batch = next(feed, None)
                self.window.waited += time.perf_counter() - began
                if self.stalled:
                    self.stalled = False
                    self.publish(StateChanged(epoch=self.epoch, step=self.step, state="running"))
                if batch is not None:
                    group.append(batch)
                if len(group) == accumulate or (batch is None and group):
                    yield group
                    group = []
                if batch is None:
                    break

    # --- one step --------------------------------------------------------------------------------------------------

    def _train_step(self, batches: list[Batch]) -> None:
        self.scheduler.set(self.step)
        every = self.experiment.tracking.every_steps
        self._summary_due = (self.step + 1) % every == 0 or self.window.overdue()
        samples = sum(len(y) for _, y in batches)
        weight = sum(self.loss.weight(y) for _, y in batches)
        step_loss: Tensor | None = None
        for number, (x, y) in enumerate(batches, start=1):
            x = self._prepare(x)
            with self._unshared_until(number == len(batches)):
                with self._autocast():
                    logits = logits_of(self._forward(x)).float()
                    loss = self.loss(logits, y)
                    if len(batches) > 1:
                        loss = self.loss.share(loss, y, weight)
                self._check_finite(loss)
                self.scaler.scale(loss).backward()
            detached = loss.detach()
            step_loss = detached if step_loss is None else step_loss + detached
            if self.counts_right:
                self.window.outputs.append((logits.detach(), y))
        self._clip_and_measure()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        self.step += 1
        assert step_loss is not None
        self.window.add(self.loss.told(step_loss, samples), samples, weight)

    def _unshared_until(self, last: bool) -> AbstractContextManager[Any]:
        """Among several processes, gradients are averaged once a step: with its last batch."""
        if self.world.size == 1 or last:
            return nullcontext()
        return self._parallel.no_sync()  # type: ignore[operator]

    def _check_finite(self, loss: Tensor) -> None:
        """On the CPU looking costs nothing; on a GPU it would wait for it, so there each summary looks."""
        if self.device.type == "cpu" and not math.isfinite(loss.item()):
            raise self._diverged(loss.item())

    def _prepare(self, x: Tensor) -> Tensor:
        """Progressive resizing and the memory layout."""
        if x.ndim == 4:
            done = self.step / self.total_steps
            size = next((s.size for s in self.experiment.trainer.image_sizes if done < s.until), None)
            if size is not None:
                x = resize(x, size)
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
        return x

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision.dtype)

    def _clip_and_measure(self) -> None:
        limit = self.experiment.trainer.clip_norm
        now = time.perf_counter()
        measuring = self._summary_due and now - self._norm_at >= _NORM_EVERY
        if limit is None and not measuring:
            return
        self._norm_at = now
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        self._gradient_norm = norm

    def _diverged(self, value: float) -> Diverged:
        lr = self.scheduler.learning_rate()
        return Diverged(
            f"The loss became {value} at step {self.step + 1} (epoch {self.step // self.epoch_length + 1}, learning rate "
            f"{lr:.3g}); the weights were left as they were. Try a smaller optimizer.lr or set trainer.clip_norm."
        )

    # --- after each step -------------------------------------------------------------------------------------------

    def _after_step(self, engine: Engine) -> None:
        if self._profiler is not None:
            self._profiler.step()
        if self.write_failure is not None:
            raise TrainingError(self.write_failure)
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
        commands.obey(self)
        if self.stopping or self.pruned or self.step == self.total_steps:
            engine.terminate()

    def _summarize(self) -> None:
        window = self.window
        loss, right, values = window.read(self._epoch_sums)
        bad = next((v for v in values if not math.isfinite(v)), None)
        if bad is not None and self.device.type != "cpu":
            raise self._diverged(bad)
        train = {"loss": loss}
        if self.counts_right:
            train["accuracy"] = right / window.samples
        elapsed = max(time.perf_counter() - window.began, 1e-9)
        self.usual = elapsed / max(len(window.losses), 1)
        self.publish(
            StepSummary(
                epoch=self.epoch,
                step=self.step,
                train=train,
                losses=tuple(values),
                learning_rate=self.scheduler.learning_rate(),
                gradient_norm=None if self._gradient_norm is None else float(self._gradient_norm),
                samples_per_second=window.samples * self.world.size / elapsed,
                data_wait=min(1.0, window.waited / elapsed),
                memory=devices.memory_used(self.device),
            )
        )
        self._gradient_norm = None
        window.restart()

    def _checkpoint_due(self) -> bool:
        options = self.experiment.trainer
        if options.checkpoint_steps and self.step % options.checkpoint_steps == 0:
            return True
        return time.monotonic() - self._wrote_at >= options.checkpoint_minutes * 60

    def _evaluation_due(self) -> bool:
        every = self.experiment.trainer.eval_steps
        return every > 0 and self.step % every == 0

    def _evaluate_between(self) -> None:
        report = self.evaluate()
        if report is not None:
            self.publish(Evaluated(epoch=self.epoch, step=self.step, val=report.metrics))
            self.pruned = distributed.share(self.judge(self.epoch, self.step, report.metrics, False))

    # --- end of an epoch -------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        loss, right, samples, weight = self._epoch_sums
        train = {"loss": loss / weight if weight else math.nan}
        if self.counts_right:
            train["accuracy"] = right / samples
        report = self.evaluate()
        val = report.metrics if report else {}
        value, higher = self.watched(train, val)
        value = distributed.share(value)  # GPUs may differ in the last digit, and must decide alike
        loss_now = distributed.share((val or train).get("loss", math.nan))
        best = self._is_better(value, loss_now, higher)
        if best:
            tied = value == self.best_value
            self.best_value, self.best_loss, self.best_epoch = value, loss_now, self.epoch
            self._bad_epochs = self._bad_epochs + 1 if tied else 0  # a tie is no progress
        else:
            self._bad_epochs += 1
        if self.scheduler.epoch_ended(value, higher):
            self.publish(LogLine(level="info", message=f"{self.watched_name} has stalled: learning rate cut"))
        self.publish(
            EpochEnded(
                epoch=self.epoch,
                step=self.step,
                train=train,
                val=val,
                learning_rate=self.scheduler.learning_rate(),
                seconds=self._epoch_seconds_before + time.monotonic() - self._epoch_started,
                best=best,
            )
        )
        self._epoch_sums = [0.0, 0.0, 0.0, 0.0]
        self._epoch_started, self._epoch_seconds_before = time.monotonic(), 0.0
        self.window.restart()
        if self._stalled():
            self.publish(LogLine(level="info", message=f"no better for {self._bad_epochs} epochs: stopping early"))
            self.total_steps = self.step
        self.pruned = self.pruned or distributed.share(self.judge(self.epoch, self.step, val, best))
        last = self.step == self.total_steps
        if best or last or self._checkpoint_due() or time.monotonic() - self._wrote_at >= _EPOCH_CHECKPOINT:
            self.write_checkpoint(best)

    def _is_better(self, value: float, loss: float, higher: bool) -> bool:
        """Whether an epoch is the best so far; of equal ones the one with the lower loss is. Infinity is the best where more
        is better, -infinity where less is; NaN and the other infinity are never the best."""
        if math.isnan(value) or value == (-math.inf if higher else math.inf):
            return False
        if self.best_value is None:
            return True
        if value == self.best_value:
            return self.best_loss is not None and loss < self.best_loss
        return value > self.best_value if higher else value < self.best_value

    def _stalled(self) -> bool:
        """Whether early stopping ends the run here."""
        patience = self.experiment.trainer.early_stopping
        return patience > 0 and self._bad_epochs >= patience

    def watched(self, train: dict[str, float], val: dict[str, float]) -> tuple[float, bool]:
        """The metric that decides which checkpoint is best, and whether more of it is better."""
        values = val or train
        name = self.watched_name
        if name not in values:
            raise TrainingError(f"trainer.monitor = {name!r} is not measured; choose from {', '.join(values)}.")
        return values[name], self.watched_higher

    @property
    def watched_name(self) -> str:
        """Its name."""
        name = watched(self.experiment.trainer.monitor)[0]
        return name if name != "auto" else "accuracy" if self.counts_right else "loss"

    @property
    def watched_higher(self) -> bool:
        """Whether more of it is better.

        Raises UserError where neither the name, nor the metric itself, nor the user tells.
        """
        best = self.experiment.trainer.monitor
        higher = watched(self.watched_name if best == "auto" else best, self.experiment.tracking.metric_names)[1]
        if higher is None:
            higher = self.evaluator.direction(self.watched_name)
        if higher is None:
            raise UserError(
                f"trainer.monitor = {best!r}: it is not known whether more of it is better; write 'maximize {best}' or "
                f"'minimize {best}'."
            )
        return higher

    def evaluate(self) -> Report | None:
        """Evaluate on the validation set, with the averaged weights where there are such; None without such a set."""
        return self.evaluator.evaluate(self.trained_net, self.data.val) if self.data.val else None

    @property
    def trained_net(self) -> nn.Module:
        """What is evaluated and exported: the averaged weights, or the model itself."""
        return self.ema.module if self.ema is not None else self.net

    def write_checkpoint(self, best: bool = False) -> None:
        """Hand the state to the writer, unless the weights are spoilt.

        Raises TrainingError when they are.
        """
        from torchdeck.core.training.state import capture, finite_weights

        if not finite_weights(self.net):
            raise Diverged(
                f"The weights became NaN or infinite by step {self.step}; the last checkpoint before is kept. Try a "
                "smaller optimizer.lr or set trainer.clip_norm."
            )
        if self.world.first:
            self.save(capture(self), best)
        self.last_saved_step = self.step
        self._wrote_at = time.monotonic()
