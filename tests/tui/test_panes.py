"""What the panes show, without a run: lines of the device, progress, data and model."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from hypothesis import given
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from torchdeck.core.events import EpochEnded, Failed, Started, StepSummary
from torchdeck.core.machine.nvidia import Nvidia
from torchdeck.core.machine.readings import Meter
from torchdeck.core.runs.history import History
from torchdeck.tui.run_monitor import Snapshot
from torchdeck.tui.widgets.data_preview import draw_data
from torchdeck.tui.widgets.device import gpu_lines, machine_lines
from torchdeck.tui.widgets.header import progress_lines
from torchdeck.tui.widgets.lines import changed
from torchdeck.tui.widgets.model_tree import patterns

THEME = {
    "primary": "#0178d4",
    "surface-lighten-2": "#333333",
    "success": "#00ff00",
    "warning": "ansi_yellow",
    "error": "#ff0000",
}


def snapshot(history: History, state: str) -> Snapshot:
    return Snapshot(history, state, Path("runs/20261124-120000-digits-mlp"), 1, (), None, 1)


def running(step: int = 120) -> History:
    history = History()
    history.take(
        [
            Started(
                epoch=0,
                step=0,
                epochs=5,
                steps=500,
                epoch_length=100,
                device="cpu",
                precision="fp32",
                parameters=1,
                train_samples=1,
                val_samples=1,
                test_samples=1,
                time=0.0,
            ),
            EpochEnded(
                epoch=1,
                step=100,
                train={},
                val={"accuracy": 0.9, "loss": 0.3},
                learning_rate=0.1,
                seconds=1.0,
                best=True,
                time=10.0,
            ),
            StepSummary(
                epoch=2,
                step=step,
                train={"loss": 0.25},
                losses=(0.25,),
                learning_rate=0.1,
                gradient_norm=None,
                samples_per_second=12_345.0,
                data_wait=0.0,
                memory=1,
                time=12.0,
            ),
        ]
    )
    return history


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
@pytest.mark.parametrize("state", ["idle", "starting", "running", "paused", "done", "stopped", "failed", "dead"])
def test_progress_fits_every_width(width: int, state: str) -> None:
    lines = progress_lines(snapshot(running(), state), width, THEME)
    assert len(lines) == 2
    assert all("\n" not in line.plain for line in lines)


def test_progress_tells_what_matters() -> None:
    first, second = (line.plain for line in progress_lines(snapshot(running(), "running"), 140, THEME))
    assert "running" in first
    assert "loss 0.2500" in first
    assert "val accuracy 90.00%" in first
    assert "epoch 2/5" in second
    assert "step 120/500" in second
    assert "24%" in second
    assert "ETA" in second
    assert "12.3k samples/s" in second
    assert "█" in second
    assert "20261124" not in progress_lines(snapshot(running(), "running"), 80, THEME)[0].plain


def test_a_failure_is_told_in_its_words() -> None:
    history = running()
    history.take([Failed(epoch=1, step=120, message="The loss is NaN.\nat step 120", time=13.0)])
    assert "The loss is NaN. at step 120" in progress_lines(snapshot(history, "failed"), 80, THEME)[1].plain


def test_a_gpu_in_lines() -> None:
    [gpu] = Nvidia(FakeNvml()).read()
    text = "\n".join(line.plain for line in gpu_lines(gpu, [10, 50, 97], 60, gpu.processes[0].pid, {}))
    for words in ("H100", "97%", "8GB/80GB", "this run 1GB", "66 °C", "512/700 W", "slowed by power cap"):
        assert words in text


def test_gpus_that_tell_little() -> None:
    nvml = FakeNvml(
        nvmlDeviceGetUtilizationRates="Not Supported",
        nvmlDeviceGetMemoryInfo="Not Supported",
        nvmlDeviceGetTemperature="Unknown Error",
        nvmlDeviceGetComputeRunningProcesses="Insufficient Permissions",
    )
    [gpu] = Nvidia(nvml).read()
    text = "\n".join(line.plain for line in gpu_lines(gpu, [], 40, None, {}))
    assert "utilisation: not supported by this GPU" in text
    assert "processes: not permitted to this user" in text


def test_the_machine_in_lines(tmp_path: Path) -> None:
    reading = Meter(tmp_path, Nvidia(FakeNvml(nvmlInit="NVML Shared Library Not Found"))).read()
    text = "\n".join(line.plain for line in machine_lines(reading, [1.0, 2.0], [3.0], 50, {}))
    assert "no GPU: no NVIDIA driver here" in text
    assert "free for runs" in text


def facts(colour_side: int = 4) -> dict[str, object]:
    pixels = bytes(range(48)) * (colour_side // 4) ** 2
    return {
        "name": "mine",
        "task": "classification",
        "samples": {"train": 10, "val": 0, "test": 2},
        "shape": "3×4×4",
        "outputs": 2,
        "transforms": ["ToTensor"],
        "place": "here",
        "warnings": [],
        "counts": [7, 3],
        "classes": ["cat", "dog"],
        "labels": ["cat"],
        "rows": None,
        "texts": None,
        "courses": None,
        "pictures": {"count": 1, "height": 4, "width": 4, "rgb": base64.b64encode(pixels).decode()},
    }


def test_pictures_in_half_blocks() -> None:
    text = draw_data(facts(), 60, True)
    assert text.plain.count("▀") == 8  # 4 columns, 2 rows of two pixels
    styles = {str(span.style) for span in text.spans}
    assert any("#000102 on #0c0d0e" in style for style in styles)
    assert "cat" in text.plain
    assert "7" in text.plain
    shaded = draw_data(facts(), 60, False)
    assert "▀" not in shaded.plain


def test_a_table_shows_rows() -> None:
    table = {**facts(), "pictures": None, "rows": [[1.5, -2.0]], "labels": ["dog"]}
    assert "1.5" in draw_data(table, 60, True).plain
    labelled = {**table, "rows": [[1.5] * 8], "labels": ["a long name of a class"]}
    line = next(line for line in draw_data(labelled, 50, True).plain.splitlines() if "long name" in line)
    assert line == f"{'     1.5' * 3}  a long name of a class"  # no number is cut in two
    assert "1.5" in draw_data({**table, "labels": []}, 60, True).plain


def test_texts_and_courses_are_shown_without_labels_too() -> None:
    other = {**facts(), "pictures": None, "labels": [], "counts": None}
    assert "one⏎two" in draw_data({**other, "texts": ["one\ntwo"]}, 40, True).plain
    course = {"values": [0.0, 1.0, 2.0], "target": [2.0, 0.0]}
    assert "⡠⠔⠊ → ⠑⢄" in draw_data({**other, "courses": [course], "labels": ["2 0"]}, 40, True).plain


def leaf(path: str, *own: str) -> dict[str, object]:
    return {"path": path, "own": [[name, True] for name in own], "children": []}


def test_frozen_branches_are_the_fewest_patterns() -> None:
    tree = {
        "path": "",
        "own": [["scale", True]],
        "children": [
            {"path": "body", "own": [], "children": [leaf("body.0", "weight", "bias"), leaf("body.1", "weight")]},
            leaf("head", "weight", "bias"),
        ],
    }
    assert patterns(tree, {"body.0.weight", "body.0.bias", "body.1.weight"}) == ["body.*"]
    assert patterns(tree, {"body.0.weight", "body.0.bias"}) == ["body.0.*"]
    assert patterns(tree, {"body.0.weight", "scale"}) == ["scale", "body.0.weight"]
    assert patterns(tree, set()) == []
    assert patterns({"path": "", "own": [], "children": [leaf("a[0]", "w")]}, {"a[0].w"}) == ["a[[]0].*"]


words = st.lists(st.tuples(st.text("ab ", min_size=1, max_size=4), st.sampled_from(["", "bold", "red"])), max_size=6)


def strip(parts: list[tuple[str, str]]) -> Strip:
    return Strip([Segment(text, Style.parse(style)) for text, style in parts])


def cells(line: Strip) -> list[tuple[str, Style | None]]:
    return [(c, s.style) for s in line for c in s.text]


@given(words, words)
def test_what_lies_outside_the_changed_span_is_the_same(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
    before, after = cells(strip(a)), cells(strip(b))
    span = changed(strip(a), strip(b))
    if span is None:
        assert before == after
        return
    start, end = span
    for x in range(max(len(before), len(after))):
        if not start <= x < end:
            assert before[x : x + 1] == after[x : x + 1]


def test_text_has_no_end() -> None:
    text = Text("x")
    assert text.end == "\n"  # why Lines takes it off
