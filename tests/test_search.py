"""Searches as their users run them: the verbs, what is wrong, whose code runs, the dashboard."""

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
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from conftest import SPACE, kill_below, start, wait_for
from optuna.trial import TrialState

from torchdeck.core.experiment import toml
from torchdeck.core.search import opening as studies
from torchdeck.core.search.study import Study
from torchdeck.tui.__main__ import main


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    kill_below(tmp_path)


# --- one process: the verbs, and what is wrong
# -------------------------------------------------------------------------


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg")
    assert main(["study", "show", "postgresql://me:secret@127.0.0.1:9/db#study", "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("torchdeck: The study's storage 'postgresql://me:***@127.0.0.1:9/db' fails: ")
    assert "secret" not in said
    assert said.count("\n") == 1


def test_a_password_is_kept_nowhere(tmp_path: Path) -> None:
    """A plain training of an experiment that could also be searched."""
    storage = "search.storage=postgresql://me:secret@127.0.0.1:9/db"
    root = tmp_path / "runs"
    assert (
        main(
            ["--batch", "digits", "--quiet", "--runs", str(root), *SPACE, "--set", storage, "--set", "trainer.epochs=1"]
        )
        == 0
    )
    kept = [path for path in root.rglob("*") if path.is_file()]
    assert {"experiment.toml", "last.pt"} <= {path.name for path in kept}
    assert not [path for path in kept if b"secret" in path.read_bytes()]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of four trials."""
    from torchdeck.core.search.worker import Worker

    overrides = [word for word in SPACE if word != "--set"]
    experiment = toml.load(
        "digits", [*overrides, "trainer.epochs=2", "search.trials=4", "search.space.trainer.batch_size=[32, 64]"]
    )
    made = studies.create(experiment, tmp_path_factory.mktemp("searched"))
    assert Worker(made, lambda trial: None, print).work() == 0
    return made.folder


@pytest.fixture
def study(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of it in ./runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(searched, "runs/study", symlinks=True)
    return studies.open_folder(Path("runs/study"))


def test_last_weeks_study_on_a_disk_that_is_read_only(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(sqlite3.connect(study.folder / "optuna.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(study.folder, "last-week", symlinks=True, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    place = str(Path("last-week").absolute())
    if subprocess.run(["mount", "--bind", place, place], capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        assert main(["study", "show", place]) == 0
        assert capsys.readouterr().out.startswith("study: maximize accuracy; 4 complete; 4 in all")
        assert main(["study", "best", place]) == 0
        assert main(["study", "enqueue", place, "optimizer.lr=0.01"]) == 2
        assert "can't be written" in (said := capsys.readouterr().err) or "readonly" in said
    finally:
        subprocess.run(["umount", "-l", place], check=True)


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
        (
            ["study", "plot", "study", "contour", "--params", "optimizer.lr,optimizer.l"],
            "there is no parameter 'optimizer.l'",
        ),
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
        (
            [
                "--batch",
                "digits",
                "--trials",
                "3",
                *SPACE,
                "--set",
                "search.storage=oracle://db",
                "--set",
                "search.name=x",
            ],
            "is no storage of Optuna",
        ),
        (
            ["--batch", "digits", "--trials", "3", *SPACE, "--set", "search.storage=mongo"],
            "search.storage = 'mongo' is not known",
        ),
        (
            ["--batch", "digits", "--trials", "3", *SPACE, "--study", "sqlite:////no/such/folder/x.db"],
            "unable to open database file",
        ),
        (["--batch", "digits", "--trials", "3", *SPACE, "--set", "sampler.name=tpee"], "did you mean 'TPE'?"),
    ],
)
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


# --- trust
# -------------------------------------------------------------------------------------------------------------


def test_code_of_a_study_from_elsewhere_is_not_run(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


# --- the dashboard ---


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
        assert process.returncode == 0
        with pytest.raises(OSError, match="refused"):
            get("/")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
