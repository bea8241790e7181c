"""Evaluation and prediction give the same logits for the same files, and they are those of torchvision and plain
torch."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from torchdeck.core.catalog.transforms import TRANSFORMS
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.evaluation.trained import Trained, load_trained
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data, Transform
from torchdeck.core.session.preview import Previewer
from torchdeck.core.session.session import Session

HEIGHT, WIDTH = 9, 11

RECORD = """
import torch
seen = []
def kept(out, y):
    torch.save(out.clone(), {file!r})
    return float(len(out))
def half(x):
    return x * 0.5 if isinstance(x, torch.Tensor) else x.point(lambda v: v // 2)
def sized(x):
    return torch.nn.functional.interpolate(x[None], size=(9, 11), mode="nearest")[0]
def noise(x):
    return x + torch.rand(()) if isinstance(x, torch.Tensor) else x
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every mode, some of them turned by EXIF, in folders of two classes."""
    top = tmp_path_factory.mktemp("one_path")
    (top / "own.py").write_text(RECORD.format(file=str(top / "logits.pt")))
    draw = np.random.default_rng(0)
    modes = [
        ("RGB", "png"),
        ("L", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("I;16", "png"),
        ("CMYK", "jpg"),
        ("RGB", "jpg"),
        ("LA", "png"),
        ("1", "png"),
        ("RGB", "webp"),
    ]
    for number, (mode, suffix) in enumerate(modes * 2):
        path = top / "d" / ("cat", "dog")[number % 2] / f"{number:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        turned = suffix == "jpg" and number > 8
        size = (WIDTH, HEIGHT, 3) if turned else (HEIGHT, WIDTH, 3)
        image = Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8))
        if mode == "I;16":
            image = Image.fromarray(draw.integers(0, 65536, size[:2], dtype=np.uint16))
        elif mode == "P":
            image = image.quantize(16)
        elif mode != "RGB":
            image = image.convert(mode)
        exif = Image.Exif()
        if turned:
            exif[0x0112] = 6
        image.save(path, exif=exif)
    return top


@pytest.fixture(scope="module", params=[False, True], ids=["once", "flip_test"])
def trained(request: pytest.FixtureRequest, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        experiment = toml.build(
            {
                "data": {"name": "ImageFolder", "args": {"path": str(place / "d")}, "workers": 0},
                "model": {"name": "cnn", "args": {"channels": [4], "hidden": 4}},
                "trainer": {"epochs": 1, "batch_size": 8, "flip_test": request.param},
                "tracking": {"metrics": [f"{place}/own.py:kept"], "graph": False, "images": False},
            }
        )
        session = Session(experiment, tmp_path_factory.mktemp("runs"))
        session.start()
        assert session.join(60)
        assert session.failure is None, session.failure
        assert session.run is not None
        yield load_trained(session.run.path / "checkpoints" / "last.pt", trust_code=True)


def size(most: int = 14) -> st.SearchStrategy[Any]:
    # A width of one pixel: torch 2.14's antialiased interpolation gives each row the first one's value there, or not,
    # as the image lies in memory.
    return st.integers(2, most) | st.tuples(st.integers(1, most), st.integers(2, most)).map(list)


#: Each transform of the catalog, drawn, and what torchvision does in its place on samples that are not for training.
CATALOG: dict[str, st.SearchStrategy[tuple[dict[str, Any], list[Any]]]] = {
    "ToTensor": st.just(({}, [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])),
    "Normalize": st.just(({"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}, [])),
    "Resize": size().map(lambda s: ({"size": s}, [v2.Resize(s)])),
    "CenterCrop": size().map(lambda s: ({"size": s}, [v2.CenterCrop(s)])),
    "RandomCrop": size().map(lambda s: ({"size": s, "padding": 2}, [v2.CenterCrop(s)])),
    "RandomResizedCrop": size().map(lambda s: ({"size": s}, [v2.Resize(s), v2.CenterCrop(s)])),
    "Grayscale": st.just(({"num_output_channels": 3}, [v2.Grayscale(3)])),
    "Pad": st.integers(0, 3).map(lambda p: ({"padding": p}, [v2.Pad(p)])),
    "Lambda": st.just(({"function": "half"}, [])),
}
for entry in TRANSFORMS:
    if entry.fact("random") and entry.name not in CATALOG:
        CATALOG[entry.name] = st.just(({}, []))


def test_every_transform_of_the_catalog_is_drawn() -> None:
    assert set(CATALOG) == {entry.name for entry in TRANSFORMS}


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[tuple[str, dict[str, Any]]], list[Any]]:
    """Transforms as an experiment has them, and as torchvision does; the last two make tensors of one range."""
    names = draw(st.lists(st.sampled_from(sorted(set(CATALOG) - {"ToTensor", "Normalize", "Lambda"})), max_size=4))
    parts = [(name, *draw(CATALOG[name])) for name in names]
    parts.append(("ToTensor", *draw(CATALOG["ToTensor"])))
    late = draw(
        st.lists(st.sampled_from(["Resize", "CenterCrop", "Grayscale", "Pad", "Lambda", "RandomErasing"]), max_size=2)
    )
    parts += [(name, *draw(CATALOG[name])) for name in late]
    if draw(st.booleans()):
        parts.append(
            (
                "Normalize",
                {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
                [v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])],
            )
        )
    parts += [("Resize", {"size": [HEIGHT, WIDTH]}, [v2.Resize([HEIGHT, WIDTH])])]
    theirs = [step for name, _, steps in parts for step in (steps if name != "Lambda" else [lambda x: x * 0.5])]
    return [(name, args) for name, args, _ in parts], theirs


def opened(path: Path) -> Any:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I;16":
        grey = torch.from_numpy(np.asarray(image).astype(np.float32)) / 65535
        return grey.expand(3, *grey.shape)
    return image.convert("RGB")


def evaluated(trained: Trained, place: Path, folder: Path) -> torch.Tensor:
    evaluate_model(trained, Data(name="ImageFolder", args={"path": str(folder)}), "all", "cpu")
    return torch.load(place / "logits.pt").softmax(1)


def predicted(trained: Trained, inputs: list[str], stdin: bytes = b"") -> torch.Tensor:
    found = predict_paths(trained, inputs, io.BytesIO(stdin), "cpu", top=2)
    return torch.tensor([[dict(p.top)[name] for name in trained.info.class_names] for p in found])


@given(pipelines())
@settings(max_examples=12, deadline=None)
def test_evaluation_prediction_and_torchvision_agree(
    trained: Trained, place: Path, pipeline: tuple[list[tuple[str, dict[str, Any]]], list[Any]]
) -> None:
    ours, theirs = pipeline
    chosen = []
    for name, args in ours:
        args = {"function": f"{place}/own.py:half"} if name == "Lambda" else args
        chosen.append(Transform.model_validate({"name": name, **args}))
    # The checkpoint as one that was trained with these.
    trained = dataclasses.replace(trained, transforms=tuple(chosen))
    files = sorted((place / "d").rglob("*.*"))
    apply = v2.Compose(theirs)
    with torch.no_grad():
        x = torch.stack([apply(opened(f)).as_subclass(torch.Tensor) for f in files])
        logits = trained.net(x)
        if trained.experiment.trainer.flip_test:
            logits = (logits + trained.net(x.flip(-1))) / 2
    expected = logits.softmax(1)
    by_evaluation, by_prediction = evaluated(trained, place, place / "d"), predicted(trained, [str(place / "d")])
    torch.testing.assert_close(by_evaluation, by_prediction, atol=1e-6, rtol=0)
    # Pixels of uint8 are rounded after each step, as torchvision's are.
    torch.testing.assert_close(by_evaluation, expected, atol=4e-3, rtol=0)


@pytest.mark.parametrize("own", ["half", "noise", "sized"])
def test_files_one_by_one_from_stdin_and_in_folders_of_other_sizes(
    trained: Trained, place: Path, tmp_path: Path, own: str
) -> None:
    chosen = (
        Transform(name="ToTensor"),
        Transform.model_validate({"name": f"{place}/own.py:{own}", "train_only": own == "noise"}),
        Transform.model_validate({"name": "Normalize", "mean": [0.5] * 3, "std": [0.2] * 3}),
    )
    trained = dataclasses.replace(trained, transforms=chosen)
    folder = tmp_path / "other"
    for number, (width, height) in enumerate([(WIDTH, HEIGHT), (30, 20), (5, 40), (WIDTH, HEIGHT)]):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    files = sorted(folder.rglob("*.png"))
    together = evaluated(trained, place, folder)
    torch.testing.assert_close(together, predicted(trained, [str(f) for f in files]), atol=1e-6, rtol=0)
    each = torch.cat([predicted(trained, ["-"], f.read_bytes()) for f in files])
    torch.testing.assert_close(together, each, atol=1e-6, rtol=0)
    if own == "sized":  # as in the training, it gets the images as they are
        with torch.no_grad():
            raw = [v2.functional.pil_to_tensor(Image.open(f)).float() / 255 for f in files]
            x = torch.cat([torch.nn.functional.interpolate(t[None], size=(9, 11), mode="nearest") for t in raw])
            logits = trained.net((x - 0.5) / 0.2)
            if trained.experiment.trainer.flip_test:
                logits = (logits + trained.net(((x - 0.5) / 0.2).flip(-1))) / 2
        torch.testing.assert_close(together, logits.softmax(1), atol=1e-5, rtol=0)


def test_a_damaged_image_is_named_by_evaluation_prediction_and_preview(
    trained: Trained, place: Path, tmp_path: Path
) -> None:
    for kind in ("cat", "dog"):
        for i in range(6):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "d" / kind / f"{i}.png")
    bad = tmp_path / "d" / "cat" / "0.png"
    bad.write_bytes(bad.read_bytes()[:45])
    sentence = f"'{bad}' can't be read as an image"
    with pytest.raises(UserError, match=sentence):
        evaluated(trained, place, tmp_path / "d")
    with pytest.raises(UserError, match=sentence):
        predicted(trained, [str(tmp_path / "d")])
    sent: list[dict[str, Any]] = []
    experiment = {"data": {"name": "ImageFolder", "args": {"path": str(tmp_path / "d")}}}
    Previewer(sent.append).answer(1, toml.dumps(toml.build(experiment)))
    assert any(sentence in str(message.get("error", "")) for message in sent)
