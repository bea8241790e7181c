"""What may import what, seen from a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

HEAVY = ("torch", "torchvision", "sklearn", "ignite", "optuna", "tensorboard", "textual", "numpy")


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import core.catalog, core.experiment, core.toml, core.events, core.control, core.usercode, core.files",
        "import core.toml; core.toml.load('digits')",
        "import core.batch, core.reporters, core.training.session",
        "import core.runs.directory, core.runs.listing, core.runs.recorder, core.data.roots",
        "import core.search.dimension, core.search.space, core.search.objectives, core.catalog.search",
        "from tui.__main__ import main; main(['catalog'])",
        "from tui.__main__ import main; main(['runs'])",
    ],
)
def test_nothing_heavy_is_imported_before_training(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_the_workbench_paints_before_anything_heavy_is_imported() -> None:
    assert not loaded_after("import tui.app") & ({*HEAVY, "pydantic", "psutil"} - {"textual"})


def test_the_screens_need_no_torch() -> None:
    loaded = loaded_after("import tui.screens.train, tui.preview")
    assert not loaded & {"torch", "torchvision", "sklearn", "ignite", "optuna", "tensorboard"}


def test_a_study_is_looked_at_without_torch() -> None:
    code = (
        "import core.search.look, core.search.watch, core.search.report, core.search.start, core.search.workers,"
        "core.search.importance, tui.screens.search, tui.drawing.study, tui.commands.study"
    )
    loaded = loaded_after(code)
    assert "optuna" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "ignite", "tensorboard", "matplotlib"}


def test_the_engine_trains_without_the_screen() -> None:
    code = (
        "import core.training.build, core.training.trainer, core.tracking.tensorboard, core.checkpoints.export,"
        "core.checkpoints.write, core.models.summary, core.doctor, core.training.memory"
    )
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert not loaded & {"textual", "tui", "torchvision"}
