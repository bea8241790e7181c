"""Event files: the same scalars as TensorBoard's own reader gives, whatever the file has been through."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Train
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from torchdeck.core.tracking.reader import EventReader
from torchdeck.core.tracking.records import RecordFile, checksums, masked

Point = tuple[int, float]


def write(path: Path, events: list[Event]) -> None:
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def scalar(step: int, tag: str = "loss", value: float = 0.5) -> Event:
    return Event(
        wall_time=1000.0 + step, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    )


def points(reader: EventReader) -> dict[str, list[Point]]:
    return {tag: list(zip(s.steps.tolist(), s.mean.tolist(), strict=True)) for tag, s in reader.series.items()}


def theirs(folder: Path) -> dict[str, list[Point]]:
    """What TensorBoard reads, old scalars and new ones."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    found = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    for tag in accumulator.Tags()["tensors"]:
        values = [(e.step, make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(tag)]
        if all(v.shape == () and v.dtype.kind == "f" for _, v in values):
            found[tag] = [(step, float(v)) for step, v in values]
    return found


def test_a_run_of_ours_reads_as_tensorboard_reads_it(train: Train) -> None:
    run = train("trainer.epochs=3").path
    reader = EventReader(run)
    assert reader.poll()
    expected = theirs(run)
    assert {"loss/train", "accuracy/val", "loss/test"} <= set(expected)
    scalars = {tag: expected[tag] for tag in reader.series}
    assert points(reader) == scalars
    assert set(reader.series) >= {
        tag for tag in expected if "/" in tag and not tag.startswith(("_hparams", "experiment"))
    }


def test_a_summary_writer_with_everything_in_it(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in range(300):
        writer.add_scalar("Loss/train", 1 / (step + 1), step)
        writer.add_scalar("new", step, step, new_style=True)
        writer.add_scalar("double", math.pi * step, step, new_style=True, double_precision=True)
    writer.add_text("words", "hello", 3)
    writer.add_histogram("weights", np.arange(1000.0), 4)
    writer.add_image("picture", np.zeros((3, 64, 64), dtype=np.uint8), 5)
    writer.add_scalars("both", {"a": 1.0, "b": 2.0}, 7)
    writer.close()
    reader = EventReader(tmp_path)
    reader.poll()
    found, expected = points(reader), theirs(tmp_path)
    assert set(found) == {"Loss/train", "new", "double"}
    assert all(found[tag] == expected[tag] for tag in ("Loss/train", "new"))
    assert found["double"][-1] == (299.0, math.pi * 299)
    assert reader.damaged == 0


def test_scalars_as_keras_writes_them(tmp_path: Path) -> None:
    events = []
    for step in range(200):
        tensor = make_tensor_proto(np.float32(step / 2))
        if step == 0:
            tensor.ClearField("float_val")  # TensorFlow leaves out what is zero
        value = Summary.Value(tag="epoch_loss", tensor=tensor, metadata=create_summary_metadata("epoch_loss", ""))
        summary = Summary(value=[value])
        events.append(Event(wall_time=float(step), step=step, summary=summary))
    write(tmp_path / "events.out.tfevents.1.host.1.0.v2", events)
    reader = EventReader(tmp_path)
    reader.poll()
    assert points(reader)["epoch_loss"] == [(float(s), s / 2) for s in range(200)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**40), st.sampled_from(["a", "b/long", "ü"]), st.floats(width=32, allow_subnormal=False)
        ),
        max_size=300,
    )
)
def test_any_scalars_in_rising_order(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("events")
    drawn = sorted(drawn, key=lambda d: d[0])
    write(folder / "events.out.tfevents.1", [scalar(*d) for d in drawn])
    reader = EventReader(folder)
    reader.poll()
    for tag in ("a", "b/long", "ü"):
        expected = [(s, v) for s, t, v in drawn if t == tag]
        series = reader.series.get(tag)
        if series is None:
            assert not expected
            continue
        finite = [(float(s), v) for s, v in expected if math.isfinite(v)]
        kept = [(s, v) for s, v in zip(series.steps.tolist(), series.mean.tolist(), strict=True) if not math.isnan(v)]
        assert kept == finite
        assert len(series.odd) == len(expected) - len(finite)


def test_tailing_reads_what_is_new_and_waits_for_half_a_record(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write(whole, [scalar(step) for step in range(100)])
    data = whole.read_bytes()
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "events.out.tfevents.1"
    reader = EventReader(folder)
    seen = 0
    for end in (0, 5, 11, 12, 13, 700, 701, len(data) - 1, len(data)):
        path.write_bytes(data[:end])
        reader.poll()
        count = len(reader.series["loss"]) if "loss" in reader.series else 0
        assert count >= seen
        seen = count
    assert seen == 100
    assert reader.damaged == 0
    assert not reader.poll()


def test_a_tail_cut_anywhere_gives_the_records_before_it(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    write(path, [scalar(step) for step in range(1, 6)])
    data = path.read_bytes()
    size = len(data) // 5
    for end in range(len(data)):
        path.write_bytes(data[:end])
        reader = EventReader(tmp_path)
        reader.poll()
        assert sum(len(s) for s in reader.series.values()) == min(end // size, 5) or end // size < 1
        assert reader.damaged == 0


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(1, 255))
def test_a_flipped_byte_costs_its_record_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("events")
    path = folder / "events.out.tfevents.1"
    write(path, [scalar(step, value=float(step)) for step in range(200)])
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= value
    path.write_bytes(bytes(data))
    reader = EventReader(folder)
    reader.poll()
    found = points(reader)["loss"]
    assert len(found) >= 198
    assert all(step == v for step, v in found)  # what is wrong is left out, not shown
    assert reader.damaged > 0


def test_garbage_and_zeros_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    write(path, [scalar(step) for step in range(1, 51)])
    data = path.read_bytes()
    half = len(data) // 2 // (len(data) // 50) * (len(data) // 50)
    for filling in (bytes(5000), np.random.default_rng(0).bytes(5000), b"\xff" * 100):
        path.write_bytes(data[:half] + filling + data[half:])
        reader = EventReader(tmp_path)
        reader.poll()
        assert len(reader.series["loss"]) == 50
        assert reader.damaged == len(filling)
    for nothing in (b"", bytes(10_000), b"not events at all" * 100):
        path.write_bytes(nothing)
        reader = EventReader(tmp_path)
        reader.poll()
        assert reader.series == {}


def test_a_writer_that_begins_anew_takes_the_place_of_what_came_after(tmp_path: Path) -> None:
    version = Event(file_version="brain.Event:2")
    write(tmp_path / "events.out.tfevents.1", [version, *(scalar(step, value=1.0) for step in range(10))])
    again = [
        version,
        Event(step=5, session_log=SessionLog(status=SessionLog.START)),
        *(scalar(s, value=2.0) for s in range(5, 8)),
    ]
    write(tmp_path / "events.out.tfevents.2", again)
    reader = EventReader(tmp_path)
    reader.poll()
    assert points(reader) == theirs(tmp_path)
    assert points(reader)["loss"] == [(s, 1.0) for s in range(5)] + [(s, 2.0) for s in range(5, 8)]


#: What a writer does: a scalar, or a restart at that step.
doings = st.lists(
    st.tuples(
        st.sampled_from(["point"] * 8 + ["restart"]),
        st.integers(0, 30),
        st.sampled_from(["a", "b"]),
        st.floats(-100, 100, width=32),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(doings, min_size=1, max_size=3), st.data())
def test_points_in_any_order_are_all_kept_by_step_and_only_a_restart_drops_some(
    tmp_path_factory: pytest.TempPathFactory, writers: list[list[tuple[str, int, str, float]]], data: st.DataObject
) -> None:
    """tensorboard#3570: shuffled steps, several writers; read at once and while they are being written."""
    folder = tmp_path_factory.mktemp("events")
    at_once, tailed = EventReader(folder), EventReader(folder)
    for number, doing in enumerate(writers):
        events = [Event(file_version="brain.Event:2")]
        for kind, step, tag, value in doing:
            log = SessionLog(status=SessionLog.START)
            events.append(scalar(step, tag, value) if kind == "point" else Event(step=step, session_log=log))
        path = folder / f"events.out.tfevents.{number + 1}"
        write(path, events)
        whole = path.read_bytes()
        for end in sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3))):
            path.write_bytes(whole[:end])
            tailed.poll()
        path.write_bytes(whole)
        tailed.poll()
    at_once.poll()
    expected = {tag: sorted(found, key=lambda point: point[0]) for tag, found in theirs(folder).items() if found}
    for reader in (at_once, tailed):
        assert {tag: found for tag, found in points(reader).items() if found} == expected
        assert {tag: s.last for tag, s in reader.series.items() if len(s)} == {t: f[-1][1] for t, f in expected.items()}


def test_two_summary_writers_at_once_in_one_folder(tmp_path: Path) -> None:
    first = SummaryWriter(str(tmp_path), filename_suffix=".first")
    second = SummaryWriter(str(tmp_path), filename_suffix=".second")
    reader = EventReader(tmp_path)
    for step in range(20):
        first.add_scalar("loss", 1.0, 2 * step)
        second.add_scalar("loss", 2.0, 2 * (19 - step) + 1)  # backwards
        if step % 5 == 4:
            first.flush()
            second.flush()
            reader.poll()
    first.close()
    second.close()
    reader.poll()
    assert points(reader)["loss"] == [(s, 1.0 + s % 2) for s in range(40)]


def test_a_file_that_is_replaced_or_cut_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    reader = EventReader(tmp_path)
    write(path, [scalar(step, value=1.0) for step in range(10)])
    reader.poll()
    write(path, [scalar(step, value=2.0) for step in range(5)])
    assert reader.poll()
    assert points(reader)["loss"] == [(s, 2.0) for s in range(5)]
    other = tmp_path / "new"
    write(other, [scalar(step, value=3.0) for step in range(30)])
    other.replace(path)
    assert reader.poll()
    assert points(reader)["loss"] == [(s, 3.0) for s in range(30)]


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    one = scalar(1000).SerializeToString()
    head = struct.pack("<Q", len(one))
    crc = masked(checksums(np.frombuffer(head, np.uint8)[None]))[0].tobytes()
    tail = masked(checksums(np.frombuffer(one, np.uint8)[None]))[0].tobytes()
    path.write_bytes((head + crc + one + tail) * 400_000)
    reader = EventReader(tmp_path)
    reader.poll()
    series = reader.series["loss"]
    assert series.count == 400_000
    assert len(series) <= 1 << 17


def test_a_long_record_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "events"
    write(path, [Event(step=1, summary=Summary(value=[Summary.Value(tag="x" * 5000, simple_value=1.0)]))])
    [groups] = RecordFile(path).poll()
    assert len(groups) == 1
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(bytes(data))
    file = RecordFile(path)
    assert [g for groups in file.poll() for g in groups] == []
    assert file.damaged > 5000


def test_the_checksum_is_crc32c() -> None:
    """RFC 3720, appendix B.4."""
    vectors: list[tuple[bytes, int]] = [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ]
    for data, expected in vectors:
        assert int(checksums(np.frombuffer(data, np.uint8)[None])[0]) == expected


def test_files_of_other_kinds_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "events.out.tfevents.dir").mkdir()
    reader: Any = EventReader(tmp_path)
    assert not reader.poll()
