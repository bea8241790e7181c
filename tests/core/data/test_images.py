"""Image files: one decoder whose pixels are those of Pillow and numpy, and folders that hold more than images."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import Train
from torchdeck.core.data import images
from torchdeck.core.data.load import load_data
from torchdeck.core.data.transforms import as_tensor
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml

#: What EXIF's orientations mean, for a picture as rows and columns (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
FILES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "tiff": ["L", "RGB", "CMYK", "I;16"],
    "bmp": ["L", "RGB"],
    "webp": ["RGB", "RGBA"],
}


def picture(mode: str, height: int, width: int, seed: int) -> Image.Image:
    draw = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(draw.integers(0, 65536, (height, width), dtype=np.uint16))
    colours = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "P":
        colours = colours.quantize(8)
        colours.info["transparency"] = 3
        return colours
    if mode.endswith("A"):
        colours.putalpha(Image.fromarray(draw.integers(0, 256, (height, width), dtype=np.uint8)))
    return colours.convert(mode)


def stored(image: Image.Image, kind: str, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "webp" else {}
    image.save(buffer, kind, **({} if kind == "bmp" else {"exif": exif}), **options)
    return buffer.getvalue()


@given(
    st.sampled_from([(k, m) for k, modes in FILES.items() for m in modes]),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 8),
    st.integers(0, 999),
)
@settings(max_examples=120, deadline=None)
def test_pixels_are_those_of_the_file_upright(
    file: tuple[str, str], h: int, w: int, orientation: int, seed: int
) -> None:
    kind, mode = file
    image = picture(mode, h, w, seed)
    orientation = 1 if kind == "bmp" else orientation
    data = stored(image, kind, orientation)
    for channels, wanted in ((3, "RGB"), (4, "RGBA")):
        got = as_tensor(images.decode(io.BytesIO(data), "a file", wanted))
        if mode == "I;16":
            grey = np.asarray(image).astype(np.float32) / 65535
            expected = np.stack([grey, grey, grey, np.ones_like(grey)][:channels], -1)
        else:
            expected = np.asarray(image.convert(wanted))
        expected = UPRIGHT[orientation](expected).transpose(2, 0, 1).copy()
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_range_that_can_not_be_known_is_refused(dtype: Any) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 3), dtype)).save(buffer, "TIFF")
    with pytest.raises(UserError, match=r"a/b\.tif.*range"):
        images.decode(buffer, "a/b.tif")


@given(st.sampled_from(["png", "tiff", "bmp", "webp", "jpeg", "gif", "ppm"]), st.data())
@settings(max_examples=250, deadline=None)
def test_a_damaged_file_is_an_image_or_a_sentence_with_its_name(kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    picture("RGB", 9, 7, 0).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)):
        content[at] = value
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        assert as_tensor(images.decode(io.BytesIO(content), "some/where.img")).shape[0] == 3
    except UserError as error:
        assert "'some/where.img'" in str(error)
        assert "\n" not in str(error)


# --- folders ---------------------------------------------------------------------------------------------------------

PNG = stored(picture("RGB", 8, 8, 0), "png")
JUNK = [
    ".ipynb_checkpoints/0.png",
    "__MACOSX/cat/._0.png",
    "Thumbs.db",
    "cat/Thumbs.db",
    "cat/._000.png",
    ".DS_Store",
    "dog/.ipynb_checkpoints/a.png",
    "dog/.hidden/b.png",
    ".git/HEAD",
    "@eaDir/cat/0.png",
    "desktop.ini",
]
LEFT_OUT = {"dog/notes.txt": r"\.txt", "cat/labels.csv": r"\.csv", "stray.png": "1 image", "cat/sub/readme.md": r"\.md"}


def put(path: Path, content: bytes = PNG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@given(
    st.sets(st.sampled_from(JUNK)),
    st.sets(st.sampled_from(sorted(LEFT_OUT))),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sets(st.sampled_from(["val", "test"])),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_what_tools_leave_is_no_class_and_no_image(
    tmp_path_factory: pytest.TempPathFactory,
    junk: set[str],
    left: set[str],
    cats: int,
    dogs: int,
    others: set[str],
    below: bool,
) -> None:
    top = tmp_path_factory.mktemp("folder")
    names = {"val": ("val", "valid", "Validation"), "test": ("test", "Test")}
    roots = [top / "train", *(top / names[o][cats % len(names[o])] for o in sorted(others))] if below else [top]
    for root in roots:
        for kind, many in (("cat", cats), ("dog", dogs)):
            for i in range(many):
                put(root / kind / f"{i}.{'PNG' if i % 2 else 'png'}")
        for name in junk | left:
            put(root / name, PNG if name.endswith(".png") else b"a text")
    source = images.load_folder(str(top))
    assert source.class_names == ("cat", "dog")
    assert set(source.parts) == {"train", *(others if below else ())}
    for part in source.parts.values():
        assert part.targets is not None
        assert part.targets.tolist() == [0] * cats + [1] * dogs
    told = "\n".join(source.notes)
    for name, word in LEFT_OUT.items():
        assert (len([n for n in source.notes if re.search(word, n)]) > 0) == (name in left), (name, told)
    expected = sorted(
        r / k / f"{i}.{'PNG' if i % 2 else 'png'}"
        for r in roots
        for k, m in (("cat", cats), ("dog", dogs))
        for i in range(m)
    )
    stray = [root / "stray.png" for root in roots if "stray.png" in left]
    assert images.images_below(top) == sorted(expected + stray)
    shutil.rmtree(top)


def test_folders_that_are_no_part_or_empty_are_told(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        put(tmp_path / name / "cat" / "0.png")
    (tmp_path / "val" / "cat").mkdir(parents=True)
    notes = images.load_folder(str(tmp_path)).notes
    assert any("'extra'" in note and "left out" in note for note in notes)
    assert any("val" in note and "no image" in note for note in notes)
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "extra")
    with pytest.raises(UserError, match="no 'train'"):
        images.load_folder(str(tmp_path))


def test_images_behind_a_link_to_a_folder_are_found_by_training_and_prediction(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "0.png")
    put(tmp_path / "d" / "dog" / "0.png")
    (tmp_path / "d" / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(images.load_folder(str(tmp_path / "d")).train) == 2
    assert len(images.images_below(tmp_path / "d")) == 2


# --- a damaged image, wherever it is met
# -------------------------------------------------------------------------------

GIVEN = "data.transforms=[{name='ToTensor'},{name='Normalize',mean=[0.5,0.5,0.5],std=[0.2,0.2,0.2]}]"


@pytest.mark.parametrize(
    ("place", "options"), [(0, ()), (-1, ()), (0, (GIVEN,)), (7, (GIVEN,)), (7, (GIVEN, "data.workers=1"))]
)
def test_a_damaged_image_ends_a_training_with_its_name(
    tmp_path: Path, train: Train, place: int, options: tuple[str, ...]
) -> None:
    files = [tmp_path / "d" / kind / f"{i}.png" for kind in ("cat", "dog") for i in range(8)]
    for file in files:
        put(file)
    files[place].write_bytes(PNG[:-30])
    run = train(
        "data.name=ImageFolder",
        f"data.args.path={tmp_path}/d",
        "trainer.batch_size=4",
        "trainer.epochs=1",
        "data.workers=0",
        "model.name=mlp",
        "model.args.widths=[4]",
        *options,
        source=None,
    )
    assert run.failure
    assert f"'{files[place]}' can't be read" in run.failure.message
    assert "\n" not in run.failure.message


def test_16_bits_without_totensor_are_refused(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        for i in range(4):
            put(tmp_path / kind / f"{i}.png", stored(picture("I;16", 8, 8, i), "png"))
    tables = {"data": {"name": "ImageFolder", "args": {"path": str(tmp_path)}, "transforms": ["Normalize"]}}
    with pytest.raises(UserError, match="16 bits; add ToTensor"):
        load_data(toml.build(tables), torch.device("cpu"))


# --- random transforms of the user's
# -----------------------------------------------------------------------------------

OWN = {
    "torch": "def f(x):\n    import torch\n    return x if torch.rand(()) < 0.5 else x * 0\n",
    "numpy": "def f(x):\n    import numpy as np\n    return x if np.random.rand() < 0.5 else x * 0\n",
    "python": "def f(x):\n    import random\n    return x if random.random() < 0.5 else x * 0\n",
    "generator": "import numpy as np\nG = np.random.default_rng()\ndef f(x):\n    return x * float(G.random())\n",
    "class": "import torch\nclass f:\n    def __call__(self, x):\n        return x * torch.rand(())\n",
    "torchvision": "from torchvision.transforms import v2\nf = v2.RandomErasing(p=0.9)\n",
    "fixed": "def f(x):\n    return x * 0.5\n",
}


@pytest.mark.parametrize("how", OWN)
def test_own_random_transforms_run_on_training_samples_only(tmp_path: Path, how: str) -> None:
    (tmp_path / "own.py").write_text(OWN[how])
    reference = f"{tmp_path}/own.py:f"

    def loaded(own: dict[str, Any] | None) -> tuple[torch.Tensor, list[str]]:
        told: list[str] = []
        chosen = ["ToTensor", *([] if own is None else [own])]
        made = load_data(
            toml.build({"data": {"name": "digits", "transforms": chosen}}), torch.device("cpu"), told.append
        )
        assert made.val is not None
        return next(iter(made.val.epoch(0)))[0], told

    plain, _ = loaded(None)
    x, told = loaded({"name": reference})
    assert torch.equal(x, plain * 0.5 if how == "fixed" else plain)
    assert any("training samples only" in t for t in told) == (how != "fixed")
    x, told = loaded({"name": reference, "train_only": how == "fixed"})
    assert torch.equal(x, plain) == (how == "fixed")
    assert not any("training samples only" in t for t in told)


def test_a_random_transform_that_also_makes_tensors_can_not_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nimport numpy as np\n"
        "def f(x):\n    x = torch.tensor(np.array(x)).float() / 255\n    return x if torch.rand(()) < 0.5 else x * 0\n"
    )
    tables = {"data": {"name": "digits", "transforms": [f"{tmp_path}/own.py:f"]}}
    with pytest.raises(UserError, match=r"float32 .* uint8 .*train_only = false"):
        load_data(toml.build(tables), torch.device("cpu"))


@pytest.mark.parametrize(
    "entry", [{"name": "own.py:f", "train_only": "perhaps"}, {"name": "ToTensor", "train_only": True}]
)
def test_train_only_is_yes_or_no_and_for_own_transforms(entry: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="train_only") as told:
        toml.build({"data": {"transforms": [entry]}})
    assert "\n" not in str(told.value)
