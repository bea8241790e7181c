"""What is done with a study's trials: stopped, pruned, added, taken further."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.binding import Binding

from torchdeck.core.errors import UserError
from torchdeck.tui.screens.dialogs import TextDialog
from torchdeck.tui.screens.search_actions import SearchActions

if TYPE_CHECKING:
    from torchdeck.core.search.rows import TrialRow
    from torchdeck.core.search.study import Study


class TrialActions(SearchActions):
    """Part of the Search screen."""

    BINDINGS = [
        Binding(
            "X",
            "stop_trial",
            "Stop trial",
            show=False,
            id="search.stop-trial",
            tooltip="Stop the trial; its best value so far counts",
        ),
        Binding("p", "prune", "Prune", id="search.prune", tooltip="Prune the trial"),
        Binding("a", "add", "Add", id="search.add", tooltip="Add a trial: values to try next"),
        Binding("enter", "run", "Run", show=False, id="search.run", tooltip="View the trial's run on the Train screen"),
        Binding(
            "E",
            "experiment",
            "To form",
            id="search.experiment",
            tooltip="Load the trial's experiment into the form of the Train screen",
        ),
        Binding("c", "checkpoints", "Weights", show=False, id="search.checkpoints", tooltip="The trial's checkpoints"),
    ]

    @property
    def current(self) -> TrialRow | None:
        """The trial under the cursor."""
        raise NotImplementedError

    def _needs_trial(self) -> TrialRow | None:
        if self.current is None:
            self.notify("There is no trial.", severity="warning", timeout=3)
        return self.current

    @work
    async def action_stop_trial(self) -> None:
        """Stop the trial under the cursor."""
        await self._ask_of("stop", "stops; its best value so far counts")

    @work
    async def action_prune(self) -> None:
        """Give up the trial under the cursor."""
        await self._ask_of("prune", "is pruned")

    async def _ask_of(self, command: str, said: str) -> None:
        row = self._needs_trial()
        if row is None:
            return
        from torchdeck.core.search.watch import ask_of

        await self._do(lambda study: ask_of(study, row.number, command), f"trial {row.number} {said}")

    @work
    async def action_add(self) -> None:
        """Add a trial by hand, beginning with the values of the one under the cursor."""
        study = self.study
        if study is None:
            self._needs_study()
            return
        from torchdeck.core.search.rows import settings
        from torchdeck.tui.commands.study import settings_of

        def parse(text: str) -> dict[str, Any]:
            words = shell_words(text)
            if not words:
                raise UserError("Give at least one value.")
            return settings_of(study, words)

        text = await self.app.push_screen_wait(
            TextDialog(
                "Try next",
                "KEY=VALUE ...; what is left out is sampled.",
                settings(self.current) if self.current else "",
                parse,
            )
        )
        if text is not None:

            def add(study: Study) -> None:
                with study.locked():
                    study.enqueue(parse(text))

            await self._do(add, "it will be tried next")

    # --- taking it further
    # -----------------------------------------------------------------------------------------------

    def _run(self) -> Path | None:
        row = self._needs_trial()
        if row is None or self.study is None:
            return None
        run = self.study.folder / row.run if row.run and not row.former else None
        if run is None or not run.is_dir():
            self.notify(f"The run of trial {row.number} is not on this machine.", severity="warning", timeout=4)
            return None
        return run

    def on_table_chosen(self) -> None:
        """Enter on a trial."""
        run = self._run()
        if run is not None:
            workbench: Any = self.app
            workbench.open_screen("train")
            workbench.train.attach(run)
            workbench.train.choose("charts")

    def action_checkpoints(self) -> None:
        """The trial's checkpoints."""
        run = self._run()
        if run is not None:
            workbench: Any = self.app
            workbench.open_screen("checkpoints", run)

    @work
    async def action_experiment(self) -> None:
        """Take the trial's experiment into the form."""
        row, study = self._needs_trial(), self.study
        if row is None or study is None:
            return
        try:
            if not await self._trusted(study):
                return
            raw = study.experiment_of_trial(row.fields, row.run).model_dump(mode="json", exclude_unset=True)
        except UserError as error:
            self._fail(error)
            return
        workbench: Any = self.app
        workbench.open_screen("train")
        workbench.train.load(raw, f"the experiment of trial {row.number} of {study.name}")
        workbench.train.choose("experiment")

    def facts(self, row: TrialRow | None) -> Sequence[tuple[str, str]]:
        """What is known of the study, and of a trial."""
        from torchdeck.core.search.rows import shown
        from torchdeck.core.text import number

        snapshot = self.seen
        if snapshot is None:
            return ()
        found = [
            ("study", str(snapshot.folder.absolute())),
            ("seeks", ", ".join(o.text for o in snapshot.objectives)),
            (
                "limits",
                f"{snapshot.limits.trials} trials"
                + (f", {snapshot.limits.minutes:g} minutes" if snapshot.limits.minutes else "")
                + (f", no better for {snapshot.limits.patience}" if snapshot.limits.patience else ""),
            ),
        ]
        found += [(f"⌕ {key}", d.text) for key, d in snapshot.dimensions.items()]
        if row is not None:
            found += [("", ""), (f"trial {row.number}", row.state + (f": {row.reason}" if row.reason else ""))]
            found += [(o.name, number(v, o.name)) for o, v in zip(snapshot.objectives, row.values, strict=False)]
            found += [(key, shown(value)) for key, value in row.fields.items()]
            found += [(key, shown(value)) for key, value in row.attributes.items() if key != "reason"]
        return found


def shell_words(text: str) -> list[str]:
    """``KEY=VALUE`` texts with spaces between; values may be lists, with spaces in them."""
    found: list[str] = []
    for word in text.split():
        if "=" in word or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found
