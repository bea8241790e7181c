"""Searches of several processes: signals, kills, databases, full disks."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import SPACE, command, kill_below, start, wait_for
from optuna.trial import TrialState

from torchdeck.core.runs.directory import read_metrics
from torchdeck.core.search import opening as studies
from torchdeck.core.search.study import Study


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


# --- processes
# ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_stops_after_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ("--batch", "digits", "--trials", "2", *SPACE, "--set", "trainer.epochs=80")
    process = start(*words, cwd=tmp_path)
    run = tmp_path / "runs" / "study" / "study-0000"
    wait_for(lambda: len(epochs_of(run)) > 5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopping after a checkpoint" in said
    assert "continue with: torchdeck --batch --study" in said
    assert "--resume" not in said  # its trials are resumed by themselves
    study = studies.open_folder(tmp_path / "runs" / "study")
    assert [t.state for t in study.trials()] == [TrialState.WAITING]
    done = command(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["event"], line["number"], line["state"]) for line in lines] == [
        ("trial", 0, "complete"),
        ("trial", 1, "complete"),
    ]
    whole(studies.open_folder(tmp_path / "runs" / "study"), 2, 80)


def test_workers_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    process = start(
        "--batch", "digits", "--trials", "4", "--workers", "2", *SPACE, "--set", "trainer.epochs=80", cwd=tmp_path
    )
    folder = tmp_path / "runs" / "study"

    def running() -> list[int]:
        study = studies.open_folder(folder)
        return [t.number for t in study.trials() if t.state == TrialState.RUNNING and len(t.intermediate_values) > 3]

    wait_for(lambda: running())
    workers = [child for child in psutil.Process(process.pid).children() if "--worker" in child.cmdline()]
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
    whole(study, 4, 80)
    assert any("torchdeck:deaths" in t.system_attrs for t in study.trials())


# --- databases
# ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(words: list[str | Path], folder: Path, stop: signal.Signals, **options: Any) -> Iterator[None]:
    """A database's server that runs meanwhile."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, **options)
    try:
        yield
    finally:
        process.send_signal(stop)
        process.wait(20)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database of Debian's PostgreSQL, started for this test."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    psycopg = pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("postgresql")
    options: dict[str, Any] = {"env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
    if os.getuid() == 0:  # the server refuses to be run by root
        for path in (folder, *folder.parents):
            if path == Path("/tmp") or path.stat().st_uid != 0:
                break
            path.chmod(path.stat().st_mode | 0o011)
        shutil.chown(folder, "nobody")
        options["user"] = "nobody"
    data, port = folder / "data", free_port()
    words = [programs[-1], "-D", data, "-U", "deck", "-E", "UTF8", "--auth=trust", "--no-sync"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder, **options)
    words = [programs[-1].parent / "postgres", "-D", data, "-p", port, "-k", folder, "-h", "127.0.0.1", "-F"]
    with server(words, folder, signal.SIGINT, **options):  # not to wait for clients
        url = f"postgresql://deck@127.0.0.1:{port}/postgres"
        wait_for(lambda: psycopg.connect(url), 30).close()
        yield url


@pytest.fixture
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database of Debian's MariaDB, started for this test."""
    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("MariaDB's server is not installed (Debian: mariadb-server)")
    pymysql = pytest.importorskip("pymysql")
    folder = tmp_path_factory.mktemp("mysql")
    data, port, user = f"--datadir={folder / 'data'}", free_port(), f"--user={getpass.getuser()}"
    words: list[str | Path] = [
        "mariadb-install-db",
        "--no-defaults",
        data,
        "--auth-root-authentication-method=normal",
        user,
    ]
    subprocess.run(words, check=True, capture_output=True, cwd=folder)
    words = [
        program,
        "--no-defaults",
        data,
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 'socket'}",
        user,
    ]
    with server(words, folder, signal.SIGTERM):
        with wait_for(lambda: pymysql.connect(host="127.0.0.1", port=int(port), user="root"), 30) as connection:
            connection.cursor().execute("CREATE DATABASE deck")
        yield f"mysql://root@127.0.0.1:{port}/deck"


@pytest.mark.parametrize("database", ["postgresql", "mysql"])
def test_workers_of_several_folders_share_a_database(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """As on several machines: nothing but the database is shared."""
    place = f"{request.getfixturevalue(database)}#study"
    words = ("--batch", "digits", "--trials", "6", *SPACE, "--set", "trainer.epochs=100", "--study", place)
    first = start(*words, "--runs", "one", cwd=tmp_path)
    wait_for(lambda: studies.open_study(place, tmp_path / "look").trials()[0].intermediate_values)
    second = start("--batch", "--study", place, "--runs", "two", cwd=tmp_path)
    snapshot = studies.open_study(place, tmp_path / "look")
    wait_for(
        lambda: sum(t.state == TrialState.RUNNING and len(t.intermediate_values) > 2 for t in snapshot.trials()) == 2
    )
    second.kill()
    second.communicate()
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    # The trial of the killed worker went on, or began again, in the other one.
    assert "was left by a process that has ended; it continues" in said
    found = snapshot.trials()
    assert [t.number for t in found] == list(range(6))
    assert {t.state for t in found} == {TrialState.COMPLETE}
    assert len({json.dumps(t.params) for t in found}) == 6
    assert all(sorted(t.intermediate_values) == list(range(1, 101)) for t in found)
    if importlib.util.find_spec("optuna_dashboard") is not None:
        shown_by_the_dashboard(place, tmp_path)


def shown_by_the_dashboard(place: str, folder: Path) -> None:
    port = free_port()
    dashboard = start("dashboard", place, "--runs", "look", "--port", port, cwd=folder)
    try:

        def studies_there() -> list[str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=10) as answer:
                return [one["study_name"] for one in json.load(answer)["study_summaries"]]

        assert wait_for(studies_there) == ["study"]
    finally:
        dashboard.terminate()
        dashboard.communicate(timeout=60)
    assert dashboard.returncode == 0


def test_a_full_disk_ends_the_search_and_the_trial_goes_on_later(tmp_path: Path) -> None:
    """A real one of four megabytes."""
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        words = (
            "--batch",
            "digits",
            "--trials",
            "40",
            "--runs",
            str(disk / "runs"),
            *SPACE,
            "--set",
            "trainer.epochs=2",
            "--set",
            "search.keep=0",
            "--set",
            "model.args.widths=[64]",
        )
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


# --- journal, dashboard
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_many_processes_ask_one_new_file(tmp_path: Path, storage: str) -> None:
    """They create the study at the same moment, and each trial is had once."""
    (tmp_path / "mine.py").write_text("def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n")
    words = (
        "--batch",
        "digits",
        "--quiet",
        "--trials",
        "24",
        "--set",
        "search.function=mine.py:objective",
        "--set",
        "search.name=s",
        "--set",
        f"search.storage={storage}",
    )
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
