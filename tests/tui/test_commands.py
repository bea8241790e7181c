"""The verbs, as processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import command


def test_catalog(tmp_path: Path) -> None:
    everything = command("catalog", cwd=tmp_path).stdout
    for name in ("digits", "resnet18", "AdamW", "one_cycle", "RandAugment", "cross_entropy", "OneHot"):
        assert name in everything
    one = command("catalog", "optimizer", "sgd", cwd=tmp_path).stdout
    assert "momentum" in one
    assert "between 0 and 0.9999" in one
    entries = json.loads(command("catalog", "data", "--json", cwd=tmp_path).stdout)
    assert {"kind", "name", "summary", "params"} <= set(entries[0])
    assert "fashion-best" in command("catalog", "preset", cwd=tmp_path).stdout
    assert 'name = "fastnet"' in command("catalog", "preset", "fashion-best", cwd=tmp_path).stdout


def test_doctor(tmp_path: Path) -> None:
    report = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert report["devices"][-1]["device"] == "cpu"
    assert report["chosen"] == report["devices"][0]["device"]
    assert "torch" in report["versions"]
    text = command("doctor", cwd=tmp_path).stdout
    assert "trains on" in text
    assert "data root" in text


def test_runs_of_an_empty_place(tmp_path: Path) -> None:
    assert command("runs", cwd=tmp_path).stdout == "no runs in 'runs'\n"
    assert json.loads(command("runs", "--json", cwd=tmp_path).stdout) == []


def test_files_of_others_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    torch.save({"\x1b]0;owned\x07weight": torch.zeros(2)}, tmp_path / "w.pth")
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "run.json").write_text(
        json.dumps({"layout": 1, "status": "done", "model": "\x1b[31m[red]m", "note": "\x1b[2J"})
    )
    (run / "experiment.toml").write_text("# \x1b[2J\n")
    for words in (("show", "w.pth"), ("runs",), ("show", "x")):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
    assert "[red]m" in command("runs", cwd=tmp_path).stdout


@pytest.mark.parametrize("verb", ["runs", "show", "export", "catalog", "doctor"])
def test_every_verb_has_help(tmp_path: Path, verb: str) -> None:
    done = command(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"torchdeck {verb}" in done.stdout
    assert verb in command("--help", cwd=tmp_path).stdout
