"""The verbs."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import torch
from conftest import Train, command, start, verb

from torchdeck.tui.__main__ import main
from torchdeck.tui.parsers import VERBS


def test_catalog(tmp_path: Path) -> None:
    everything = verb("catalog", cwd=tmp_path).stdout
    for name in ("digits", "resnet18", "AdamW", "one_cycle", "RandAugment", "cross_entropy", "OneHot"):
        assert name in everything
    one = verb("catalog", "optimizer", "sgd", cwd=tmp_path).stdout
    assert "momentum" in one
    assert "between 0 and 0.9999" in one
    entries = json.loads(verb("catalog", "data", "--json", cwd=tmp_path).stdout)
    assert {"kind", "name", "summary", "params"} <= set(entries[0])
    assert "fashion-best" in verb("catalog", "preset", cwd=tmp_path).stdout
    assert 'name = "fastnet"' in verb("catalog", "preset", "fashion-best", cwd=tmp_path).stdout


def test_doctor(tmp_path: Path) -> None:
    report = json.loads(verb("doctor", "--json", cwd=tmp_path).stdout)
    assert report["devices"][-1]["device"] == "cpu"
    assert report["chosen"] == report["devices"][0]["device"]
    assert "torch" in report["versions"]
    text = verb("doctor", cwd=tmp_path).stdout
    assert "trains on" in text
    assert "data root" in text


def test_runs_of_an_empty_place(tmp_path: Path) -> None:
    assert verb("runs", cwd=tmp_path).stdout == "no runs in 'runs'\n"
    assert json.loads(verb("runs", "--json", cwd=tmp_path).stdout) == []


def test_files_of_others_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    torch.save({"\x1b]0;owned\x07weight": torch.zeros(2)}, tmp_path / "w.pth")
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "run.json").write_text(
        json.dumps({"layout": 1, "status": "done", "model": "\x1b[31m[red]m", "note": "\x1b[2J"})
    )
    (run / "experiment.toml").write_text("# \x1b[2J\n")
    for words in (("show", "w.pth"), ("runs",), ("show", "x")):
        done = verb(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
    assert "[red]m" in verb("runs", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert VERBS[name].summary.partition(",")[0].partition(":")[0][:20] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"torchdeck {name}" in capsys.readouterr().out


def test_runs_are_filtered_compared_drawn_labelled_deleted(train: Train, tmp_path: Path) -> None:
    first, second = (train("trainer.epochs=2", f"optimizer.lr={lr}").path for lr in (0.01, 0.02))

    def run(*words: str, code: int = 0) -> str:
        done = verb(*words, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    [found] = json.loads(run("runs", "lr>0.015", "--json"))
    assert found["name"] == second.name
    assert found["hyperparameters"]["optimizer.lr"] == 0.02
    rows = list(csv.DictReader(io.StringIO(run("runs", "--csv", "--sort", "lr", "-r"))))
    assert [row["name"] for row in rows] == [second.name, first.name]
    assert float(rows[0]["optimizer.lr"]) == 0.02
    assert run("runs", "--columns", "name,lr", "--runs", "runs", "runs", "lr=0.01").splitlines()[1].split() == [
        first.name,
        "0.01",
    ]
    assert "did you mean" in run("runs", "val_acuracy>1", code=2)
    differences = json.loads(run("diff", str(first), second.name, "--json"))
    assert differences["differences"] == {"optimizer.lr": [0.01, 0.02]}
    assert "val/loss" in run("plot", str(first), second.name)
    run("plot", str(first), "-o", "a.png", "--metric", "accuracy")
    run("plot", str(first), str(second), "-o", "a.svg", "--log", "--x", "epoch")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert second.name in (tmp_path / "a.svg").read_text() or "<svg" in (tmp_path / "a.svg").read_text()
    assert "There is no metric 'los'" in run("plot", str(first), "--metric", "los", code=2)
    assert "name a .png" in run("plot", str(first), "-o", "a.bmp", code=2)
    run("label", str(first), "--tag", "paper", "--note", "good", "--title", "T")
    assert json.loads(run("runs", "tag:paper", "note:good", "--json"))[0]["title"] == "T"
    run("label", str(first), "--untag", "paper", "--archive")
    assert json.loads(run("runs", "--json"))[0]["path"].endswith(second.name)
    assert "say --yes" in run("delete", str(first), code=2)
    run("delete", str(first), "--yes")
    assert not first.exists()
    assert first.name in run("trash")
    run("trash", "--restore", first.name)
    assert first.exists()
    run("delete", first.name, "-y")
    assert "freed" in run("trash", "--empty", "-y")
    assert run("trash") == "the trash is empty\n"


def test_tensorboard_serves_the_runs_and_says_how_to_reach_it(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=1").path
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = start("tensorboard", "--port", str(port), cwd=tmp_path)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"http://localhost:{port}/\n"
        assert f"ssh -L {port}:localhost:{port}" in server.stdout.readline()
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=5) as answer:
                    if run.name in (found := json.load(answer)):
                        break
            except OSError:
                found = []
            assert time.monotonic() < end, found
            time.sleep(0.3)
        taken = command("tensorboard", "--port", str(port), cwd=tmp_path)
        assert taken.returncode == 2
        assert "is taken" in taken.stderr
    finally:
        server.send_signal(signal.SIGINT)
        server.kill()
        for child in psutil.process_iter(["cmdline"]):
            if "tensorboard.main" in (child.info["cmdline"] or []) and str(port) in child.info["cmdline"]:
                child.kill()
        server.communicate()


def test_inspect_and_its_tables(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=1", "trainer.keep=5", "trainer.checkpoint_steps=5").path
    best = str(run / "checkpoints" / "best.pt")
    told = json.loads(verb("inspect", best, "--json", "--stats", cwd=tmp_path).stdout)
    assert told["safe"] and told["tensors"]["model.1.weight"]["shape"] == [256, 64]
    assert told["tensors"]["model.1.weight"]["std"] > 0
    assert "histogram" in json.loads(
        verb("inspect", run.name, "--tensor", "model.1.bias", "--json", cwd=tmp_path).stdout
    )
    fits = json.loads(
        verb("inspect", best, "--fits", "digits", "--set", "data.name=iris", "--json", cwd=tmp_path).stdout
    )
    assert not fits["fits"]
    assert {t["verdict"] for t in fits["tensors"]} == {"reshaped", "loads", "head"}
    assert verb("average", best, str(run / "checkpoints" / "last.pt"), "-o", "m.pth", cwd=tmp_path).returncode == 0
    assert "0 of 6" not in verb("diff", "m.pth", best, cwd=tmp_path).stderr
    planned = json.loads(verb("prune", "--keep-best", "1", "--json", cwd=tmp_path).stdout)[0]
    assert planned["deleted"] and Path(tmp_path / planned["deleted"][0]).exists()
    assert verb("prune", "--keep-best", "1", "--yes", cwd=tmp_path).returncode == 0
    assert not Path(tmp_path / planned["deleted"][0]).exists()
    refused = verb("inspect", best, "--run-code", cwd=tmp_path)
    assert refused.returncode == 2
    assert "RUNS" in refused.stdout + refused.stderr or "nothing in it was run" in refused.stderr
