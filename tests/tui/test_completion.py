"""Completion, held against the shells themselves: what they ask, and what they make of the answer."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import COMMAND

from torchdeck.tui.complete import candidates, in_bash
from torchdeck.tui.parsers import VERBS


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs, a study, TOML files and a model of one's own, and torchdeck on the PATH."""
    for name in ("20261124-1052", "20261124-1107", "a b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "runs" / "lr-study").mkdir()
    (tmp_path / "runs" / "lr-study" / "study.json").write_text(json.dumps({}))
    for name in ("mine.toml", "two words.toml", "other.txt"):
        (tmp_path / name).write_text('[model]\nname = "cnn"\n' if name.endswith(".toml") else "")
    (tmp_path / "net.py").write_text(
        "import torch\n\nclass MyNet(torch.nn.Module):\n    def __init__(self, width=3): ...\n"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "torchdeck").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    (tmp_path / "bin" / "torchdeck").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(*words: str) -> list[str]:
    return [one.text for one in candidates(words[:-1], words[-1])]


def test_what_a_word_may_become(project: Path) -> None:
    first = texts("")
    assert set(VERBS) < set(first)
    assert {"fashion-cnn", "mine.toml", "two words.toml", "bin/"} < set(first)
    assert "other.txt" not in first
    assert texts("ru") == ["runs"]  # the verb, and not the folder that most have
    assert texts("--qu") == ["--queue", "--quiet"]
    assert texts("show", "2") == ["20261124-1107", "20261124-1052"]
    assert texts("show", "--runs", "nowhere", "2") == []
    assert texts("study", "show", "") == ["lr-study"]
    assert texts("study", "p") == ["plot", "prune"]
    assert texts("study", "plot", "lr-study", "par") == ["parallel", "pareto"]
    assert texts("catalog", "optimizer", "SG") == ["SGD"]
    assert texts("export", "x", "--format", "torchs") == ["torchscript"]
    assert texts("export", "x", "--format=torchs") == ["--format=torchscript"]
    assert texts("evaluate", "x", "--checkpoint", "b") == ["best", "bin/"]
    assert texts("evaluate", "x", "--data", "Fash") == ["FashionMNIST"]
    assert texts("completion", "") == ["bash", "zsh", "fish"]
    assert texts("--nonsense", "study", "no-such", "--what", "") == []


def test_keys_and_values_of_set(project: Path) -> None:
    assert texts("--set", "trainer.ep") == ["trainer.epochs="]
    assert texts("--set", "optimizer.name=adam") == []
    assert texts("--set", "optimizer.name=AdamW") == ["optimizer.name=AdamW"]
    assert texts("--set", "trainer.compile=") == [
        "trainer.compile=true",
        "trainer.compile=false",
        "trainer.compile=auto",
    ]
    assert texts("--set", "trainer.precision=b") == ["trainer.precision=bf16"]
    # The parameters are those of the model that the file and the words before name.
    assert "model.args.convs=" in texts("mine.toml", "--set", "model.args.")
    assert "model.args.widths=" in texts("mine.toml", "--set", "model.name=mlp", "--set", "model.args.")
    assert texts("--set", "model.name=net.py:MyNet", "--set", "model.args.") == ["model.args.width="]
    assert texts("--set", "model.name=net.py:") == ["model.name=net.py:MyNet"]
    assert texts("--set", "search.space.optimizer.lr") == ["search.space.optimizer.lr="]
    assert texts("broken.toml", "--set", "trainer.see") == ["trainer.seed="]


def test_bash(project: Path) -> None:
    asked = {
        "torchdeck plo": ["plot "],
        "X=1 torchdeck --batch min": ["mine.toml "],
        "torchdeck --set trainer.ep": ["trainer.epochs="],
        "torchdeck --set optimizer.name=Adaf": ["Adafactor "],  # bash takes = and : for ends of words
        "torchdeck --set model.name=net.py:M": ["MyNet "],
        "torchdeck --set 'optimizer.name=Adaf": ["optimizer.name=Adafactor"],  # it closes the quote itself
        "torchdeck show a": [r"a\ b "],
        r"torchdeck show a\ ": [r"a\ b "],
        "torchdeck ~/mi": ["~/mine.toml "],
    }
    script = 'eval "$(torchdeck completion bash)"\n'
    for line in asked:
        script += (
            f'COMP_LINE={json.dumps(line)} COMP_POINT={len(line)}; _torchdeck torchdeck; printf "%s\\n" '
            f'"${{COMPREPLY[@]}}" --\n'
        )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    answers = [block.split("\n")[:-1] for block in done.stdout.split("--\n")]
    assert dict(zip(asked, answers, strict=False)) == asked
    assert done.stderr == ""


def test_names_from_elsewhere_run_nothing_in_bash(project: Path) -> None:
    names = {"$(touch hacked)", "it's", 'a"b', "`touch hacked`", "back\\slash", "semi;touch hacked", "a b", "star*!"}
    shutil.rmtree("runs")
    for name in names:
        (project / "runs" / name).mkdir(parents=True)
        (project / "runs" / name / "run.json").write_text("{}")
    for quote in ("", "'", '"'):
        line = f"torchdeck delete {quote}"
        words = [word + quote for word in in_bash(line, " \t\n\"'><=;|&(:")]
        script = "\n".join(f"printf '%s\\n' {quote}{word}" for word in words)
        done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
        assert set(done.stdout.splitlines()) == names
    assert not (project / "hacked").exists()
    (project / "line\nfeed.toml").touch()
    assert not [text for text in texts("li") if text.startswith("line")]
    assert in_bash("torchdeck show \\", " =:")  # what is typed ends within an escape


def typed(shell: list[str], setup: str, line: str, wanted: str) -> str:
    """What stands on the line of an interactive shell after the tab key."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], shell, {**os.environ, "TERM": "dumb", "PS1": "$ "})
    seen = b""
    try:
        os.write(terminal, f"{setup}; echo re''ady\n".encode())
        sent, end = False, time.monotonic() + 60
        while time.monotonic() < end and wanted.encode() not in seen:
            if not sent and b"ready" in seen:
                os.write(terminal, f"{line}\t".encode())
                sent = True
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536)
        return seen.decode(errors="replace")
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_an_interactive_bash_completes_behind_the_equals_sign(project: Path) -> None:
    line, wanted = "torchdeck --set optimizer.name=Adaf", "--set optimizer.name=Adafactor "
    assert wanted in typed(["bash", "--norc", "--noprofile", "-i"], 'eval "$(torchdeck completion bash)"', line, wanted)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("torchdeck --set optimizer.name=Adaf", "--set optimizer.name=Adafactor "),
        ("torchdeck ~/mi", "ne.toml"),
    ],
)
def test_an_interactive_zsh(project: Path, line: str, wanted: str) -> None:
    setup = 'autoload -U compinit; compinit -u -D; eval "$(torchdeck completion zsh)"'
    assert wanted in typed(["zsh", "-f", "-i"], setup, line, wanted)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(project: Path) -> None:
    lines = ["torchdeck plo", "torchdeck --set optimizer.name=Adaf", "torchdeck --set 'trainer.see", "torchdeck show a"]
    asks = "; ".join(f'complete -C "{line}"' for line in lines)
    script = f"torchdeck completion fish | source; {asks}"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["plot", "optimizer.name=Adafactor", "trainer.seed=", "a b"]


def test_an_answer_needs_nothing_heavy(project: Path) -> None:
    code = (
        "import sys; from torchdeck.tui.__main__ import main\n"
        "main(['__complete', 'fish', '--set', 'optimizer.name=Adaf']); main(['__complete', 'fish', 'study', "
        "'show', ''])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    first, second, modules = done.stdout.splitlines()
    assert first.startswith("optimizer.name=Adafactor\t")
    assert second.strip() == "lr-study"
    assert not {"torch", "optuna", "textual", "numpy", "ignite"} & set(modules.split())
