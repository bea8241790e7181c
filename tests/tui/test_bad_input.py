"""Everything that can be wrong with an experiment, entered through the screen: told in one sentence, the app lives
on."""

from __future__ import annotations

import gzip
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workbench import LONG, QUICK, Open, notices, train_of, until

from torchdeck.core.runs.listing import list_runs
from torchdeck.tui.widgets.form import Form
from torchdeck.tui.widgets.model_tree import ModelTree

Make = Callable[[Path], dict[str, Any]]


def table(text: str, **args: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "t.csv").write_text(text)
        return {"data": {"name": "table", "args": {"path": str(folder / "t.csv"), **args}}}

    return make


def arrays(**values: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        np.savez(folder / "a.npz", **values)
        return {"data": {"name": "npz", "args": {"path": str(folder / "a.npz")}}}

    return make


def code(kind: str, text: str, **more: Any) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        # Each has a name of its own: for two modules of one name the process that looks at them would begin afresh.
        file = folder / f"own{folder.name}.py"
        file.write_text("import torch\n" + text)
        return {"data": {"name": "iris"}, **more, kind: {"name": f"{file}:Own"}}

    return make


def images(folder: Path) -> dict[str, Any]:
    for label, size in (("a", 8), ("b", 12)):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (size, size)).save(folder / "images" / label / f"{number}.png")
    return {"data": {"name": "ImageFolder", "args": {"path": str(folder / "images")}}, "model": {"name": "cnn"}}


def idx(content: bytes) -> Make:
    def make(folder: Path) -> dict[str, Any]:
        raw = folder / "root" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (raw / f"{name}-ubyte.gz").write_bytes(content)
        return {"data": {"name": "MNIST", "root": str(folder / "root"), "download": False}}

    return make


CASES: dict[str, tuple[Make, str]] = {
    "empty csv": (table(""), "t.csv"),
    "csv with one class": (table("a,b\n1,0\n2,0\n3,0\n4,0\n"), "class"),
    "csv with a hole": (table("a,b\n1,0\n,1\n2,0\n3,1\n"), "t.csv"),
    "csv without that target": (table("a,b\n1,0\n2,1\n", target="gone"), "gone"),
    "npz without y": (arrays(x=np.zeros((9, 3), "float32")), "y"),
    "NaN in the inputs": (arrays(x=np.full((20, 3), np.nan, "float32"), y=np.arange(20) % 2), "NaN"),
    "more classes than are told": (
        lambda folder: {"data": {"name": "iris", "num_classes": 2}},
        "data.num_classes = 2, but 'iris' has 3 classes",
    ),
    "images of several sizes": (images, "size"),
    "idx cut off": (idx(gzip.compress(struct.pack(">IIII", 0x803, 60000, 28, 28) + b"\0" * 999)), "ubyte"),
    "idx of zeros": (idx(b"\0" * 64), "ubyte"),
    "idx that is empty": (idx(b""), "ubyte"),
    "folder that is not there": (lambda folder: {"data": {"name": "ImageFolder", "args": {"path": "gone"}}}, "gone"),
    "needs an argument": (lambda folder: {"data": {"name": "table"}}, "path is missing"),
    "code that does not import": (code("model", "import nothing_like_it\n"), "nothing_like_it"),
    "code that is no Python": (code("model", "class Own(\n"), "own.py"),
    "code that raises": (
        code("model", "class Own(torch.nn.Module):\n    def __init__(self): raise OSError('no luck')\n"),
        "no luck",
    ),
    "forward that raises": (
        code(
            "model",
            "class Own(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 3)\n"
            "    def forward(self, x): raise RuntimeError('in forward')\n",
        ),
        "in forward",
    ),
    "wrong shape": (
        code("model", "class Own(torch.nn.Linear):\n    def __init__(self): super().__init__(99, 3)\n"),
        "own.py",
    ),
    "too few outputs": (
        code("model", "class Own(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"),
        "2",
    ),
    "no class of that name": (code("model", "class Other: ...\n"), "has no 'Own'"),
    "data of one's own that is empty": (
        code(
            "data",
            "class Own(torch.utils.data.Dataset):\n    def __len__(self): return 0\n    def __getitem__(self, "
            "i): ...\n",
        ),
        "empty",
    ),
    "items of two inputs for a model of one": (
        code(
            "data",
            "class Own(torch.utils.data.Dataset):\n    def __len__(self): return 9\n"
            "    def __getitem__(self, i): return 1, 2, i % 2\n",
        ),
        "can't take a batch of the shape [[2], [2]]",
    ),
    "device that is not there": (lambda folder: {"trainer": {"device": "cuda:9"}}, "not on this machine"),
    "precision that the device has not": (lambda folder: {"trainer": {"device": "cpu", "precision": "fp16"}}, "fp16"),
    "pattern that matches nothing": (lambda folder: {"model": {"freeze": ["gone.*"]}}, "gone"),
    "everything frozen": (lambda folder: {"model": {"freeze": ["*"]}}, "nothing to train"),
    "an image model on a table": (lambda folder: {"data": {"name": "iris"}, "model": {"name": "cnn"}}, "model.name"),
}


async def test_what_is_wrong_is_told_while_the_form_is_edited(workbench: Open, tmp_path: Path) -> None:
    """One session at the screen, one wrong experiment after the other."""
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        tree = screen.query_one(ModelTree)
        for number, (name, (make, words)) in enumerate(CASES.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            pilot.app.clear_notifications()
            raw = make(folder)
            screen.form.show(raw)
            screen.form.post_message(Form.Changed(raw))
            await until(pilot, lambda: notices(pilot), 60)
            assert words.replace("own.py", f"own{number}.py") in notices(pilot), (name, notices(pilot))
            assert "Traceback" not in notices(pilot).splitlines()[0], name
        screen.form.show(QUICK)
        screen.form.post_message(Form.Changed(QUICK))
        await until(pilot, lambda: tree.root.data and tree.root.data["parameters"] > 0)
        assert list_runs(screen.monitor.root)[0] == []


async def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(workbench: Open) -> None:
    raw = {
        **LONG,
        "optimizer": {"name": "SGD", "lr": 1e3},
        "loss": {"name": "mse"},
        "data": {"name": "diabetes", "scale_target": False},
    }
    async with workbench(raw) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "failed")
        assert screen.snapshot is not None
        assert "learning rate" in screen.snapshot.history.message


async def test_runs_that_cannot_be_written(workbench: Open, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    async with workbench(QUICK) as pilot:
        await pilot.press("s")
        await until(pilot, lambda: "can't be written" in notices(pilot))


async def test_a_disk_that_fills_up_in_mid_run(workbench: Open, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(runs)], capture_output=True).returncode:
        pytest.skip("a small disk needs root")
    try:
        async with workbench(LONG) as pilot:
            screen = train_of(pilot)
            await pilot.press("s")
            await until(pilot, lambda: screen.snapshot and screen.snapshot.state in ("failed", "dead"))
            await until(pilot, lambda: "can't be written" in notices(pilot) or "dead" in notices(pilot))
            await pilot.press("2", "1")  # it lives
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)
