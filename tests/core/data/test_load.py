"""Data as users have them: found, checked, split, measured; and every way in which they can be wrong."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Train
from PIL import Image
from torch.utils.data import DataLoader

from torchdeck.core.data import vision
from torchdeck.core.data.batches import ResidentFeed, batch_bounds, order
from torchdeck.core.data.load import load_data
from torchdeck.core.data.loader import LoaderFeed
from torchdeck.core.errors import TrainingError, UserError
from torchdeck.core.events import EpochEnded, LogLine
from torchdeck.core.experiment import toml

CPU = torch.device("cpu")


def loaded(*overrides: str, source: str | None = None, warn=lambda text: None):
    return load_data(toml.load(source, overrides), CPU, warn)


def idx(path: Path, array: np.ndarray, compress: bool = True) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if compress else data)


def fake_mnist(folder: Path, compress: bool = True, train: int = 60, test: int = 20, prefix: str = "") -> None:
    draw = np.random.default_rng(0)
    for which, count in (("train", train), ("t10k", test)):
        images = draw.integers(0, 256, (count, 28, 28))
        end = ".gz" if compress else ""
        idx(folder / f"{prefix}{which}-images-idx3-ubyte{end}", images, compress)
        idx(folder / f"{prefix}{which}-labels-idx1-ubyte{end}", np.arange(count) % 10, compress)


@pytest.fixture(autouse=True)
def _no_data_from_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vision, "DEBIAN_FASHION", tmp_path / "no-debian")
    monkeypatch.setenv("TORCHDECK_DATA", str(tmp_path / "asked"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("place", ["asked/MNIST/raw", "data/MNIST/raw", "cache/torchdeck/data/MNIST", "given"])
@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_found_where_they_may_be(tmp_path: Path, place: str, compress: bool) -> None:
    fake_mnist(tmp_path / place, compress)
    data = loaded("data.name=MNIST", *([f"data.root={tmp_path}/given"] if place == "given" else []))
    assert data.info.input_shape == (1, 28, 28)
    assert data.info.samples == {"train": 54, "val": 6, "test": 20}
    assert data.info.place.endswith(place)


def test_debians_folder_is_found(tmp_path: Path) -> None:
    fake_mnist(tmp_path / "no-debian")
    assert loaded("data.name=FashionMNIST").info.class_names[0] == "T-shirt/top"


def test_offline_the_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        loaded("data.name=KMNIST", "data.download=false")
    assert str(tmp_path / "asked" / "KMNIST" / "raw") in str(caught.value)
    assert "data.download is false" in str(caught.value)


def test_a_failed_download_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/mnist/"])  # nobody listens there
    with pytest.raises(UserError) as caught:
        loaded("data.name=MNIST")
    assert "could not be downloaded from http://127.0.0.1:9/mnist/" in str(caught.value)
    assert "data.root" in str(caught.value)
    assert not list((tmp_path / "cache" / "torchdeck" / "data").iterdir())


def test_a_download_arrives_whole_and_is_used_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real HTTP server on this machine stands in for the mirror."""
    import torchvision

    fake_mnist(tmp_path / "mirror")
    files = sorted((tmp_path / "mirror").iterdir())
    sums = [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in files]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
        data = loaded("data.name=MNIST")
        server.shutdown()
    assert data.info.samples["test"] == 20
    base = tmp_path / "cache" / "torchdeck" / "data"
    assert [p.name for p in base.iterdir()] == ["MNIST"]
    assert loaded("data.name=MNIST", "data.download=false").info.samples["test"] == 20


@pytest.mark.parametrize("harm", ["truncate", "zero", "empty", "shape"])
def test_damaged_idx_files_are_told(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "asked" / "MNIST" / "raw"
    fake_mnist(folder, compress=harm != "shape")
    file = folder / ("train-images-idx3-ubyte" + ("" if harm == "shape" else ".gz"))
    content = file.read_bytes()
    changed = {
        "truncate": content[: len(content) // 2],
        "zero": bytes(len(content)),
        "empty": b"",
        "shape": content[:-5],
    }
    file.write_bytes(changed[harm])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.* (is damaged|is not an IDX)"):
        loaded("data.name=MNIST")


def test_emnist_images_are_upright_and_letters_start_at_zero(tmp_path: Path) -> None:
    folder = tmp_path / "asked" / "EMNIST" / "raw"
    image = np.zeros((30, 28, 28), dtype=np.uint8)
    image[:, 3, 20] = 255
    for which in ("train", "test"):
        idx(folder / f"emnist-letters-{which}-images-idx3-ubyte.gz", image)
        idx(folder / f"emnist-letters-{which}-labels-idx1-ubyte.gz", np.arange(30) % 26 + 1)
    source = vision.load_idx("EMNIST", None, False, "letters")
    assert source.train.x[0, 0, 20, 3] == 255
    assert source.train.y.min() == 0
    assert len(source.class_names) == 26


def test_the_split_is_stratified_seeded_and_complete() -> None:
    data = loaded(source="digits")
    again = loaded(source="digits")
    other = loaded("trainer.seed=1", source="digits")
    assert data.info.samples == {"train": 1294, "val": 144, "test": 359}
    parts = [set(f.indices.tolist()) for f in (data.train, data.val, data.test)]
    assert set.union(*parts) == set(range(1797))
    assert sum(map(len, parts)) == 1797
    assert torch.equal(data.test.indices, again.test.indices)
    assert not torch.equal(data.test.indices, other.test.indices)
    counts = torch.bincount(torch.cat([y for _, y, *_ in data.test.epoch(0)]))
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_normalize_is_measured_on_the_training_set_only(tmp_path: Path) -> None:
    x = np.concatenate([np.full((80, 1, 4, 4), 100), np.full((20, 1, 4, 4), 250)]).astype(np.uint8)
    x[:40] = 50
    np.savez(tmp_path / "a.npz", x_train=x[:80], y_train=np.arange(80) % 2, x_test=x[80:], y_test=np.arange(20) % 2)
    data = loaded("data.name=npz", f"data.args.path={tmp_path}/a.npz", "trainer.validation_share=0")
    normalize = data.transforms[1].args()
    assert normalize["mean"] == pytest.approx([75 / 255])
    assert normalize["std"] == pytest.approx([25 / 255])
    batch, *_ = next(iter(data.train.epoch(0)))
    assert batch.unique().tolist() == pytest.approx([-1, 1], abs=1e-5)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert torch.equal(order(100, 3, 5), order(100, 3, 5))
    assert not torch.equal(order(100, 3, 5), order(100, 3, 6))
    assert not torch.equal(order(100, 3, 5), order(100, 4, 5))
    assert sorted(order(100, 3, 5).tolist()) == list(range(100))


def test_a_last_batch_of_one_is_left_out() -> None:
    assert batch_bounds(9, 4) == [(0, 4), (4, 8)]
    assert batch_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert batch_bounds(1, 4) == [(0, 1)]
    assert batch_bounds(3, 1) == [(0, 1), (1, 2), (2, 3)]
    assert batch_bounds(9, 4, training=False) == [(0, 4), (4, 8), (8, 9)]


def test_every_sample_is_evaluated() -> None:
    data = loaded("trainer.eval_batch_size=179", source="digits")  # 359 test samples: the last batch has but one
    assert sum(len(y) for _, y, *_ in data.test.epoch(0)) == 359


@pytest.mark.parametrize(
    "transforms", ["", "data.transforms=[{name='RandomRotation'},{name='ToTensor'},{name='Normalize'}]"]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_every_feed_can_start_anywhere(transforms: str, workers: int) -> None:
    options = [transforms, f"data.workers={workers}"] if transforms else []
    if workers and not transforms:
        pytest.skip("data that live in memory have no workers")
    data = loaded(*options, "trainer.batch_size=200", source="digits")
    assert isinstance(data.train, LoaderFeed if transforms else ResidentFeed)
    whole = list(data.train.epoch(4))
    rest = list(data.train.epoch(4, start=3))
    assert len(rest) == len(whole) - 3
    for (x, y, *_), (a, b, *_) in zip(whole[3:], rest, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)
    assert not torch.equal(next(iter(data.train.epoch(5)))[1], whole[0][1])
    data.close()


# --- tables ----------------------------------------------------------------------------------------------------------


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


GOOD = ("a,b,kind", *(f"{i},{i * i},{'xyz'[i % 3]}" for i in range(60)))


def test_csv_with_class_names(tmp_path: Path, train: Train) -> None:
    file = table(tmp_path / "t.csv", *GOOD)
    data = loaded("data.name=table", f"data.args.path={file}")
    assert data.info.task == "classification"
    assert data.info.class_names == ("x", "y", "z")
    assert data.info.input_shape == (2,)
    run = train(
        "data.name=table", f"data.args.path={file}", "data.args.features=['a']", "trainer.epochs=1", source=None
    )
    assert run.status == "done", run.failure


def test_numbers_are_classes_when_whole_and_few(tmp_path: Path) -> None:
    whole = table(tmp_path / "w.csv", "a,y", *(f"{i}.5,{i % 4}" for i in range(40)))
    assert loaded("data.name=table", f"data.args.path={whole}").info.class_names == ("0", "1", "2", "3")
    decimal = table(tmp_path / "d.csv", "a,y", *(f"{i},{i % 4}.5" for i in range(40)))
    info = loaded("data.name=table", f"data.args.path={decimal}").info
    assert info.task == "regression"
    assert info.outputs == 1
    forced = loaded("data.name=table", f"data.args.path={whole}", "data.args.task=regression")
    assert forced.info.task == "regression"
    assert forced.info.target_mean[0] == pytest.approx(1.5, abs=0.3)


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({"a": [0.5 * i for i in range(30)], "y": ["no", "yes"] * 15}), tmp_path / "t.parquet"
    )
    assert loaded("data.name=table", f"data.args.path={tmp_path}/t.parquet").info.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ((), (), "is empty"),
        (("a,b",), (), "is empty"),
        ((*GOOD, "7"), (), "row 62 has 1 fields where the header has 3"),
        ((*GOOD, "nan,4,x"), (), "column 'a' row 62: 'nan' is not a finite number"),
        ((*GOOD, "big,4,x"), (), "column 'a' row 62: 'big' is not a finite number"),
        ((*GOOD, "1,4,"), (), "column 'kind' row 62: the target is missing"),
        (GOOD, ("data.args.target=kin",), "did you mean 'kind'?"),
        (GOOD, ("data.args.features=['a','kind']",), "holds the target column"),
        (("a,a,y", "1,2,3"), (), "two columns named 'a'"),
        (("a,y", *(f"{i},same" for i in range(9))), (), "has 1 class; two or more are needed"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, rows: tuple[str, ...], options: tuple[str, ...], sentence: str) -> None:
    file = table(tmp_path / "t.csv", *rows)
    with pytest.raises(UserError) as caught:
        loaded("data.name=table", f"data.args.path={file}", *options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((10, 3)), "y": np.zeros(9, int)}, "both need one row per sample"),
        ({"x": np.full((10, 3), np.nan), "y": np.arange(10) % 2}, "sample 0 holds NaN"),
        ({"x": np.zeros((10, 3)), "y": np.zeros(10, int)}, "has 1 class"),
        ({"x": np.zeros((10, 3)), "y": np.ones(10, int)}, "has 1 class"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "both need one row per sample"),
        ({"z": np.zeros(3)}, "has no array"),
        ({"x": np.array(["a", "b"]), "y": np.arange(2)}, "x holds texts"),
        ({"x": np.array([{}, {}], dtype=object), "y": np.arange(2)}, "can't be read as .npz"),
        ({"x": np.zeros((10, 3)), "y": np.full(10, np.inf)}, "the target of sample 0 is not a finite number"),
    ],
)
def test_arrays_that_are_wrong(tmp_path: Path, arrays: dict, sentence: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as caught:
        loaded("data.name=npz", f"data.args.path={tmp_path}/a.npz")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_npz_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz"):
        loaded("data.name=npz", f"data.args.path={tmp_path}/a.npz")


# --- folders, made up, streamed --------------------------------------------------------------------------------------


def folder_of_images(root: Path, sizes: list[tuple[int, int]], each: int = 8) -> Path:
    draw = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (root / kind).mkdir(parents=True)
        for i in range(each):
            w, h = sizes[i % len(sizes)]
            Image.fromarray(draw.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(root / kind / f"{i}.png")
    return root


def test_image_folder(tmp_path: Path, train: Train) -> None:
    root = folder_of_images(tmp_path / "images", [(12, 10), (9, 14)])
    folder = (
        "data.name=ImageFolder",
        f"data.args.path={root}",
        "trainer.batch_size=4",
        "trainer.epochs=1",
        "model.name=cnn",
    )
    run = train(*folder, source=None)
    assert run.failure
    assert "inputs of several sizes" in run.failure.message
    assert "add a Resize to data.transforms" in run.failure.message
    for first in (
        "{name='Resize',size=[8,8]},{name='RandomHorizontalFlip'}",
        "{name='RandomResizedCrop',size=8}",
        "{name='Resize',size=10},{name='RandomCrop',size=8}",
    ):
        good = train(*folder, f"data.transforms=[{first},{{name='ToTensor'}},{{name='Normalize'}}]", source=None)
        assert good.status == "done", good.failure
        assert good.session.built.data.info.class_names == ("cat", "dog")
        assert good.session.built.data.info.input_shape == (3, 8, 8)
        measured = good.session.built.data.transforms[-1].args()
        assert measured["mean"] == pytest.approx([0.5, 0.5, 0.5], abs=0.1)
        assert good.session.built.data.sample.x.abs().max() < 10


def test_a_broken_image_is_told(tmp_path: Path, train: Train) -> None:
    root = folder_of_images(tmp_path / "images", [(8, 8)])
    (root / "cat" / "3.png").write_bytes(b"no image")
    run = train("data.name=ImageFolder", f"data.args.path={root}", "trainer.batch_size=4", source=None)
    assert run.failure
    assert "can't be read" in run.failure.message


def test_fake_data_trains(train: Train) -> None:
    run = train(
        "data.name=FakeData", "data.args.size=60", "data.args.image_size=[3,8,8]", "trainer.epochs=1", source=None
    )
    assert run.status == "done", run.failure


USER = """\
import time, os
import torch
from torch.utils.data import Dataset, IterableDataset

class Data(Dataset):
    def __init__(self, count=40, how="ok"):
        self.count, self.how = count, how
        self.classes = ["a", "b"]
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        x, y = torch.ones(3) * (i % 2), i % 2
        if self.how == "notanumber" and i == 7: x = x / 0 - x / 0
        if self.how == "label" and i == 7: y = 5
        if self.how == "sizes": x = torch.ones(2 + i % 2)
        if self.how == "triple": return x, y, y
        if self.how == "short" and i > 20: raise IndexError(i)
        if self.how == "hang" and i == 7: time.sleep(1000)
        if self.how == "die" and i == 7: os._exit(3)
        return {"image": x, "label": y} if self.how == "dict" else (x, y)

class Stream(IterableDataset):
    def __iter__(self):
        return iter([])
"""


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("notanumber", "Sample 7 of"),
        ("label", "has the label 5; with 2 classes it must be between 0 and 1"),
        ("sizes", "inputs of several sizes, such as [2] and [3]"),
        ("triple", "can't take a batch of the shape [[25, 3], [25]]"),
        ("short", "IndexError: "),
    ],
)
def test_user_data_that_are_wrong(tmp_path: Path, train: Train, how: str, sentence: str) -> None:
    (tmp_path / "d.py").write_text(USER)
    run = train(
        f"data.name={tmp_path}/d.py:Data",
        f"data.args.how={how}",
        "data.test_share=0",
        "trainer.validation_share=0",
        "trainer.epochs=1",
        source=None,
    )
    assert run.failure
    assert sentence in run.failure.message


def test_user_data_as_dicts_and_empty_and_a_stream(tmp_path: Path, train: Train) -> None:
    (tmp_path / "d.py").write_text(USER)
    assert (
        train(f"data.name={tmp_path}/d.py:Data", "data.args.how=dict", "trainer.epochs=1", source=None).status == "done"
    )
    empty = train(f"data.name={tmp_path}/d.py:Data", "data.args.count=0", source=None)
    assert empty.failure and "is empty: its length is 0" in empty.failure.message
    stream = train(f"data.name={tmp_path}/d.py:Stream", source=None)
    assert stream.failure and "the stream (train) is empty" in stream.failure.message


@pytest.mark.parametrize(("how", "sentence"), [("hang", "has not delivered for"), ("die", "A DataLoader worker died")])
def test_workers_that_hang_or_die_end_the_run_in_a_sentence(
    tmp_path: Path, train: Train, how: str, sentence: str
) -> None:
    (tmp_path / "d.py").write_text(USER)
    # The user's own loader in the main thread: from now on torch watches over workers there.
    assert next(iter(DataLoader([1.0], num_workers=1))) == 1
    run = train(
        f"data.name={tmp_path}/d.py:Data", f"data.args.how={how}", "data.workers=2", "data.timeout=12", source=None
    )
    assert run.status == "failed"
    assert run.failure and sentence in run.failure.message
    assert run.failure.user is False
    if how == "hang":
        assert any("has not delivered for" in e.message for e in run.of(LogLine))
        assert "(pid " in run.failure.message
    assert TrainingError.__name__ not in run.failure.message


def test_regression_metrics_are_in_the_targets_own_unit(train: Train) -> None:
    run = train("trainer.epochs=40", source="diabetes")
    assert run.status == "done", run.failure
    last = run.of(EpochEnded)[-1].val
    assert 30 < last["mae"] < 70  # the disease's progression runs from 25 to 346
    assert last["rmse"] > last["mae"]
    assert run.session.finished.test["r2"] > 0.3
