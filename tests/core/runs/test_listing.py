"""Runs found below roots: ours, other tools', broken ones; the index; names, filter, labels, trash."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Train, start
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.metric_names import canonical, metric
from torchdeck.core.runs import labels, trash
from torchdeck.core.runs.compare import run_differences
from torchdeck.core.runs.filter import Filter, number_of, sort
from torchdeck.core.runs.listing import INDEX, RunList
from torchdeck.core.runs.opened import histories
from torchdeck.core.runs.process import identity
from torchdeck.core.runs.rows import Row


def make(root: Path, name: str, **values: Any) -> Path:
    """A run directory as it lies on the disk."""
    path = root / name
    (path / "checkpoints").mkdir(parents=True)
    facts = {
        "layout": 1,
        "status": "done",
        "data": "digits",
        "model": "mlp",
        "created": 1000.0,
        "ended": 1090.0,
        "epoch": 3,
        "epochs": 3,
        "best_metric": "accuracy",
        "higher_is_better": True,
        "val": {"loss": 0.2, "accuracy": 0.9},
        "best": {"loss": 0.1, "accuracy": 0.95},
        "hyperparameters": {"optimizer.lr": 0.01, "trainer.batch_size": 64, "model.name": "mlp"},
        "curve": [[1, 0.5], [2, 0.95]],
    }
    (path / "run.json").write_text(json.dumps(facts | values))
    return path


def scalars(folder: Path, **values: list[float]) -> None:
    writer = SummaryWriter(str(folder))
    for tag, numbers in values.items():
        for step, value in enumerate(numbers):
            writer.add_scalar(tag.replace("__", "/"), value, step)
    writer.close()


def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


# --- what is found ---------------------------------------------------------------------------------------------------


def test_a_trained_run_tells_everything(train: Train) -> None:
    run = train("trainer.epochs=3", "tracking.tags=['paper']", "tracking.note='first'").path
    [row] = RunList([run.parent]).scan()
    told = json.loads((run / "run.json").read_text())
    assert row.path == run
    assert (row.status, row.data, row.model, row.tags, row.note) == ("done", "digits", "mlp", ("paper",), "first")
    assert row.last == told["val"]
    assert row.best["accuracy"] == max(p[1] for p in told["curve"])
    assert len(row.curve) == 3
    assert row.test == told["test"]
    assert row.value("lr") == 0.003
    assert row.value("val_acc") == row.best["accuracy"]
    assert row.value("test_acc") == row.test["accuracy"]
    assert 0 < row.seconds < 60
    files = {(p.stat().st_ino, p.stat().st_size) for p in run.rglob("*") if p.is_file()}
    assert row.size == sum(size for _, size in files)


def test_runs_of_other_tools(tmp_path: Path) -> None:
    scalars(tmp_path / "lightning_logs" / "version_0", train_loss=[3.0, 2.0], val_acc=[0.5, 0.9, 0.8])
    scalars(tmp_path / "writer", Loss__train=[1.0, 0.5], Loss__test=[2.0, 1.5])
    scalars(tmp_path / "keras" / "train", epoch_loss=[1.0, 0.7])
    scalars(tmp_path / "keras" / "validation", epoch_loss=[1.5, 0.9])
    found = RunList([tmp_path])
    rows = {row.name: row for row in found.scan()}
    assert set(rows) == {"version_0", "writer", "keras"}
    assert all(row.foreign for row in rows.values())
    assert rows["version_0"].best["accuracy"] == pytest.approx(0.9)
    assert rows["version_0"].last["accuracy"] == pytest.approx(0.8)
    assert rows["writer"].train["loss"] == 0.5
    assert rows["writer"].test["loss"] == 1.5
    assert rows["keras"].last["loss"] == pytest.approx(0.9)
    [opened] = histories([tmp_path / "keras"])
    assert set(opened.history.names()) == {"train/loss", "val/loss"}
    assert not opened.poll()
    scalars(tmp_path / "keras" / "train", epoch_acc=[0.5])
    assert opened.poll()
    assert "train/accuracy" in opened.history.names()
    assert found.scan()[0].name  # and the list takes it as well


def test_several_roots_nested_and_none_twice(tmp_path: Path) -> None:
    make(tmp_path / "a", "one")
    make(tmp_path / "b" / "study" / "trials", "two")
    assert names(RunList([tmp_path / "a", tmp_path / "b", tmp_path, tmp_path / "nowhere"]).scan()) == ["one", "two"]


def test_loops_of_links_unreadable_folders_and_broken_runs(tmp_path: Path) -> None:
    make(tmp_path, "good")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    inner = tmp_path / "deep"
    inner.mkdir()
    (inner / "again").symlink_to(inner, target_is_directory=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name, text in (
        ("half", '{"layout": 1, "stat'),
        ("later", '{"layout": 99, "status": "done"}'),
        ("list", "[]"),
        ("empty", ""),
        ("bytes", "\udcff"),
        ("deep-json", "[" * 100_000),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text(
        '{"layout": 1, "status": "done", "val": 3, "best": [1], "tags": 5, "curve": "x", "created": "y"}'
    )
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events.out.tfevents.1").write_bytes(os.urandom(1000))
    listed = RunList([tmp_path])
    assert set(names(listed.scan())) == {"good", "odd", "events"}
    assert len(listed.broken) == 6
    assert sum("later torchdeck" in sentence for sentence in listed.broken) == 1
    assert all(len(sentence.splitlines()) == 1 for sentence in listed.broken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    make(tmp_path, "good")
    (tmp_path / "secret").mkdir(mode=0)
    listed = RunList([tmp_path])
    assert names(listed.scan()) == ["good"]
    assert "secret" in listed.broken[0]


def test_a_root_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x")
    with pytest.raises(UserError, match="can't be read: Not a directory"):
        RunList([tmp_path / "runs"]).scan()


def test_running_and_dead_are_told_apart(tmp_path: Path) -> None:
    process = start("--batch", "iris", "--set", "trainer.epochs=100000", "--json", cwd=tmp_path)
    try:
        listed = RunList([tmp_path / "runs"])
        end = time.monotonic() + 90
        while not (rows := listed.scan()) or rows[0].epoch < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert rows[0].status == "running"
        with pytest.raises(UserError, match="is still training"):
            trash.move_to_trash(rows[0].path, tmp_path / "runs")
        process.kill()
        process.wait()
        assert listed.scan()[0].status == "dead"
        assert RunList([tmp_path / "runs"]).scan()[0].status == "dead"
    finally:
        process.kill()
        process.communicate()


def test_a_run_whose_process_id_was_given_to_another_is_dead(tmp_path: Path) -> None:
    make(tmp_path, "x", status="running", process=identity() | {"process_started": 1.0})
    assert RunList([tmp_path]).scan()[0].status == "dead"


def test_deleted_while_it_is_looked_at(tmp_path: Path) -> None:
    run = make(tmp_path, "x")
    listed = RunList([tmp_path])
    listed.scan()
    [opened] = histories([run])
    trash.move_to_trash(run, tmp_path)
    assert listed.scan() == []
    assert listed.broken == []
    opened.poll()  # what was open may be read to its end
    with pytest.raises(UserError, match="can't be read"):
        histories([tmp_path / "x"])


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_saves_reading_and_may_be_deleted_or_spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        make(tmp_path, f"run-{number:02d}")
    first = RunList([tmp_path]).scan()
    assert (tmp_path / INDEX).is_file()
    read: list[Path] = []
    monkeypatch.setattr("torchdeck.core.runs.listing.read_info", lambda path: read.append(path))
    assert RunList([tmp_path]).scan() == first
    assert read == []
    monkeypatch.undo()
    good = (tmp_path / INDEX).read_bytes()
    for spoilt in (
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        good[:-100],
        b'{"version": 1, "runs": 5}',
        b"[" * 100_000,
        b'{"version": 1, "runs": {"run-00": {"signature": 3, "row": []}, "run-01": {}, "run-02": 5}}',
        good.replace(b'"status":"done"', b'"status":5'),
        good.replace(b'"hyperparameters"', b'"other"'),
    ):
        (tmp_path / INDEX).write_bytes(spoilt)
        assert RunList([tmp_path]).scan() == first
    (tmp_path / INDEX).unlink()
    assert RunList([tmp_path]).scan() == first


def test_what_changed_is_read_again(tmp_path: Path) -> None:
    for number in range(20):
        make(tmp_path, f"run-{number:02d}")
    RunList([tmp_path]).scan()
    file = tmp_path / "run-03" / "run.json"
    file.write_text(file.read_text().replace('"done"', '"failed"'))
    labels.write(tmp_path / "run-04", labels.Labels(title="mine"))
    rows = RunList([tmp_path]).scan()
    assert [row.name for row in rows if row.status == "failed"] == ["run-03"]
    assert rows[4].title == "mine"


def test_a_root_that_can_not_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(30, "Read-only file system")

    for number in range(20):
        make(tmp_path, f"run-{number:02d}")
    monkeypatch.setattr("torchdeck.core.files.secrets.token_hex", refuse)
    assert len(RunList([tmp_path]).scan()) == 20
    assert not (tmp_path / INDEX).exists()
    with pytest.raises(UserError, match="Read-only file system"):
        labels.write(tmp_path / "run-00", labels.Labels(title="x"))


# --- names, filter, sorting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("Loss/train", "train/loss"),
        ("val_acc", "val/accuracy"),
        ("val/loss", "val/loss"),
        ("loss/val", "val/loss"),
        ("train_loss_step", "train/loss_step"),
        ("valid.f1_score", "val/f1"),
        ("lr", "learning_rate"),
        ("lr-AdamW", "lr-AdamW"),
        ("train", "train"),
    ],
)
def test_tags_of_all_tools_have_one_name(tag: str, expected: str) -> None:
    assert canonical(tag) == expected


def test_keras_folders_tell_the_part() -> None:
    assert canonical("epoch_loss", "val") == "val/loss"
    assert metric("best_acc") == ("best", "accuracy")


ROWS = [
    Row(
        Path("a/cnn-one"),
        "done",
        data="digits",
        model="cnn",
        watched="accuracy",
        higher=True,
        best={"accuracy": 0.95, "loss": 0.2},
        last={"accuracy": 0.9},
        hyperparameters={"optimizer.lr": 0.1, "trainer.batch_size": 32},
        tags=("paper", "Big"),
        seconds=100,
        size=5_000_000,
    ),
    Row(
        Path("a/mlp-two"),
        "failed",
        data="iris",
        model="mlp",
        watched="loss",
        best={"loss": 0.5},
        note="too slow to learn",
        hyperparameters={"optimizer.lr": 0.001, "model.args.widths": "(10, 10)"},
        seconds=7200,
    ),
    Row(Path("a/old"), "done", model="cnn", best={"accuracy": 0.99}, archived=True),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cnn-one mlp-two"),
        ("val_acc > 0.9", "cnn-one"),
        ("acc>90%", "cnn-one"),
        ("val_acc<=0.9", ""),
        ("last_acc = 0.9", "cnn-one"),
        ("model:cnn", "cnn-one"),
        ("model=cnn", "cnn-one"),
        ("model != cnn", "mlp-two"),
        ("tag:paper", "cnn-one"),
        ("tag=big", "cnn-one"),
        ("tag:pap", "cnn-one"),
        ("tag=pap", ""),
        ("-tag:paper", "mlp-two"),
        ("status:failed or val_acc>0.9", "cnn-one mlp-two"),
        ("lr<=1e-3", "mlp-two"),
        ("optimizer.lr >= 0.1 model:cnn", "cnn-one"),
        ("duration>1h", "mlp-two"),
        ("size > 1MB", "cnn-one"),
        ('"too slow"', "mlp-two"),
        ("slow", "mlp-two"),
        ("-slow", "cnn-one"),
        ("archived:yes", "old"),
        ("note:LEARN", "mlp-two"),
        ("loss<0.3", "cnn-one"),
        ("batch_size=32", "cnn-one"),
        ("widths:10", "mlp-two"),
    ],
)
def test_filters(text: str, expected: str) -> None:
    assert " ".join(names(Filter(text).apply(ROWS))) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("val_ac > 0.9", "No run has 'val_ac'; did you mean"),
        ("lr > fast", "'fast' is none"),
        ('"open', "a quote is not closed"),
        ("model > 3", "model is no number; write model:3"),
        ("or x", "nothing before 'or'"),
        ("x or", "nothing after 'or'"),
        ("> 3", "can't be understood at '>'"),
    ],
)
def test_wrong_filters_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        Filter(text).apply(ROWS)
    assert "\n" not in str(error.value)


@given(st.text(alphabet=st.sampled_from('abz.:<>=!-"% 019eorGB()é\n')))
def test_no_filter_raises_anything_else(text: str) -> None:
    try:
        Filter(text).apply(ROWS)
    except UserError as error:
        assert str(error)


@given(st.floats(-1e12, 1e12))
def test_numbers_are_read_as_python_writes_them(value: float) -> None:
    assert number_of(repr(value)) == value


def test_sorting_puts_what_has_no_value_last() -> None:
    assert names(sort(ROWS, "-val_loss")) == ["mlp-two", "cnn-one", "old"]
    assert names(sort(ROWS, "val_acc")) == ["cnn-one", "old", "mlp-two"]
    assert names(sort(ROWS, "model"))[-1] == "mlp-two"


def test_only_what_differs_is_told() -> None:
    found = {d.key: d.values for d in run_differences(ROWS[:2])}
    assert found == {
        "optimizer.lr": (0.1, 0.001),
        "trainer.batch_size": (32, None),
        "model.args.widths": (None, "(10, 10)"),
    }


# --- labels and trash ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"title": 5, "tags": "x", "note": [], "archived": "yes"}', "\x00", "[" * 100_000]
)
def test_labels_that_can_not_be_understood_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / labels.FILE).write_text(text)
    assert labels.read_labels(tmp_path) == labels.Labels()


def test_labels_override_what_the_experiment_said(tmp_path: Path) -> None:
    run = make(tmp_path, "x", tags=["old"], note="before")
    assert RunList([tmp_path]).scan()[0].tags == ("old",)
    labels.write(run, labels.Labels("best yet", ("new",), "", True))
    row = RunList([tmp_path]).scan()[0]
    assert (row.title, row.tags, row.note, row.archived) == ("best yet", ("new",), "", True)


def test_the_trash_gives_back_what_it_took(tmp_path: Path) -> None:
    for run in (make(tmp_path, "top"), make(tmp_path / "study" / "trials", "deep"), tmp_path / "kept"):
        if run.name == "kept":
            make(tmp_path, "kept")
            continue
        before = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
        trash.move_to_trash(run, tmp_path)
        assert not run.exists()
        assert run.name not in names(RunList([tmp_path]).scan())
        [one] = trash.contents(tmp_path)
        assert one.origin == run
        trash.take_from_trash(one)
        assert sorted(str(p.relative_to(run)) for p in run.rglob("*")) == before
        assert trash.contents(tmp_path) == []


def test_a_place_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    one = trash.move_to_trash(make(tmp_path, "x"), tmp_path)
    make(tmp_path, "x", status="failed")
    with pytest.raises(UserError, match="exists"):
        trash.take_from_trash(one)
    assert trash.empty(tmp_path) > 0
    assert trash.contents(tmp_path) == []
    assert names(RunList([tmp_path]).scan()) == ["x"]


def test_links_are_not_followed_by_the_trash(tmp_path: Path) -> None:
    precious = make(tmp_path / "elsewhere", "precious")
    root = tmp_path / "runs"
    root.mkdir()
    (root / "link").symlink_to(precious, target_is_directory=True)
    with pytest.raises(UserError, match="is a link"):
        trash.move_to_trash(root / "link", root)
    run = make(root, "x")
    (run / "inside").symlink_to(precious, target_is_directory=True)
    trash.move_to_trash(run, root)
    trash.empty(root)
    (root / trash.FOLDER).symlink_to(precious, target_is_directory=True)
    with pytest.raises(UserError, match="link"):
        trash.empty(root)
    assert (precious / "run.json").exists()
