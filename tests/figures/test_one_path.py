"""One path from a file to a batch: evaluation and prediction say the same of the same files, whatever these are."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, Train
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from torchdeck.core import catalog
from torchdeck.core.data import transforms as T
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.images import decode, load_folder
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation import trained as trained_models
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.evaluation.trained import Trained
from torchdeck.core.experiment.data_schema import Data, Transform

MODES = ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "PA"]


def picture(mode: str, seed: int, size: tuple[int, int] = (9, 7)) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)).convert(mode)


def suffix(mode: str) -> str:
    return {"CMYK": "jpg", "PA": "tif"}.get(mode, "png")


def folder(root: Path, seed: int = 0) -> Path:
    """Two classes of pictures of every mode, size and orientation."""
    for number, name in enumerate(["left", "right"]):
        (root / name).mkdir(parents=True)
        for i, mode in enumerate(MODES):
            try:
                made = picture(mode, seed + 100 * number + i, (8 + i % 3, 8 + i % 2))
                exif = Image.Exif()
                exif[0x0112] = 1 + (i + number) % 8
                made.save(root / name / f"{i}.{suffix(mode)}", exif=exif)
            except (OSError, ValueError):
                continue  # a mode that this format can't hold
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture
def model(train: Train, tmp_path: Path) -> Trained:
    """A model of RGB pictures of 8x8 that has trained for a step."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "plain" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(
                tmp_path / "plain" / name / f"{i}.png"
            )
    run = train(
        *QUICK,
        "data.name=ImageFolder",
        f"data.args.path={tmp_path}/plain",
        "data.workers=0",
        "model.name=cnn",
        "trainer.steps=1",
        "trainer.batch_size=8",
        "tracking.tensorboard=false",
        source=None,
    )
    assert run.status == "done", run.failure
    return trained_models.load_trained(run.path / "checkpoints" / "last.pt", False)


def evaluated(model: Trained, path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The logits that evaluation sees, in the order of the files."""
    seen: list[torch.Tensor] = []
    from torchdeck.core.tasks.base import Step
    from torchdeck.core.training.evaluation import Evaluator

    original = Evaluator.step

    def watched(self: Evaluator, net: torch.nn.Module, batch: Batch) -> Step:
        step = original(self, net, batch)
        seen.append(step.outputs)
        return step

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "step", watched)
        done = evaluate_model(model, Data(name="ImageFolder", args={"path": str(path)}, workers=0), "all")
    assert done.samples == done.total == len(torch.cat(seen))
    return torch.cat(seen).float()


def predicted(model: Trained, path: Path) -> list[float]:
    found = list(predict_paths(model, [str(path)], io.BytesIO(), top=2))
    return [dict(one.top)["left"] for one in found]


CATALOG = {
    "Normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
    "Resize": {"size": 8},
    "CenterCrop": {"size": 7},
    "RandomCrop": {"size": 5, "padding": 1},
    "RandomResizedCrop": {"size": 6},
    "Pad": {"padding": 3},
    "Grayscale": {"num_output_channels": 3},
    "Lambda": None,
}


@pytest.mark.parametrize("flip", [False, True])
def test_evaluation_and_prediction_give_the_same_for_every_transform_of_the_catalog(
    model: Trained, pictures: Path, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    for entry in catalog.entries("transform"):
        args = CATALOG.get(entry.name, {})
        if args is None:
            continue
        for order in (0, 1):
            chosen = [Transform(name="ToTensor")]
            chosen.insert(order, Transform.model_validate({"name": entry.name, **args}))
            if entry.name == "Normalize":
                chosen = [Transform(name="ToTensor"), chosen[order]]
            side = {"CenterCrop": 7, "RandomCrop": 5, "RandomResizedCrop": 6, "Pad": 14}.get(entry.name, 8)
            trainer = model.experiment.trainer.model_copy(update={"flip_test": flip})
            changed = dataclasses.replace(
                model,
                transforms=tuple(chosen),
                info=dataclasses.replace(model.info, input_shape=(3, side, side)),
                experiment=model.experiment.model_copy(update={"trainer": trainer}),
            )
            if entry.name not in ("Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop"):
                assert predicted(changed, pictures)  # pictures of other sizes are made to fit
            elif entry.name == "Resize":
                chosen[order] = Transform.model_validate({"name": "Resize", "size": [8, 8]})
                changed = dataclasses.replace(changed, transforms=tuple(chosen))
            logits = evaluated(changed, pictures, monkeypatch)
            assert predicted(changed, pictures) == pytest.approx(logits.softmax(1)[:, 0].tolist(), abs=1e-6), entry.name


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MODES[:-1]),
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_picture_is_what_pillow_makes_of_it_upright_and_in_its_range(
    mode: str, seed: int, orientation: int, size: tuple[int, int]
) -> None:
    made, file = picture(mode, seed, size), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        made.save(file, "JPEG" if mode == "CMYK" else "PNG", exif=exif)
    except (OSError, ValueError):
        return
    stored = Image.open(io.BytesIO(file.getvalue()))
    turned = np.asarray(stored) if mode == "I;16" else np.asarray(stored.convert("RGB"))
    # What each orientation means (EXIF 2.32, tag 274), by NumPy alone.
    turned = {
        1: turned,
        2: turned[:, ::-1],
        3: turned[::-1, ::-1],
        4: turned[::-1],
        5: turned.swapaxes(0, 1),
        6: np.rot90(turned, -1),
        7: turned[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(turned),
    }[orientation]
    found = T.to_unit(T.as_tensor(decode(io.BytesIO(file.getvalue()), "x")))
    expected = turned / 65535 if mode == "I;16" else turned.transpose(2, 0, 1) / 255
    assert np.allclose(found.numpy(), np.broadcast_to(expected, found.shape), atol=1e-6)


def test_what_can_not_be_known_of_a_picture_is_told(tmp_path: Path) -> None:
    for name, array in (("f.tif", np.ones((3, 3), np.float32)), ("i.tif", np.full((3, 3), 70000, np.int32))):
        Image.fromarray(array).save(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}' has 32 bits a pixel, whose range of values is not known"):
            decode(tmp_path / name, str(tmp_path / name))


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 13), st.integers(4, 13), st.integers(1, 13), st.integers(1, 13), st.integers(0, 10**6))
def test_crops_and_sizes_are_torchvisions(h: int, w: int, to_h: int, to_w: int, seed: int) -> None:
    x = torch.randint(0, 256, (2, 3, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(T.center_crop(x, [to_h, to_w]), F.center_crop(x, [to_h, to_w]))
    for size in (to_h, [to_h, to_w]):
        found = T.resize(x, size)
        expected = F.resize(x.float(), size if isinstance(size, list) else [size], antialias=True)
        assert found.shape == expected.shape
        assert (found.int() - expected.int()).abs().max() <= 1


def test_batches_and_samples_are_transformed_alike() -> None:
    x = torch.randint(0, 256, (4, 3, 9, 11), dtype=torch.uint8)
    generator = torch.Generator()
    for names in (
        ["ToTensor", "Normalize"],
        ["CenterCrop", "ToTensor"],
        ["Resize", "ToTensor", "Normalize"],
        ["Normalize"],
    ):
        chosen = [Transform.model_validate({"name": n, **(CATALOG.get(n) or {})}) for n in names]
        batch: Any = x if names[0] != "Normalize" else x.float()
        for op in T.batch_transform(chosen, torch.device("cpu")):
            batch = op(batch, generator)
        single = T.sample_transform(chosen)
        alone = torch.stack([single(one if names[0] != "Normalize" else one.float()) for one in x])
        torch.testing.assert_close(batch.float(), alone.float(), atol=1 / 255 / 0.2 + 1e-3, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_hidden_files_and_what_tools_leave_are_never_classes_nor_images(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("images")
    junk = [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN", "__pycache__"]
    strays = ["Thumbs.db", ".DS_Store", "._000.png", "notes.txt", "desktop.ini"]
    for name in ("cat", "dog"):
        (root / name).mkdir()
        picture("RGB", 0).save(root / name / "a.png")
    for name in data.draw(st.lists(st.sampled_from(junk), unique=True)):
        place = root / data.draw(st.sampled_from([".", "cat"])) / name
        place.mkdir()
        if data.draw(st.booleans()):
            picture("RGB", 1).save(place / "b.png")
    for name in data.draw(st.lists(st.sampled_from(strays), unique=True)):
        (root / data.draw(st.sampled_from([".", "dog"])) / name).write_bytes(b"no image")
    found = load_folder(str(root))
    assert found.class_names == ("cat", "dog")
    assert len(found.train) == 2


def test_the_parts_of_a_folder_are_used_as_they_are(tmp_path: Path) -> None:
    for part, counts in (("train", (4, 3)), ("valid", (2, 0)), ("test", (0, 5))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            for i in range(count):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                picture("RGB", i).save(tmp_path / part / name / f"{i}.png")
    found = load_folder(str(tmp_path))
    assert {name: len(part) for name, part in found.parts.items()} == {"train": 7, "val": 2, "test": 5}
    assert found.test is not None and found.test.targets is not None
    assert found.test.targets.tolist() == [1] * 5  # a folder that lacks a class is fine, the other keeps its number
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(UserError, match="class folder 'cow', which the training set lacks"):
        load_folder(str(tmp_path))


def test_a_damaged_picture_is_named_wherever_it_is_met(train: Train, tmp_path: Path) -> None:
    for number in (0, 11):  # met by the first look, and in mid-epoch
        root = tmp_path / f"images{number}"
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True)
            for i in range(12):
                picture("RGB", i, (40, 40)).save(root / name / f"{i:02}.jpg")
        wrong = root / "cat" / f"{number:02}.jpg"
        wrong.write_bytes(wrong.read_bytes()[:500])
        for more in ((), ('data.transforms=[{name="ToTensor"}]',)):
            run = train(
                *QUICK,
                "data.name=ImageFolder",
                f"data.args.path={root}",
                "data.workers=0",
                "model.name=mlp",
                "trainer.batch_size=4",
                "tracking.tensorboard=false",
                *more,
                source=None,
            )
            assert run.failure is not None and run.failure.user
            assert str(wrong) in run.failure.message and "\n" not in run.failure.message


def test_own_transforms_that_draw_random_numbers_are_for_training_only(train: Train, tmp_path: Path) -> None:
    (tmp_path / "aug.py").write_text(
        "import torch, random\nimport numpy as np\n"
        "def heavy(x):\n    return x if torch.rand(()) < 0.1 else torch.zeros_like(x)\n"
        "def py(x):\n    return x * random.random()\n"
        "class Np:\n    def __init__(self): self.rng = np.random.default_rng(0)\n"
        "    def __call__(self, x): return x * float(self.rng.random())\n"
        "def plain(x):\n    return x * 2\n"
    )
    for name, told in (("heavy", True), ("py", True), ("Np", True), ("plain", False)):
        run = train(*QUICK, f'data.transforms=["ToTensor", "{tmp_path}/aug.py:{name}"]', "tracking.tensorboard=false")
        assert run.status == "done", run.failure
        assert (
            any(name in getattr(e, "message", "") and "training samples only" in e.message for e in run.events) is told
        )
        data = run.session.built.data
        assert [t.train_only for t in data.transforms] == [None, True if told else None]
        batches: list[Batch] = [next(iter(data.val.epoch(0))) for _ in range(2)]
        assert torch.equal(batches[0][0], batches[1][0])
        assert float(batches[0][0].max()) == (1.0 if told else 2.0)
