"""Searches as their users run them: processes, signals, kills, storages, the dashboard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from conftest import command, kill_below, start
from optuna.trial import TrialState

from core import toml
from core.runs.directory import read_metrics
from core.search import study as studies
from core.search.study import Study
from tui.__main__ import main

SPACE = ("--set", "search.space.optimizer.lr=1e-3 .. 0.1 log", "--set", "model.args.widths=[8]", "--set", "search.name=study",
         "--set", "pruner.name=none")  # fmt: skip


def wait_for(what: Callable[[], Any], timeout: float = 90) -> Any:
    end, last = time.monotonic() + timeout, None
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except Exception as error:  # it is not there yet
            last = error
        time.sleep(0.1)
    raise AssertionError("it did not come") from last


def epochs_of(run: Path) -> list[int]:
    return [r["epoch"] for r in read_metrics(run) if r["event"] == "epoch"]


def whole(study: Study, trials: int, epochs: int) -> None:
    """Every trial once, every epoch of each once, and told once."""
    found = study.trials()
    assert [t.number for t in found] == list(range(trials))
    assert {t.state for t in found} == {TrialState.COMPLETE}
    assert len({json.dumps(t.params) for t in found}) == trials
    for trial in found:
        assert epochs_of(study.run_of(trial.number)) == list(range(1, epochs + 1)) == sorted(trial.intermediate_values)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    kill_below(tmp_path)


# --- processes ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_after_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ("--batch", "digits", "--trials", "2", *SPACE, "--set", "trainer.epochs=150")
    process = start(*words, cwd=tmp_path)
    run = tmp_path / "runs" / "study" / "study-0000"
    wait_for(lambda: len(epochs_of(run)) > 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopping after a checkpoint" in said
    assert "go on with: torchdeck --batch --study" in said
    study = studies.open_folder(tmp_path / "runs" / "study")
    assert [t.state for t in study.trials()] == [TrialState.WAITING]
    done = command(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["event"], line["number"], line["state"]) for line in lines] == [
        ("trial", 0, "complete"),
        ("trial", 1, "complete"),
    ]
    whole(studies.open_folder(tmp_path / "runs" / "study"), 2, 150)


def test_workers_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    process = start(
        "--batch", "digits", "--trials", "5", "--workers", "2", *SPACE, "--set", "trainer.epochs=120", cwd=tmp_path
    )
    folder = tmp_path / "runs" / "study"

    def running() -> list[int]:
        study = studies.open_folder(folder)
        return [t.number for t in study.trials() if t.state == TrialState.RUNNING and len(t.intermediate_values) > 3]

    for _ in range(2):
        wait_for(lambda: running())
        workers = [child for child in psutil.Process(process.pid).children() if "--study" in child.cmdline()]
        assert len({child.environ()["OMP_NUM_THREADS"] for child in workers}) == 1
        workers[0].kill()
        time.sleep(0.5)
    # Then all of it, the keeper of the workers, too: the same command goes on.
    wait_for(lambda: running())
    for one in [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]:
        one.kill()
    process.communicate()
    done = command("--batch", "--study", "study", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = studies.open_folder(folder)
    whole(study, 5, 120)
    assert any("torchdeck:deaths" in t.system_attrs for t in study.trials())


# --- PostgreSQL --------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database of Debian's server, started for this test."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("pg")
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to be run by root
        for path in (folder, *folder.parents):
            if path == Path("/tmp") or path.stat().st_uid != 0:
                break
            path.chmod(path.stat().st_mode | 0o011)
        shutil.chown(folder, "nobody")
        as_user = {"user": "nobody"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    options: dict[str, Any] = {
        "check": True,
        "capture_output": True,
        "cwd": folder,
        "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"},
        **as_user,
    }
    subprocess.run([programs[-1], "-D", data, "-U", "deck", "-E", "UTF8", "--auth=trust", "--no-sync"], **options)
    server = [programs[-1].parent / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server, stdout=log, stderr=log, cwd=folder, env=options["env"], **as_user)
    url = f"postgresql://deck@127.0.0.1:{port}/postgres"
    try:
        import psycopg

        wait_for(lambda: psycopg.connect(url), 30).close()
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # not to wait for clients
        process.wait(20)


def test_workers_of_several_folders_share_a_database(tmp_path: Path, postgres: str) -> None:
    """As on several machines: nothing but the database is shared."""
    place = f"{postgres}#study"
    words = ("--batch", "digits", "--trials", "6", *SPACE, "--set", "trainer.epochs=40", "--study", place)
    first = start(*words, "--runs", "one", cwd=tmp_path)
    wait_for(lambda: studies.open_study(place, tmp_path / "look").trials()[0].intermediate_values, 40)
    second = start("--batch", "--study", place, "--runs", "two", cwd=tmp_path)
    look = studies.open_study(place, tmp_path / "look")
    wait_for(lambda: sum(t.state == TrialState.RUNNING and len(t.intermediate_values) > 2 for t in look.trials()) == 2)
    second.kill()
    second.communicate()
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    # The trial of the killed worker went on, or began again, in the other one.
    assert "was left by a process that is gone; it goes on" in said
    found = look.trials()
    assert [t.number for t in found] == list(range(6))
    assert {t.state for t in found} == {TrialState.COMPLETE}
    assert len({json.dumps(t.params) for t in found}) == 6
    assert all(sorted(t.intermediate_values) == list(range(1, 41)) for t in found)
    # Many ask at the same moment, and no trial is given twice, nor one too many.
    env = {"OMP_NUM_THREADS": "1"}
    both = [
        start("--batch", "--quiet", "--study", place, "--trials", "10", "--runs", name, cwd=tmp_path, env=env)
        for name in ("one", "two")
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert [t.number for t in look.trials()] == list(range(10))


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg")
    assert main(["study", "show", "postgresql://me:secret@127.0.0.1:9/db#study", "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("torchdeck: The study's storage 'postgresql://me:***@127.0.0.1:9/db' fails: ")
    assert "secret" not in said
    assert said.count("\n") == 1


# --- one process: the verbs, and what is wrong -------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of four trials in ./runs."""
    from core.search.worker import Worker

    monkeypatch.chdir(tmp_path)
    overrides = [word for word in SPACE if word != "--set"]
    experiment = toml.load(
        "digits", [*overrides, "trainer.epochs=2", "search.trials=4", "search.space.trainer.batch_size=[32, 64]"]
    )
    made = studies.create(experiment, Path("runs"))
    assert Worker(made, lambda trial: None, print).work() == 0
    return made


def test_the_verbs_of_a_study(study: Study, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*words: str) -> str:
        assert main(["study", *words]) == 0
        return capsys.readouterr().out

    (listed,) = json.loads(run("list", "--json"))
    assert listed["states"] == {"complete": 4}
    assert listed["best"] == [study.best()[0].number]
    assert "4/4" in run("list")
    shown = run("show", "study", "--sort", "value").splitlines()
    values = sorted((t.value for t in study.trials()), reverse=True)  # type: ignore[type-var]
    assert [line.split()[2] for line in shown[2:6]] == [f"{value:.2%}" for value in values]
    told = json.loads(run("show", "study", "--json"))["list"]
    assert [one["params"] for one in told] == [t.params for t in study.trials()]

    # The best experiment is one that --batch takes as it is, and trains to the same value.
    (tmp_path / "best.toml").write_text(run("best", "study"))
    best = study.best()[0]
    experiment = toml.load("best.toml")
    assert experiment.optimizer.lr == best.params["optimizer.lr"]
    assert main(["--batch", "best.toml", "--quiet", "--runs", "again"]) == 0
    (again,) = Path("again").iterdir()
    assert json.loads((again / "run.json").read_text())["best"]["accuracy"] == best.value
    capsys.readouterr()

    rows = run("export", "study").splitlines()
    assert rows[0].startswith("number,state,accuracy,started,ended,seconds,optimizer.lr,trainer.batch_size,run")
    assert len(rows) == 5
    run("export", "study", "--json", "-o", "trials.json")
    assert [one["number"] for one in json.loads(Path("trials.json").read_text())] == [0, 1, 2, 3]
    shares = json.loads(run("importance", "study", "--json", "--by", "ped-anova"))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(shares) == {"optimizer.lr", "trainer.batch_size"}
    for kind in ("history", "slices", "contour", "parallel", "pareto", "intermediate", "edf", "importance"):
        assert len(run("plot", "study", kind).splitlines()) >= 1
    for kind in ("history", "importance", "intermediate"):
        run("plot", "study", kind, "-o", f"{kind}.png")
        assert Path(f"{kind}.png").read_bytes().startswith(b"\x89PNG")

    run("enqueue", "study", "lr=0.02", "batch_size=64")
    assert study.trials()[4].state == TrialState.WAITING
    assert study.trials()[4].system_attrs["fixed_params"] == {"optimizer.lr": 0.02, "trainer.batch_size": 64}
    run("stop", "study", "--trial", "4")
    assert study.trials()[4].state == TrialState.FAIL
    run("edit", "study", "optimizer.lr=1e-3 .. 0.5 log")
    assert studies.open_folder(study.folder).space.dimensions["optimizer.lr"].text == "0.001 .. 0.5 log"
    run("stop", "study")
    assert study.stopped


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study", "show", "stdy"], "no study 'stdy' in 'runs'; did you mean 'study'?"),
        (["study", "plot", "study", "histry"], "no picture 'histry' of a study; did you mean 'history'?"),
        (["study", "plot", "study", "contour", "--params", "optimizer.lr,optimizer.l"], "there is no parameter 'optimizer.l'"),
        (["study", "plot", "study", "history", "-o", "a.bmp"], "name a .png, .svg or .pdf file"),
        (["study", "best", "study", "--trial", "9"], "no trial 9 in 'study'"),
        (["study", "prune", "study", "0"], "Trial 0 is over already"),
        (["study", "enqueue", "study", "lr=5"], "optimizer.lr = 5 is outside of 0.001 .. 0.1 log"),
        (["study", "enqueue", "study", "momentum=5"], "'momentum' is not searched"),
        (["study", "edit", "study", "trainer.batch_size=[16]"], "can't be changed"),
        (["study", "importance", "study", "--objective", "loss"], "'loss' is not sought; choose from accuracy"),
        (["--batch", "--study", "study", "--set", "trainer.epochs=3"], "--set needs an experiment"),
        (["--batch", "digits", "--trials", "3"], "Nothing is searched"),
        (["--batch", "digits", "--trials", "0", *SPACE], "--trials 0: it must be at least 1"),
        (["digits", "--trials", "3"], "need --batch"),
        (["--batch", "digits", "--trials", "3", *SPACE, "--set", "trainer.epochs=9"], "searches something else"),
        (["--batch", "digits", "--trials", "3", *SPACE, "--set", "search.storage=oracle://db", "--set", "search.name=x"], "is no storage of Optuna"),
        (["--batch", "digits", "--trials", "3", *SPACE, "--set", "search.storage=mongo"], "search.storage = 'mongo' is not known"),
        (["--batch", "digits", "--trials", "3", *SPACE, "--study", "sqlite:////no/such/folder/x.db"], "unable to open database file"),
        (["--batch", "digits", "--trials", "3", *SPACE, "--set", "sampler.name=tpee"], "did you mean 'TPE'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(study: Study, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_a_storage_of_another_optuna_or_another_tool(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path("other.db").absolute()
    optuna.create_study(storage=f"sqlite:///{other}", study_name="plain").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    assert main(["study", "show", f"sqlite:///{other}#plain"]) == 2
    assert "was not made by torchdeck" in capsys.readouterr().err
    assert main(["study", "show", f"sqlite:///{other}#plan"]) == 2
    assert "did you mean 'plain'?" in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(study.folder / "optuna.db")) as connection:
        connection.execute("UPDATE version_info SET schema_version = 1")
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        connection.commit()
    assert main(["study", "show", "study"]) == 2
    said = capsys.readouterr().err
    assert "another version of Optuna" in said
    assert "optuna storage upgrade" in said
    for name in ("optuna.db-wal", "optuna.db-shm"):
        (study.folder / name).unlink(missing_ok=True)
    (study.folder / "optuna.db").write_bytes(b"no database at all, but bytes enough to look like one" * 100)
    assert main(["study", "show", "study"]) == 2
    assert "file is not a database" in capsys.readouterr().err


def test_a_locked_storage_is_waited_for(study: Study) -> None:
    with contextlib.closing(sqlite3.connect(study.folder / "optuna.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        process = start("study", "enqueue", "study", "lr=0.05", cwd=Path.cwd())
        time.sleep(3)
        assert process.poll() is None
        connection.execute("COMMIT")
    assert process.wait(30) == 0
    assert study.trials()[-1].state == TrialState.WAITING


def test_a_full_disk_ends_the_search_and_the_trial_goes_on_later(tmp_path: Path) -> None:
    """A real one of four megabytes."""
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        words = ("--batch", "digits", "--trials", "40", "--runs", str(disk / "runs"), *SPACE, "--set", "trainer.epochs=2",
                 "--set", "search.keep=0", "--set", "model.args.widths=[64]")  # fmt: skip
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert "No space left on device" in last or "disk is full" in last or "disk I/O error" in last
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = command(*(w if w != "40" else "12" for w in words), cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        study = studies.open_folder(disk / "runs" / "study")
        assert {t.state for t in study.trials()} == {TrialState.COMPLETE}
        assert [t.number for t in study.trials()] == list(range(max(12, len(study.trials()))))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# --- trust -------------------------------------------------------------------------------------------------------------


def test_code_of_a_study_from_elsewhere_is_not_run(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (tmp_path / "evil.py").write_text(
        "from pathlib import Path\nPath('run').write_text('')\ndef objective(trial): return 1.0\n"
    )
    made = studies.create(
        toml.load("digits", [f"search.function={tmp_path}/evil.py:objective", "search.name=evil"]), Path("runs")
    )
    assert main(["--batch", "--study", "evil", "--trials", "1", "--quiet"]) == 0
    Path("run").unlink()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody-else"))
    assert main(["--batch", "--study", "evil", "--trials", "2"]) == 2
    assert "was not made here and would run the code" in capsys.readouterr().err
    assert not Path("run").exists()
    for words in (["show", "evil"], ["best", "evil"], ["export", "evil"], ["list"]):
        main(["study", *words])
    assert not Path("run").exists()
    assert main(["--batch", "--study", "evil", "--trials", "2", "--trust-code"]) == 0
    assert len(made.trials()) == 2


# --- journal, dashboard --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_many_processes_ask_one_new_file(tmp_path: Path, storage: str) -> None:
    """They create the study at the same moment, and each trial is had once."""
    (tmp_path / "mine.py").write_text("def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n")
    words = ("--batch", "digits", "--quiet", "--trials", "24", "--set", "search.function=mine.py:objective", "--set", "search.name=s",
             "--set", f"search.storage={storage}")  # fmt: skip
    processes = [start(*words, cwd=tmp_path) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    study = studies.open_folder(tmp_path / "runs" / "s")
    assert [t.number for t in study.trials()] == list(range(24))
    assert len({t.params["x"] for t in study.trials()}) == 24
    if storage == "sqlite":
        with contextlib.closing(sqlite3.connect(study.folder / "optuna.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    else:
        assert (study.folder / "optuna.journal").stat().st_size > 0


def test_the_dashboard_shows_what_was_written(study: Study) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start("dashboard", "study", "--port", str(port), cwd=Path.cwd(), start_new_session=True)

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    try:
        (summary,) = wait_for(lambda: json.loads(get("/api/studies"))["study_summaries"])
        assert summary["study_name"] == "study"
        assert summary["directions"] == ["maximize"]
        detail = json.loads(get(f"/api/studies/{summary['study_id']}?after=0"))
        assert detail["objective_names"] == ["accuracy"]
        for shown, trial in zip(detail["trials"], study.trials(), strict=True):
            assert (shown["number"], shown["state"], shown["values"]) == (trial.number, "Complete", [trial.value])
            assert [(v["step"], v["value"]) for v in shown["intermediate_values"]] == sorted(
                trial.intermediate_values.items()
            )
            assert (
                float({p["name"]: p["param_external_value"] for p in shown["params"]}["optimizer.lr"])
                == trial.params["optimizer.lr"]
            )
            attributes = {a["key"]: a["value"] for a in shown["user_attrs"]}
            assert (
                attributes["run"] == f'"study-{trial.number:04d}"' or attributes["run"] == f"study-{trial.number:04d}"
            )
            assert float(attributes["val_accuracy"]) == pytest.approx(trial.value, abs=1e-6)
            names = {a["filename"]: a["artifact_id"] for a in shown["artifacts"]}
            checkpoint = get(f"/artifacts/{summary['study_id']}/{shown['trial_id']}/{names['best.pt']}")
            assert checkpoint == (study.run_of(trial.number) / "checkpoints" / "best.pt").read_bytes()
        first = {a["filename"]: a["artifact_id"] for a in detail["trials"][0]["artifacts"]}
        picture = get(f"/artifacts/{summary['study_id']}/{detail['trials'][0]['trial_id']}/{first['curves.png']}")
        assert picture.startswith(b"\x89PNG")
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert f"ssh -L {port}:127.0.0.1:{port}" in out
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
