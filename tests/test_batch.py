"""``torchdeck --batch`` as its users run it: a process, signals, exit codes."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, json_lines, start, verb

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.runs.directory import read_info, read_metrics

ENDLESS = ("--set", "trainer.epochs=100000", "--set", "tracking.graph=false")


def only_run(folder: Path) -> Path:
    (run,) = [p for p in (folder / "runs").iterdir() if (p / "run.json").exists()]
    return run


def wait_for_steps(folder: Path, steps: int, timeout: float = 60) -> Path:
    """Until metrics.jsonl tells of that many steps."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if (folder / "runs").is_dir():
            for run in (folder / "runs").iterdir():
                if any(r.get("step", 0) >= steps for r in read_metrics(run)):
                    return run
        time.sleep(0.05)
    raise AssertionError("the run did not come that far")


def test_json_is_one_object_per_event_and_nothing_else(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text(
        "from torch import nn\nimport os\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        print('hello from python')\n        os.system('echo hello from the shell')\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    done = command(
        "--batch", "digits", "--json", "--set", f"model.name={noisy}:Net", "--set", "trainer.epochs=3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    events = json_lines(done.stdout)
    assert "hello from python" in done.stderr
    assert "hello from the shell" in done.stderr
    assert {"event", "run", "epoch", "step"} <= set.intersection(*(set(e) for e in events))
    assert next(e["event"] for e in events if e["event"] != "checkpoint") == "started"
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3]
    assert all(
        {"loss", "accuracy"} <= set(e["val"]) and e["train"]["loss"] > 0 for e in events if e["event"] == "epoch"
    )
    assert events[-1]["event"] == "finished"
    assert 0.5 < events[-1]["test"]["accuracy"] <= 1
    assert Path(tmp_path, events[-1]["run"]).is_dir()


def test_the_default_run_reaches_97_percent_and_leaves_everything_behind(tmp_path: Path) -> None:
    done = command("--batch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    run = only_run(tmp_path)
    info = read_info(run)
    assert info.status == "done"
    assert info.get("test")["accuracy"] >= 0.97
    assert info.get("versions")["torch"] == torch.__version__.partition("+")[0]
    names = {p.name for p in run.iterdir()}
    assert {"experiment.toml", "run.json", "metrics.jsonl", "train.log", "checkpoints"} <= names
    assert any(n.startswith("events.out.tfevents") for n in names)
    assert {p.name for p in (run / "checkpoints").iterdir()} >= {"last.pt", "best.pt"}
    assert not list(run.rglob(".tmp-*"))
    listed = json.loads(verb("runs", "--json", cwd=tmp_path).stdout)
    assert [(r["status"], r["data"], r["model"]) for r in listed] == [("done", "digits", "mlp")]
    shown = verb("show", run.name[:15], cwd=tmp_path)
    assert "done" in shown.stdout
    assert "best" in shown.stdout

    # The run can be copied elsewhere and still opens, and goes on.
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    run.rename(moved)
    longer = verb("--batch", "--resume", str(moved), "--set", "trainer.epochs=31", "--quiet", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    assert longer.stdout == ""
    assert read_info(moved).get("epoch") == 31


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_after_a_checkpoint_and_the_run_goes_on(tmp_path: Path, number: int, code: int) -> None:
    process = start("--batch", "--plain", *ENDLESS, cwd=tmp_path)
    run = wait_for_steps(tmp_path, 30)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"resume with: torchdeck --batch --resume runs/{run.name}" in out + err
    info = read_info(run)
    assert info.status == "stopped"
    last = load_checkpoint(run / "checkpoints" / "last.pt", "test")
    assert last["step"] >= 30
    epochs = last["epoch"] + 1
    again = verb("--batch", "--plain", "--resume", run.name, "--set", f"trainer.epochs={epochs}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"from step {last['step']:,}" in again.stdout


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    def forward(self, x):\n        time.sleep(30 if self.training and len(x) > 2 else 0)\n        "
        "return super().forward(x)\n"
    )
    process = start("--batch", "--plain", *ENDLESS, "--set", f"model.name={slow}:Net", cwd=tmp_path)
    while not (tmp_path / "runs").is_dir() or not list((tmp_path / "runs").glob("*/train.log")):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 10


def test_usr1_writes_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    process = start(
        "--batch",
        "--plain",
        *ENDLESS,
        "--set",
        "trainer.validation_share=0",
        "--set",
        "trainer.keep=1000",
        "--set",
        "trainer.batch_size=8",
        "--set",
        "trainer.checkpoint_minutes=1000",
        cwd=tmp_path,
    )
    run = wait_for_steps(tmp_path, 30)
    before = set((run / "checkpoints").glob("step-*.pt"))
    process.send_signal(signal.SIGUSR1)
    end = time.monotonic() + 30
    while set((run / "checkpoints").glob("step-*.pt")) == before and time.monotonic() < end:
        time.sleep(0.05)
    assert set((run / "checkpoints").glob("step-*.pt")) > before
    at = max(r.get("step", 0) for r in read_metrics(run))
    wait_for_steps(tmp_path, at + 20)
    assert read_info(run).status == "running"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_hang_up_does_not_end_the_training(tmp_path: Path) -> None:
    """A real terminal goes away: its other end is closed, and the kernel sends SIGHUP."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ.update(PYTHONPATH=str(ROOT / "src"), TERM="xterm-256color")
        os.execv(sys.executable, [sys.executable, "-m", "torchdeck", "--batch", *ENDLESS])
    run = wait_for_steps(tmp_path, 30)
    shown = os.read(terminal, 100_000)
    assert b"step" in shown
    os.close(terminal)
    at = max(r.get("step", 0) for r in read_metrics(run))
    wait_for_steps(tmp_path, at + 100)
    assert read_info(run).status == "running"
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert read_info(run).status == "stopped"


def test_kill_9_loses_nothing_that_was_good(tmp_path: Path) -> None:
    """Killed again and again at random moments; the final weights are those of a run never killed.

    Thirty kills are in ``python -m benchmarks kill``; these few are for every test run.
    """
    options = (
        "--set",
        "trainer.epochs=100",
        "--set",
        "trainer.checkpoint_steps=50",
        "--set",
        "model.args.dropout=0.2",
        "--set",
        "tracking.graph=false",
        "--set",
        "tracking.tensorboard=false",
    )
    draw = random.Random(7)
    process = start("--batch", "digits", "--plain", *options, cwd=tmp_path)
    run = wait_for_steps(tmp_path, 60)
    for _ in range(3):
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.communicate()
        seen = max(r["step"] for r in read_metrics(run) if "step" in r)
        assert read_info(run).status == "dead"
        for path in (run / "checkpoints").glob("*.pt"):
            load_checkpoint(path, "test")
        process = start("--batch", "--plain", "--resume", run.name, cwd=tmp_path)
        wait_for_steps(tmp_path, seen + 30)
    _out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    whole = verb("--batch", "digits", "--quiet", *options, "--runs", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    (other,) = (tmp_path / "whole").iterdir()
    a, b = (load_checkpoint(p / "checkpoints" / "last.pt", "test") for p in (run, other))
    assert a["step"] == b["step"]
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), name
    steps = [r["step"] for r in read_metrics(run) if r["event"] == "step"]
    assert steps == sorted(set(steps))


def test_two_processes_never_train_one_run(tmp_path: Path) -> None:
    process = start("--batch", "--plain", *ENDLESS, cwd=tmp_path)
    try:
        run = wait_for_steps(tmp_path, 30)
        second = verb("--batch", "--resume", run.name, cwd=tmp_path)
        assert second.returncode == 2
        assert f"is being trained by another process (pid {process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
        assert read_info(run).status == "running"
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_requeued_slurm_job_goes_on_with_its_own_run(tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "4711"}
    words = ("--batch", "--plain", "--set", "trainer.epochs=60", "--set", "tracking.tensorboard=false")
    process = start(*words, cwd=tmp_path, env=job)
    run = wait_for_steps(tmp_path, 30)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    step = load_checkpoint(run / "checkpoints" / "last.pt", "test")["step"]
    again = verb(*words, cwd=tmp_path, env=job | {"SLURM_RESTART_COUNT": "1"})
    assert again.returncode == 0, again.stderr
    assert f"from step {step:,}" in again.stdout
    assert only_run(tmp_path) == run
    assert len(list((run / "checkpoints").glob("step-*.pt"))) == 2


def test_dry_run_trains_nothing(tmp_path: Path) -> None:
    done = verb("--batch", "fashion-cnn", "--set", "data.name=digits", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# from preset fashion-cnn and 1 --set\n")
    assert 'name = "cnn"' in done.stdout
    assert "Conv2d" in done.stdout
    assert "multiply-adds a sample" in done.stdout
    assert "memory    about" in done.stdout
    assert "1,294 train, 144 val, 359 test" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--batch", "--set", "trainer.epoch=3"), "did you mean 'epochs'?"),
        (("--batch", "nothing.toml"), "There is no file 'nothing.toml'"),
        (("--batch", "--resume", "nothing"), "There is no run 'nothing'"),
        (("--batch", "--set", "trainer.device=cuda:7"), "is not on this machine"),
        (("show", "nothing"), "There is no run 'nothing'"),
        (("export", "nothing"), "There is no run 'nothing'"),
        (("catalog", "modle"), "did you mean 'model'?"),
        (("--batch", "--runs", "/proc/no"), "Runs can't be written to '/proc/no'"),
        ((), "torchdeck --batch"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    done = verb(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("torchdeck: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not list(tmp_path.rglob("run.json"))


def test_pythonpath_with_a_core_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    done = command("catalog", "loss", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}:{ROOT}/src"})
    assert done.returncode == 0, done.stderr
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from torchdeck.tui.__main__ import "
        f"main; main(['catalog', 'loss'])"
    )
    again = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "huber" in again.stdout
