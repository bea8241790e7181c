"""What is done with a run: start, pause, stop, resume, checkpoint, learning rate, evaluate, queue, attach."""

from __future__ import annotations

from collections.abc import Callable

from textual import work
from textual.binding import Binding

from torchdeck.core.control import Control
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import fields, toml
from torchdeck.core.runs.listing import list_runs
from torchdeck.tui.run_monitor import OVER
from torchdeck.tui.screens.base import Workplace
from torchdeck.tui.screens.consent import agreed
from torchdeck.tui.screens.dialogs import Answer, Choice, Pick, Question, TextDialog
from torchdeck.tui.screens.resume import resume_run
from torchdeck.tui.widgets.form import Form
from torchdeck.tui.widgets.queue import QueueList


class RunKeys(Workplace):
    """Part of the Train screen."""

    BINDINGS = [
        Binding(
            "s",
            "start",
            "Start",
            id="run.start",
            tooltip="Start a run of the experiment, or queue it while another is training",
        ),
        Binding("p", "pause", "Pause", id="run.pause", tooltip="Pause, or continue"),
        Binding("x", "stop", "Stop", id="run.stop", tooltip="Stop after a checkpoint"),
        Binding("X", "abort", "Abort", show=False, id="run.abort", tooltip="Stop immediately, without a checkpoint"),
        Binding(
            "r",
            "resume",
            "Resume",
            id="run.resume",
            tooltip="Resume the run from its last checkpoint, or extend it",
        ),
        Binding("w", "checkpoint", "Checkpoint", show=False, id="run.checkpoint", tooltip="Write a checkpoint now"),
        Binding(
            "e", "evaluate", "Evaluate", show=False, id="run.evaluate", tooltip="Evaluate on the validation set now"
        ),
        Binding(
            "t",
            "learning_rate",
            "Learning rate",
            show=False,
            id="run.learning-rate",
            tooltip="Change the learning rate now",
        ),
        Binding("a", "enqueue", "Queue", show=False, id="run.queue", tooltip="Add the experiment to the queue"),
        Binding("W", "serve", "Start queue", show=False, id="run.serve", tooltip="Start the queue"),
        Binding(
            "A",
            "attach",
            "Runs",
            id="run.attach",
            tooltip="Attach to a run that is training, or view one that has ended",
        ),
        Binding("E", "load_run", "Load", show=False, id="run.load", tooltip="Load the run's experiment into the form"),
        Binding("Y", "copy_run", "Copy", show=False, id="run.copy", tooltip="Copy the run's directory (OSC 52)"),
    ]

    def _send(self, what: Callable[[Control], None], said: str) -> None:
        """Send a command to the run; tell what happened."""
        if self.snapshot is None or not self.snapshot.under_way or self.snapshot.run is None:
            self.notify("No run is training.", severity="warning", timeout=3)
            return
        try:
            what(self.monitor.control)
        except UserError as error:
            self.notify(str(error), severity="error")
        else:
            self.notify(said, timeout=3)

    # --- start -------------------------------------------------------------------------------------------------------

    def _experiment(self) -> tuple[str, str] | None:
        """The form's experiment as TOML, and a title; None, and a notice, when it is wrong."""
        raw = self.form.raw
        wrong = fields.problem(raw)
        if wrong is not None:
            self.notify(str(wrong), severity="error", timeout=10)
            self.choose("experiment")
            return None
        self.form.post_message(Form.Changed(raw))  # what was used last is remembered
        experiment = toml.build(raw)
        name = experiment.tracking.name or f"{_class(experiment.data.name)}-{_class(experiment.model.name)}"
        return toml.dumps(experiment), name

    def action_start(self) -> None:
        """Start the experiment, or queue it while another run goes on."""
        active = self.snapshot is not None and self.snapshot.active
        self._add(self.monitor.add, "is queued: it starts when the current run is over" if active else None)

    def action_enqueue(self) -> None:
        """Queue the experiment, and go on with what is done now."""
        active = self.snapshot is not None and self.snapshot.active
        self._add(
            self.monitor.enqueue,
            "is queued: it starts when the current run is over" if active else "is queued; W starts it",
        )

    def _add(self, take: Callable[[str, str], None], said: str | None) -> None:
        made = self._experiment()
        if made is None:
            return
        text, title = made
        try:
            take(text, title)
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        if said is not None:
            self.notify(f"{title} {said}")
        else:
            self.choose("charts")
        self.refresh_now()

    def action_serve(self) -> None:
        """Start what waits."""
        try:
            self.monitor.serve()
        except UserError as error:
            self.notify(str(error), severity="error")

    @work
    async def action_resume(self) -> None:
        """Go on with the run that is shown."""
        snapshot = self.snapshot
        if snapshot is None or snapshot.run is None or snapshot.state not in OVER:
            self.notify("Only a run that has ended can be resumed; p continues after a pause.", severity="warning")
            return
        try:
            raw = toml.read(snapshot.run / "experiment.toml")
            started = snapshot.history.started
            done = started.epochs if started else 0
            going_on = await resume_run(
                self.app, self.monitor, snapshot.run, raw, done if snapshot.state == "done" else None
            )
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        if going_on:
            self.choose("charts")
            self.refresh_now()

    # --- while it goes on --------------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Pause, or go on."""
        if self.snapshot is not None and self.snapshot.state == "paused":
            self._send(lambda control: control.resume(), "continuing")
        else:
            self._send(lambda control: control.pause(), "pausing after this step")

    def action_stop(self) -> None:
        """Stop after a checkpoint."""
        if self.snapshot is not None and self.snapshot.state == "starting":
            self.monitor.cancel()
            self.notify("not started")
            return
        self._send(lambda control: control.stop(), "stopping after a checkpoint")

    @work
    async def action_abort(self) -> None:
        """End at once."""
        answer = await self.app.push_screen_wait(
            Question(
                "Stop the run immediately? What was trained since the last checkpoint is lost.",
                [Answer("n", "no", "No, keep training"), Answer("y", "yes", "Yes, stop it without a checkpoint")],
            )
        )
        if answer == "yes":
            self._send(lambda control: control.abort(), "stopping immediately")

    def action_checkpoint(self) -> None:
        """Write a checkpoint now."""
        self._send(lambda control: control.checkpoint(), "writing a checkpoint")

    def action_evaluate(self) -> None:
        """Evaluate now."""
        self._send(lambda control: control.evaluate(), "evaluating on the validation set")

    @work
    async def action_learning_rate(self) -> None:
        """Change the learning rate of the run."""
        summary = self.snapshot.history.summary if self.snapshot else None
        if summary is None or self.snapshot is None or not self.snapshot.under_way:
            self.notify("No run is training.", severity="warning", timeout=3)
            return
        text = await self.app.push_screen_wait(
            TextDialog(
                "Learning rate from now on",
                "The schedule continues from it in proportion.",
                f"{summary.learning_rate:g}",
                read_learning_rate,
            )
        )
        if text is not None:
            self._send(lambda control: control.set_learning_rate(read_learning_rate(text)), f"learning rate {text}")

    # --- other runs --------------------------------------------------------------------------------------------------

    @work
    async def action_attach(self) -> None:
        """Choose among the runs that go on and those that are over."""
        try:
            listed, _ = list_runs(self.monitor.root)
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        live = {info.path: info for info in self.monitor.others() if info.path.parent != self.monitor.root.resolve()}
        runs = [*reversed(listed), *live.values()]
        if not runs:
            self.notify("There are no runs yet.", severity="warning")
            return
        runs.sort(key=lambda info: info.status != "running")
        choices = [
            Choice(info.path, info.name, f"{info.status}  {info.get('data', '')}  epoch {info.get('epoch', 0)}")
            for info in runs
        ]
        path = await self.app.push_screen_wait(Pick("View a run", choices, "Running ones come first."))
        if path is not None:
            self.attach(path)

    @work
    async def action_load_run(self) -> None:
        """Take the run's experiment into the form."""
        if self.snapshot is None or self.snapshot.run is None:
            self.notify("There is no run yet.", severity="warning")
            return
        try:
            run = self.snapshot.run
            raw = toml.read(run / "experiment.toml")
            if not await agreed(self.app, raw, run):
                return
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        self.load(raw, f"the experiment of {run.name}")

    def action_copy_run(self) -> None:
        """Copy the run's directory."""
        if self.snapshot is not None and self.snapshot.run is not None:
            self.app.copy_to_clipboard(str(self.snapshot.run.absolute()))
            self.notify(f"{self.snapshot.run} copied")

    def on_queue_list_asked(self, event: QueueList.Asked) -> None:
        """Something is done with what waits."""
        try:
            if event.what == "remove":
                self.monitor.queue.remove(event.item)
            elif event.what == "load":
                self.load(
                    toml.loads(event.item.experiment, event.item.title).model_dump(mode="json", exclude_defaults=True),
                    event.item.title,
                )
            elif event.other is not None:
                self.monitor.queue.swap(event.item, event.other)
        except (UserError, OSError) as error:
            self.notify(str(error), severity="error")
        self.refresh_now()


def _class(name: str) -> str:
    return name.rpartition(":")[2]


def read_learning_rate(text: str) -> float:
    """The learning rate that was typed; raises UserError for what is none."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number.") from None
    Control().set_learning_rate(value)  # raises for what is no learning rate
    return value
