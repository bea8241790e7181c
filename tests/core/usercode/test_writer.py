"""What user code writes is found by TensorBoard's own reader, in the run's own files, at the run's step."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Train
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from torchdeck.core.events import EpochEnded
from torchdeck.core.usercode.writer import RunWriter

CODE = """\
import matplotlib
matplotlib.use("Agg")
from matplotlib.figure import Figure
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, writer):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.writer = writer
        writer.add_text("model", "made")

def seen(logits, y, writer):
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    writer.add_figure("figure", figure)
    writer.add_image("image", torch.rand(3, 4, 5))
    writer.add_video("video", torch.randint(0, 256, (1, 3, 3, 6, 8), dtype=torch.uint8))
    writer.add_text("text", f"{len(y)} samples")
    writer.add_scalar("mine", len(y), global_step=7)
    return 1.0
"""


def test_a_figure_an_image_a_video_and_a_text_of_the_users_code(train: Train, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    run = train("trainer.epochs=2", f"model.name={tmp_path}/net.py:Net", f"tracking.metrics=['{tmp_path}/net.py:seen']")
    assert run.status == "done", run.failure
    found = EventAccumulator(str(run.path), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()
    steps = [e.step for e in run.of(EpochEnded)]
    steps += [steps[-1]] * 2  # validation and test at the end, with the best weights
    for tag, size in (("figure", None), ("image", (5, 4)), ("video", (8, 6))):
        assert [e.step for e in found.Images(tag)] == steps  # and none of the try before the training
        picture = Image.open(io.BytesIO(found.Images(tag)[0].encoded_image_string))
        assert size is None or picture.size == size
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(found.Images("video")[0].encoded_image_string))))) == 3
    texts = {
        t: [e.tensor_proto.string_val[0].decode() for e in found.Tensors(f"{t}/text_summary")]
        for t in ("model", "text")
    }
    assert texts["model"] == ["made"]
    assert texts["text"][0].endswith("samples")
    assert {e.step for e in found.Scalars("mine")} == {7}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 99))
def test_a_video_keeps_its_pictures(
    tmp_path_factory: pytest.TempPathFactory, n: int, frames: int, channels: int, floats: bool, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("video")
    grey = np.random.default_rng(seed).permutation(64)[: n * frames].reshape(n, frames, 1, 1, 1).astype(np.uint8)
    video = np.broadcast_to(grey, (n, frames, channels, 4, 6)).copy()
    board, writer = SummaryWriter(str(folder)), RunWriter()
    writer.attach(board, lambda: 3)
    writer.add_video("v", torch.from_numpy(video / 255.0) if floats else torch.from_numpy(video))
    board.close()
    (event,) = EventAccumulator(str(folder)).Reload().Images("v")
    shown = [
        np.asarray(f.convert("L")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(event.encoded_image_string)))
    ]
    expected = np.concatenate(list(video[:, :, 0]), axis=2)
    if len(shown) == frames:  # GIF joins pictures that are the same
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(shown, expected, strict=True))
    assert (event.width, event.height, event.step) == (6 * n, 4, 3)


def test_outside_of_a_run_it_writes_nothing_and_copies_nothing() -> None:
    writer = RunWriter()
    writer.add_text("a", "b")
    assert copy.deepcopy(writer) is writer
    assert isinstance(pickle.loads(pickle.dumps(writer)), RunWriter)
