"""What is installed from a wheel and from a source distribution, in an environment that has no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PROJECT = {
    "core/__init__.py": "",
    "core/blocks.py": "from torch import nn\n\ndef block(a, b):\n    return nn.Linear(a, b)\n",
    "tui/__init__.py": "WIDTH = 4\n",
    "utils/__init__.py": "def scaled(x):\n    return x / 2\n",
    "models/__init__.py": "",
    "models/net.py": """\
import core, tui
from core.blocks import block
from torch import nn
from utils import scaled
from on_the_path import CLASSES

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = block(tui.WIDTH, CLASSES)
    def forward(self, x):
        return self.layer(scaled(x))
""",
    "data/__init__.py": "",
    "data/sets.py": """\
import torch
import core, tui
from utils import scaled
from on_the_path import CLASSES

class Own:
    def __init__(self):
        self.targets = torch.arange(40) % CLASSES
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return scaled(torch.ones(tui.WIDTH)), self.targets[i]
""",
    "lib/on_the_path.py": "CLASSES = 2\n",
}


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that knows nothing of this environment; returns what it printed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240, env={**kept, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_of(source: Path, folder: Path) -> Path:
    folder.mkdir()
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


def files_of_the_checkout() -> set[str]:
    packages = [path for name in ("core", "tui") for path in (ROOT / name).rglob("*") if path.is_file()]
    found = {path.relative_to(ROOT).as_posix() for path in packages if "__pycache__" not in path.parts}
    return found | {path.name for path in (ROOT / "src" / "torchdeck").iterdir() if path.is_file()}


def files_of(names: list[str], package: str) -> set[str]:
    return {name.removeprefix(package) for name in names if name.startswith(package)}


def trains_beside_a_project_of_the_users(wheel: Path, folder: Path, workers: int) -> None:
    """In an environment that has torchdeck from this wheel, and what it depends on from this environment."""
    home = folder / "environment"
    venv.create(home)
    python = home / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    packages = next((home / "lib").glob("python*/site-packages"))
    assert not (packages / "core").exists() and not (packages / "tui").exists()
    # A .pth file in a folder that is named by one is not read: torchdeck is not found there where it is editable.
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))

    project = folder / "project"
    for name, text in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    told = run(python, "-P", "-c", "import torchdeck.core, torchdeck.tui; print(torchdeck.core.__file__)", cwd=project)
    assert Path(told.strip()) == packages / "torchdeck" / "core" / "__init__.py"
    words = ("model.name=models/net.py:Net", "data.name=data.sets:Own", "trainer.epochs=1", f"data.workers={workers}")
    sets = [word for value in words for word in ("--set", value)]
    told = run(home / "bin" / "torchdeck", "--batch", *sets, cwd=project, PYTHONPATH=str(project / "lib"))
    assert "done in" in told, told
    assert len(list(project.glob("runs/*/checkpoints/*.pt"))) >= 1
    assert "digits" in run(home / "bin" / "torchdeck", "catalog", cwd=project)


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_wheel_and_a_source_distribution_hold_all_and_train(tmp_path: Path) -> None:
    wheel = wheel_of(ROOT, tmp_path / "wheel")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"torchdeck"}
    assert files_of(names, "torchdeck/") == files_of_the_checkout()
    trains_beside_a_project_of_the_users(wheel, tmp_path / "wheel", workers=1)

    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT)
    sdist = next(tmp_path.glob("torchdeck-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        assert not [member.name for member in members if member.issym()]
        top = sdist.name.removesuffix(".tar.gz")
        assert files_of([m.name for m in members], f"{top}/src/torchdeck/") == files_of_the_checkout()
    from_sdist = wheel_of(sdist, tmp_path / "sdist")
    assert sorted(zipfile.ZipFile(from_sdist).namelist()) == sorted(names)
    trains_beside_a_project_of_the_users(from_sdist, tmp_path / "sdist", workers=0)
