"""What is done with a study: begun, gone on with, stopped, its space changed."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.binding import Binding

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.tui.memory import Memory
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.consent import trusted
from torchdeck.tui.screens.dialogs import Answer, Choice, Pick, Question, TextDialog, whole_number
from torchdeck.tui.screens.split_screen import SplitScreen

if TYPE_CHECKING:
    from torchdeck.core.experiment.schema import Experiment
    from torchdeck.core.search.snapshot import StudyPoller, StudySnapshot
    from torchdeck.core.search.study import Study


class SearchActions(SplitScreen):
    """Part of the Search screen."""

    BINDINGS = [
        Binding(
            "n",
            "new",
            "New",
            id="search.new",
            tooltip="Start a study of the form's experiment (m on a field of the form gives it a range)",
        ),
        Binding("o", "open", "Open", id="search.open", tooltip="Open another study"),
        Binding("s", "go_on", "Start", id="search.start", tooltip="Start or continue: total trials, and workers"),
        Binding("x", "stop", "Stop", id="search.stop", tooltip="Stop all workers after a checkpoint"),
        Binding("e", "edit", "Space", id="search.edit", tooltip="Change the search space and keep the trials"),
        Binding("Y", "copy", "Copy", show=False, id="search.copy", tooltip="Copy the study's directory (OSC 52)"),
    ]

    def __init__(self, monitor: RunMonitor, memory: Memory, roots: list[Path]) -> None:
        super().__init__()
        self.monitor, self.memory, self.roots = monitor, memory, roots
        self.poller: StudyPoller | None = None
        #: What was seen last.
        self.seen: StudySnapshot | None = None
        #: Why nothing can be seen.
        self.wrong = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def study(self) -> Study | None:
        """The study that is shown."""
        return self.poller.study if self.poller is not None else None

    def _fail(self, error: UserError) -> None:
        self.notify(str(error), severity="error", timeout=10)

    def _needs_study(self) -> bool:
        if self.study is None:
            self.notify(
                "There is no study yet: give fields a range with m on the form, then start one with S n.",
                severity="warning",
                timeout=5,
            )
        return self.study is not None

    # --- opening -----------------------------------------------------------------------------------------------------

    def nothing(self) -> str:
        """What is said when there is no study."""
        where = ", ".join(str(root) for root in self.roots)
        return f"no studies in {where}: m on a field of the form (T) gives it a range, then S n starts a study"

    async def open_latest(self) -> None:
        """Open the study that was begun or worked on last, where none is open."""
        if self.poller is None:
            folders = await asyncio.to_thread(self._folders)
            if folders:
                await self._open(folders[0])

    def _folders(self) -> list[Path]:
        """Folders of studies, the newest first."""
        if not any(next(root.glob("*/study.json"), None) for root in self.roots if root.is_dir()):
            return []
        from torchdeck.core.search.folders import folders

        found = [folder for root in self.roots for folder in folders(root)]
        return sorted(found, key=_touched, reverse=True)

    async def _open(self, folder: Path) -> None:
        from torchdeck.core.search.opening import open_folder
        from torchdeck.core.search.snapshot import StudyPoller

        study = await asyncio.to_thread(open_folder, folder)
        self.poller, self.seen = StudyPoller(study), None

    @work
    async def action_open(self) -> None:
        """Choose a study."""
        folders = await asyncio.to_thread(self._folders)
        if not folders:
            self._needs_study()
            return
        choices = [Choice(folder, folder.name, str(folder)) for folder in folders]
        chosen = await self.app.push_screen_wait(
            Pick("Open a study", choices, value=self.study.folder if self.study else None)
        )
        if chosen is not None:
            try:
                await self._open(chosen)
            except UserError as error:
                self._fail(error)
            self.refresh_now()

    # --- beginning, going on, stopping
    # ---------------------------------------------------------------------------------

    @work
    async def action_new(self) -> None:
        """Begin a study of the form's experiment."""
        workbench: Any = self.app
        try:
            experiment = toml.build(workbench.train.form.raw)
            if not experiment.search.space and experiment.search.function is None:
                raise UserError("Nothing is searched yet: on the Train screen, m on a field gives it a range.")
            from torchdeck.core.search.opening import default_name

            name = await self.app.push_screen_wait(
                TextDialog(
                    "Name of the study",
                    "It is also the name of its directory.",
                    default_name(experiment),
                    check_study_name,
                )
            )
            if name is None:
                return
            study = await self._create(experiment, name.strip())
        except UserError as error:
            self._fail(error)
            return
        if study is None:
            return
        from torchdeck.core.search.snapshot import StudyPoller

        self.poller, self.seen = StudyPoller(study), None
        self.refresh_now()
        await self._ask_and_start()

    async def _create(self, experiment: Experiment, name: str) -> Study | None:
        """Make it; where another one has the name, ask what is meant."""
        from torchdeck.core.search.change import StudyExists
        from torchdeck.core.search.opening import create

        experiment = experiment.model_copy(update={"search": experiment.search.model_copy(update={"name": None})})
        try:
            return await asyncio.to_thread(create, experiment, self.monitor.root, None, name)
        except StudyExists as error:
            former = error
            answer = await self.app.push_screen_wait(
                Question(
                    former.difference,
                    [
                        Answer("c", "cancel", "Cancel"),
                        Answer("l", "learn", "Start a new study that learns from its trials"),
                        Answer("b", "begin", "Start a new study from scratch"),
                    ],
                )
            )
        if answer not in ("learn", "begin"):
            return None
        if answer == "learn":
            search = experiment.search.model_copy(
                update={"warm_start": (*experiment.search.warm_start, str(former.folder))}
            )
            experiment = experiment.model_copy(update={"search": search})
        return await asyncio.to_thread(create, experiment, self.monitor.root, None, former.free_name)

    @work
    async def action_go_on(self) -> None:
        """Start workers."""
        if self._needs_study():
            await self._ask_and_start()

    async def _ask_and_start(self) -> None:
        study = self.study
        assert study is not None
        try:
            if not await self._trusted(study):
                return
            limits = await asyncio.to_thread(lambda: study.limits)
            text = await self.app.push_screen_wait(
                TextDialog(
                    "Total trials, and workers",
                    "For example 50, or 50 2 for two processes.",
                    f"{limits.trials} 1",
                    read_trials_and_workers,
                )
            )
            if text is None:
                return
            trials, workers = read_trials_and_workers(text)
            await asyncio.to_thread(self._start, study, trials, workers)
        except UserError as error:
            self._fail(error)
            return
        self.refresh_now()

    async def _trusted(self, study: Study) -> bool:
        code = await asyncio.to_thread(study.unvouched)
        return code is None or await trusted(self.app, study.name, code)

    def _start(self, study: Study, trials: int, workers: int) -> None:
        from torchdeck.core.search.start import start

        with study.errors():
            study.set_limits(trials=trials)
            study.allow()
        self._process, self._started_at = start(study.folder, workers, study.unvouched() is not None), time.monotonic()

    @property
    def starting(self) -> bool:
        """Whether workers were started here and have not taken a trial yet."""
        return self._process is not None and self._process.poll() is None and time.monotonic() - self._started_at < 60

    def _mind_process(self) -> None:
        """Tell why the process that was started here ended, where it failed."""
        if self._process is not None and self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            if code not in (0, 130, 143) and self.study is not None:
                from torchdeck.core.search.start import last_output

                self.notify(
                    last_output(self.study.folder) or f"the search ended with exit code {code}",
                    severity="error",
                    timeout=12,
                )
            elif code == 0 and self.seen is not None:
                self.app.bell()
                self.notify(f"{self.seen.name}: the search is over", timeout=8)

    @work
    async def action_stop(self) -> None:
        """Have all workers stop."""
        if self._needs_study():
            await self._do(lambda study: study.stop(), "all workers stop after a checkpoint; s continues")

    async def _do(self, what: Callable[[Study], Any], said: str) -> None:
        """Do something with the study, in a thread; tell what happened."""
        study = self.study
        assert study is not None

        def locked() -> None:
            with study.errors():
                what(study)

        try:
            await asyncio.to_thread(locked)
        except UserError as error:
            self._fail(error)
            return
        self.notify(said, timeout=4)
        self.refresh_now()

    @work
    async def action_edit(self) -> None:
        """Change the range of a field, take one out, or add one."""
        study = self.study
        if study is None:
            self._needs_study()
            return
        choices = [Choice(key, key, d.text) for key, d in study.space.dimensions.items()]
        choices.append(Choice("", "another field…", "search one more"))
        key = await self.app.push_screen_wait(Pick("Change the search space", choices))
        if key is None:
            return
        if key == "":
            key = await self.app.push_screen_wait(
                TextDialog("Which field?", "Such as trainer.batch_size.", "", check_search_key)
            )
            if not key:
                return
        from torchdeck.core.experiment.dimension import read_dimension
        from torchdeck.core.search.change import edit

        before = study.space.dimensions[key].text if key in study.space.dimensions else ""
        text = await self.app.push_screen_wait(
            TextDialog(
                f"Searched values of {key}",
                "1e-4 .. 0.1 log, 16 .. 512 step 16, SGD | AdamW; empty: no longer searched.",
                before,
                lambda text: read_dimension(key, text) if text.strip() else None,
            )
        )
        if text is None or text.strip() == before:
            return

        def change(study: Study) -> None:
            with study.locked():
                edit(study, {key: text.strip() or None})

        await self._do(change, f"{key}: {text.strip() or 'no longer searched'}")

    def action_copy(self) -> None:
        """Copy the study's directory."""
        if self.study is not None:
            self.app.copy_to_clipboard(str(self.study.folder.absolute()))
            self.notify(f"{self.study.folder} copied", timeout=3)


def _touched(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.glob("optuna.*")))
    except (OSError, ValueError):
        return 0.0


def check_study_name(text: str) -> None:
    """Raises UserError for what can't name the folder of a study."""
    from torchdeck.core.runs.directory import folder_name

    if not text.strip() or folder_name(text.strip()) != text.strip():
        raise UserError("A name of letters, digits, '.', '-' and '_'.")


def check_search_key(text: str) -> None:
    """Raises UserError for what is no key of the experiment; nothing typed is none yet."""
    if text.strip():
        toml.check_key(text.strip())


def read_trials_and_workers(text: str) -> tuple[int, int]:
    """Trials in all and workers (1 unless given); raises UserError for other than whole numbers above 0."""
    words = text.split()
    if not 1 <= len(words) <= 2 or not all(whole_number(word) for word in words):
        raise UserError("One or two whole numbers above 0: total trials, and workers.")
    return int(words[0]), int(words[1]) if len(words) == 2 else 1
