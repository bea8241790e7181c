"""What may import what, seen from a fresh process."""

from __future__ import annotations

import ast
import importlib.util
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
    names = done.stdout.splitlines()[-1].split()
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith("torchdeck.")}


@pytest.mark.parametrize(
    "code",
    [
        "import torchdeck.core.catalog, torchdeck.core.experiment.schema, torchdeck.core.experiment.toml, "
        "torchdeck.core.events, torchdeck.core.control, torchdeck.core.usercode, torchdeck.core.files",
        "import torchdeck.core.experiment.toml; torchdeck.core.experiment.toml.load('digits')",
        "import torchdeck.core.session.batch, torchdeck.core.session.reporters, torchdeck.core.session.session",
        "import torchdeck.core.runs.directory, torchdeck.core.runs.listing, torchdeck.core.session.recorder, "
        "torchdeck.core.data.roots",
        "import torchdeck.core.experiment.dimension, torchdeck.core.experiment.space, "
        "torchdeck.core.search.objectives, torchdeck.core.catalog.search",
        "from torchdeck.tui.__main__ import main; main(['catalog'])",
        "from torchdeck.tui.__main__ import main; main(['runs'])",
    ],
)
def test_nothing_heavy_is_imported_before_training(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_importing_torchdeck_loads_nothing_of_it() -> None:
    loaded = loaded_after("import torchdeck; assert 'train' in dir(torchdeck)")
    assert not loaded & {*HEAVY, "pydantic", "rich", "typing", "asyncio"}
    assert not any(name.startswith("torchdeck.") for name in loaded)


def test_the_workbench_paints_before_anything_heavy_is_imported() -> None:
    assert not loaded_after("import torchdeck.tui.app") & ({*HEAVY, "pydantic", "psutil"} - {"textual"})


def test_the_screens_need_no_torch() -> None:
    loaded = loaded_after("import torchdeck.tui.screens.train, torchdeck.tui.preview")
    assert not loaded & {"torch", "torchvision", "sklearn", "ignite", "optuna", "tensorboard"}


def test_a_study_is_looked_at_without_torch() -> None:
    code = (
        "import torchdeck.core.search.snapshot, torchdeck.core.search.watch, torchdeck.core.search.report, "
        "torchdeck.core.search.start, torchdeck.core.search.workers,"
        "torchdeck.core.search.importance, torchdeck.tui.screens.search, torchdeck.tui.drawing.study, "
        "torchdeck.tui.commands.study"
    )
    loaded = loaded_after(code)
    assert "optuna" in loaded
    assert not loaded & {"torch", "torchvision", "sklearn", "ignite", "tensorboard", "matplotlib"}


def test_looking_and_evaluating_need_nothing_that_only_training_needs() -> None:
    loaded = loaded_after("import torchdeck.core.training.evaluation, torchdeck.core.evaluation.predict")
    assert "torch" in loaded
    assert not loaded & {"ignite", "torchvision", "torchmetrics", "optuna", "tensorboard"}


def test_the_engine_trains_without_the_screen() -> None:
    code = (
        "import torchdeck.core.training.build, torchdeck.core.training.trainer, "
        "torchdeck.core.session.tensorboard, torchdeck.core.evaluation.export,"
        "torchdeck.core.checkpoints.write, torchdeck.core.models.summary, torchdeck.core.machine.doctor, "
        "torchdeck.core.training.memory"
    )
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert not loaded & {"textual", "torchdeck.tui", "torchvision"}


def test_processes_of_the_engine_are_the_engines_own() -> None:
    """Whoever trains without the screen starts nothing of it."""
    started = set()
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                started.add(ast.literal_eval(node.args[0]))
    assert len(started) >= 2
    for module in started:
        assert module.startswith("torchdeck.core."), module
        assert importlib.util.find_spec(module) is not None, module
