"""What lands is what a real TensorBoard shows, over its HTTP API."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator

from torchdeck.core.events import EpochEnded, StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.hyperparameters import flat


class Server:
    def __init__(self, process: subprocess.Popen, address: str) -> None:
        self.process, self.address = process, address

    def get(self, path: str, body: dict | None = None) -> bytes:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"} if data else {}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def json(self, path: str, body: dict | None = None):
        return json.loads(self.get(path, body))

    def until(self, path: str, ready, body: dict | None = None, timeout: float = 60):
        """Ask until the server has loaded what is wanted."""
        end = time.monotonic() + timeout
        while True:
            try:
                value = self.json(path, body)
                if ready(value):
                    return value
            except urllib.error.HTTPError:
                value = None
            assert time.monotonic() < end, value
            time.sleep(0.3)


@pytest.fixture
def serve() -> Iterator:
    servers = []

    def begin(folder: Path) -> Server:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tensorboard.main",
                "--logdir",
                str(folder),
                "--port",
                "0",
                "--host",
                "127.0.0.1",
                "--reload_interval",
                "1",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        servers.append(process)
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)", line):
                return Server(process, found[1])
        raise AssertionError("TensorBoard did not start")

    yield begin
    for process in servers:
        process.kill()
        process.wait()


def test_scalars_hparams_images_graph_and_text_show_in_a_real_tensorboard(train: Train, serve) -> None:
    run = train("trainer.epochs=3", "tracking.histograms=true")
    assert run.status == "done", run.failure
    name = run.path.name
    server = serve(run.path.parent)

    runs = server.until("/data/runs", lambda r: bool(r))
    assert runs == [name]  # one run, no sub-run for hparams

    tags = server.until("/data/plugin/scalars/tags", lambda t: "accuracy/test" in t.get(name, {}))[name]
    assert {
        "loss/train",
        "loss/val",
        "loss/train_epoch",
        "accuracy/train",
        "accuracy/val",
        "f1/val",
        "top5/val",
        "loss/test",
        "learning_rate",
        "gradient_norm",
        "samples_per_second",
        "data_wait",
        "memory",
    } <= set(tags)
    points = server.json(f"/data/plugin/scalars/scalars?run={name}&tag=loss/train")
    assert [(p[1], pytest.approx(p[2], rel=1e-5)) for p in points] == [
        (e.step, e.train["loss"]) for e in run.of(StepSummary)
    ]
    points = server.json(f"/data/plugin/scalars/scalars?run={name}&tag=accuracy/val")
    assert [(p[1], pytest.approx(p[2], rel=1e-5)) for p in points] == [
        (e.step, e.val["accuracy"]) for e in run.of(EpochEnded)
    ]

    experiment = server.json("/data/plugin/hparams/experiment", {"experimentName": ""})
    assert {h["name"] for h in experiment["hparamInfos"]} >= {"optimizer.lr", "model.name", "trainer.epochs"}
    wanted = {
        "experimentName": "",
        "startIndex": 0,
        "sliceSize": 10,
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
        "colParams": [
            {"metric": {"tag": "accuracy/test", "group": ""}, "includeInResult": True},
            *({"hparam": name, "includeInResult": True} for name in ("optimizer.lr", "model.name")),
        ],
    }
    groups = server.json("/data/plugin/hparams/session_groups", wanted)["sessionGroups"]
    assert len(groups) == 1
    (session,) = groups[0]["sessions"]
    assert session["name"] == name
    assert session["status"] == "STATUS_SUCCESS"
    assert groups[0]["hparams"]["optimizer.lr"] == pytest.approx(3e-3)
    assert groups[0]["hparams"]["model.name"] == "mlp"
    metrics = {m["name"]["tag"]: m["value"] for m in session["metricValues"]}
    assert metrics["accuracy/test"] == pytest.approx(run.session.finished.test["accuracy"], rel=1e-5)

    (category,) = server.json("/data/plugin/custom_scalars/layout")["category"]
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    assert {"loss", "accuracy", "f1", "top5"} <= set(charts)
    asked = urllib.parse.urlencode({"run": name, "tag": charts["accuracy"][0]})
    drawn = server.json(f"/data/plugin/custom_scalars/scalars?{asked}")["tag_to_events"]
    assert set(drawn) == {"accuracy/train", "accuracy/train_epoch", "accuracy/val", "accuracy/test"}

    images = server.json("/data/plugin/images/tags")[name]
    assert {"data/train", "confusion_matrix"} <= set(images)
    listed = server.json(f"/data/plugin/images/images?run={name}&tag=confusion_matrix&sample=0")
    assert server.get(f"/data/plugin/images/individualImage?{listed[0]['query']}").startswith(b"\x89PNG")
    graph = server.get(f"/data/plugin/graphs/graph?run={name}&conceptual=false")
    assert b"Linear" in graph
    assert "experiment/text_summary" in server.json("/data/plugin/text/tags")[name]
    assert any(t.startswith("weights/") for t in server.json("/data/plugin/histograms/tags")[name])


def test_after_a_resume_no_curve_runs_backwards(train: Train, serve) -> None:
    """A kill loses the steps after the checkpoint; they are trained again and must not stand twice."""
    options = (
        "trainer.epochs=4",
        "trainer.checkpoint_steps=15",
        "trainer.validation_share=0",
        "tracking.every_steps=1",
    )
    run = train(*options, stop_at=40, command="abort")
    (run.path / "checkpoints").joinpath("last.pt").unlink()
    at = max(int(p.stem[5:]) for p in (run.path / "checkpoints").glob("step-*.pt"))
    assert at < 40
    again = train(resume=run.path)
    assert again.status == "done", again.failure
    name = run.path.name
    server = serve(run.path.parent)
    server.until("/data/plugin/scalars/tags", lambda t: "accuracy/test" in t.get(name, {}))
    steps = [p[1] for p in server.json(f"/data/plugin/scalars/scalars?run={name}&tag=loss/train")]
    assert steps == list(range(1, 93))
    files = list(run.path.glob("events.out.tfevents.*"))
    assert len(files) == 2
    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    reader.Reload()
    assert [e.step for e in reader.Scalars("loss/train")] == steps
    without_fast_loading = PluginEventAccumulator(str(run.path), tensor_size_guidance={"scalars": 0}).Reload()
    assert [e.step for e in without_fast_loading.Tensors("loss/train")] == steps


def test_hparams_are_flat_and_of_plain_kinds() -> None:
    values = flat(toml.load("fashion-best"))
    assert values["optimizer.lr"] == toml.load("fashion-best").optimizer.lr
    assert all(isinstance(v, bool | int | float | str) for v in values.values())
    assert isinstance(values["model.args.channels"], str)
    assert not any(k.startswith("tracking") for k in values)
