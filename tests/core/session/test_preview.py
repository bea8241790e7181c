"""The process that looks at data and model."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from torchdeck.core.experiment import toml
from torchdeck.core.session.preview import STALE
from torchdeck.core.session.queue import environment


class Looker:
    """Asks the process, and collects the parts of its answer."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "torchdeck.core.session.preview"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=folder,
        )
        self._number = 0

    def send(self, source: str | None, *overrides: str) -> None:
        assert self.process.stdin is not None
        self._number += 1
        text = toml.dumps(toml.load(source, overrides))
        self.process.stdin.write(json.dumps({"id": self._number, "experiment": text}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, source: str | None, *overrides: str) -> dict[str, Any]:
        self.send(source, *overrides)
        assert self.process.stdout is not None
        parts: dict[str, Any] = {}
        while "done" not in parts:
            line = self.process.stdout.readline()
            assert line, "the process ended"
            message = json.loads(line)
            if message.pop("id") == self._number:
                parts.update(message)
        return parts


@pytest.fixture
def poller(tmp_path: Path) -> Iterator[Looker]:
    poller = Looker(tmp_path)
    yield poller
    poller.process.kill()
    poller.process.wait()


def test_data_and_model(poller: Looker) -> None:
    found = poller.ask("digits")
    data, root = found["data"], found["model"]["root"]
    assert data["input_shape"] == [1, 8, 8]
    assert sum(data["counts"]) == data["samples"]["train"]
    pictures = data["pictures"]
    size = pictures["count"] * pictures["height"] * pictures["width"] * 3
    assert len(base64.b64decode(pictures["rgb"])) == size
    assert len(data["labels"]) == pictures["count"]
    assert root["parameters"] == root["trainable"] == 50_826
    assert found["device"]["device"] in ("cpu", "mps") or found["device"]["device"].startswith("cuda")
    assert found["device"]["why"]

    table = poller.ask("iris", "model.freeze=['1.*']")
    assert table["data"]["pictures"] is None
    assert len(table["data"]["rows"][0]) == 4
    assert 0 < table["model"]["root"]["trainable"] < table["model"]["root"]["parameters"]

    regression = poller.ask("diabetes")
    assert regression["data"]["counts"] is None


def test_wrong_experiments_are_one_sentence_and_it_lives_on(poller: Looker, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nclass Raises(torch.nn.Module):\n    def __init__(self):\n        raise KeyError('width')\n"
    )
    (tmp_path / "x.csv").write_text("")
    for overrides, words in (
        (("model.name=gone.py:Net",), "no file"),
        (("model.name=net.py:Raises",), "width"),
        (("data.name=table", "data.args.path=x.csv"), "x.csv"),
        (("model.name=resnet18", "data.name=iris"), "model.name"),
    ):
        found = poller.ask(None, *overrides)
        assert words in found["error"]
        assert "Traceback" not in found["error"].splitlines()[0]
    assert "model" in poller.ask("iris")


def test_code_that_was_edited_is_read_anew(poller: Looker, tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    text = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 3, bias={})\n"
    code.write_text(text.format(True))
    assert poller.ask("iris", "model.name=net.py:Net")["model"]["root"]["parameters"] == 15
    time.sleep(0.01)
    code.write_text(text.format(False))
    poller.send("iris", "model.name=net.py:Net")
    assert poller.process.wait(20) == STALE
    again = Looker(tmp_path)
    assert again.ask("iris", "model.name=net.py:Net")["model"]["root"]["parameters"] == 12
    again.process.kill()
    again.process.wait()


def test_code_that_is_edited_while_the_rest_is_looked_at_is_read_anew(poller: Looker, tmp_path: Path) -> None:
    data = tmp_path / "mine.py"
    made = "torch.utils.data.TensorDataset(torch.rand(40, 4), torch.arange(40) % 3)"
    data.write_text(f"import torch\ndef build(): return {made}\n")
    slow = "def __init__(self): time.sleep(1); super().__init__(4, 3)"
    (tmp_path / "net.py").write_text(f"import time, torch\nclass Net(torch.nn.Linear):\n    {slow}\n")
    words = (None, "data.name=mine.py:build", "model.name=net.py:Net")
    before = data.stat().st_mtime
    poller.send(*words)
    assert poller.process.stdout is not None
    for line in poller.process.stdout:
        found = json.loads(line)
        if "data" in found:  # it is there: the model is still being built
            data.write_text("def build(): raise OSError('no disk')\n")
        if "files" in found:  # whoever watches them must see that it was edited since
            assert found["files"][str(data)] == before < data.stat().st_mtime
        if "done" in found:
            break
    poller.send(*words)
    assert poller.process.wait(20) == STALE


def test_what_the_users_code_prints_does_not_get_between_the_answers(poller: Looker, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import os, torch\nprint('{\"id\": 1}')\nos.system('echo loud')\n"
        "class Net(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 3)\n"
    )
    assert poller.ask("iris", "model.name=net.py:Net")["model"]["root"]["parameters"] == 15


def test_of_several_requests_the_newest_is_answered(poller: Looker) -> None:
    for _ in range(5):
        poller.send("digits")
    assert poller.ask("iris")["data"]["name"] == "iris"


def test_importing_it_needs_no_torch() -> None:
    code = "import torchdeck.core.session.preview, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
