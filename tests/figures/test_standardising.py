"""Means and deviations in float64: large offsets lose nothing, in features and targets, wherever the data come from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, Train
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from torchdeck.core.data import transforms as T
from torchdeck.core.data.batches import resident_device
from torchdeck.core.data.items import to_device
from torchdeck.core.data.load import load_data
from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.data.statistics import Moments, measure, moments
from torchdeck.core.evaluation import trained as trained_models
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data, Transform

CPU = torch.device("cpu")


def scaled(values: np.ndarray) -> np.ndarray:
    """By scikit-learn, in float64, with the standard deviation of a sample."""
    n = len(values)
    return StandardScaler().fit_transform(values.astype(np.float64)) * np.sqrt((n - 1) / n)


def drawn(rng: np.random.Generator, count: int = 60) -> np.ndarray:
    """Columns with offsets of time stamps and identifiers, small and large spreads, one of them constant."""
    offsets = np.array([0, 1.7e9, 1e12, -3e6, 1e5, 123.25])
    spreads = np.array([1, 30, 1000, 1e-2, 1e-20, 0])
    return offsets + rng.normal(size=(count, 6)) * spreads


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.floats(-1e12, 1e12),
    st.floats(1e-3, 1e6),
    st.integers(0, 10**6),
)
def test_moments_added_up_in_parts_are_those_of_the_whole(
    sizes: list[int], offset: float, spread: float, seed: int
) -> None:
    parts = [offset + spread * np.random.default_rng(seed + i).normal(size=(2, n)) for i, n in enumerate(sizes)]
    whole = np.concatenate(parts, 1)
    # A spread that float64 itself can't tell beside the offset is taken for rounding.
    if whole.shape[1] < 2 or spread < 1e-12 * abs(offset):
        return
    found = Moments()
    for part in parts:
        found.add(torch.from_numpy(part))
    exact = whole.astype(np.longdouble)
    assert found.count == whole.shape[1]
    assert np.allclose(found.mean.numpy(), exact.mean(1).astype(float), rtol=1e-14, atol=1e-9 * spread)
    assert np.allclose(found.std().numpy(), exact.std(1, ddof=1).astype(float), rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e12 + 0.1, -1.7e9])
def test_what_never_changes_is_only_shifted(constant: float) -> None:
    found = moments(torch.full((1000, 1), constant, dtype=torch.float64), torch.arange(1000))
    assert found.std().tolist() == [1.0]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "whole npz", "float32 npz", "own"])
def test_features_and_targets_are_standardised_as_by_scikit_learn(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = drawn(rng), 1.7e9 + rng.normal(size=(60, 1))
        if kind == "whole npz":
            x, y = x.round().astype(np.int64), y
        if kind == "float32 npz":
            x = (1000 + rng.normal(size=(60, 2)) * 0.1).astype(np.float32)
        target = np.concatenate([y, 1e12 + 50 * rng.normal(size=(60, 1)), rng.normal(size=(60, 1))], 1)
        names = ["a", "b", "c", "d", "e", "f"]
        source = ["data.name=table", f"data.args.path=t.{kind}", "data.args.task=regression"]
        if kind == "csv":
            rows = [",".join([*names, "y"]), *(",".join(map(repr, r)) for r in np.concatenate([x, y], 1).tolist())]
            Path("t.csv").write_text("\n".join(rows))
        elif kind == "parquet":
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.table(dict(zip([*names, "y"], np.concatenate([x, y], 1).T, strict=True))), "t.parquet")
        elif kind.endswith("npz"):
            y = target
            np.savez("t.npz", x=x, y=y)
            source = ["data.name=npz", "data.args.path=t.npz"]
        else:
            np.savez("own.npz", x=x, y=y)
            Path(f"own{seed}.py").write_text(
                "import numpy as np, torch\nclass D(torch.utils.data.Dataset):\n"
                "    def __init__(self): f = np.load('own.npz'); self.x, self.targets = f['x'], f['y']\n"
                "    def __len__(self): return len(self.x)\n"
                "    def __getitem__(self, i): return self.x[i], self.targets[i]\n"
            )
            source = [
                f"data.name=own{seed}.py:D",
                "data.transforms=['Normalize']",
                "data.workers=0",
                "data.scale_target=true",
            ]
        data = load_data(
            toml.load(
                None,
                [
                    *source,
                    "trainer.validation_share=0",
                    "data.test_share=0",
                    "data.shuffle=false",
                    "loss.name=mse",
                    "trainer.batch_size=16",
                ],
            ),
            CPU,
        )
        batches = list(data.train.epoch(0))
        data.close()
        found_x, found_y = (torch.cat(part).double().numpy() for part in list(zip(*batches, strict=True))[:2])
        assert batches[0][0].dtype == batches[0][1].dtype == torch.float32
        # What float64 itself keeps of 1e12 is some 1e-4 of a spread of 1.
        assert np.allclose(found_x, scaled(x), atol=2e-4), (kind, np.abs(found_x - scaled(x)).max(0))
        assert np.allclose(found_y.reshape(60, -1), scaled(y), atol=2e-4)


def test_a_sample_is_standardised_like_a_batch() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(drawn(rng))
    fitted = measure(
        [Transform(name="Normalize")], Source(Arrays(x, x[:, 0]), None, "regression", False), torch.arange(60), 0
    )
    [batch] = [op(x, torch.Generator()) for op in T.batch_transform(fitted, CPU)]
    assert torch.equal(torch.stack([T.sample_transform(fitted)(one) for one in x]), batch)


def test_a_device_without_float64_gets_what_is_already_centred() -> None:
    mps, x = torch.device("mps"), torch.zeros(3, dtype=torch.float64)
    assert to_device(x, mps) is x
    assert resident_device([Arrays(x, x)], mps, 10**9) == CPU
    assert resident_device([Arrays(x.float(), x.float())], mps, 10**9) == mps


def test_what_is_lost_without_normalize_is_told(tmp_path: Path) -> None:
    rows = "\n".join(f"{i / 7},{1700000000 + i},{'uv'[i % 2]}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"a,stamp,y\n{rows}\n")
    for chosen, told in (("[]", True), ("['Normalize']", False)):
        notes: list[str] = []
        load_data(
            toml.load(None, ["data.name=table", f"data.args.path={tmp_path}/t.csv", f"data.transforms={chosen}"]),
            CPU,
            notes.append,
        )
        assert any("'stamp' as float32" in note for note in notes) is told


def test_statistics_of_a_part_of_the_samples_are_told(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(
        "import torch\nclass D(torch.utils.data.Dataset):\n    classes = ['u', 'v']\n    targets = "
        "torch.arange(1300) % 2\n"
        "    def __len__(self): return 1300\n    def __getitem__(self, i): return torch.tensor([i + 0.5]), i % 2\n"
    )
    notes: list[str] = []
    load_data(
        toml.load(
            None,
            [
                f"data.name={tmp_path}/many.py:D",
                "data.transforms=['Normalize']",
                "data.workers=0",
                "trainer.validation_share=0",
                "data.test_share=0",
            ],
        ),
        CPU,
        notes.append,
    )
    assert any("measured on 1,000 of 1,300 training samples" in note for note in notes)


def test_evaluation_and_prediction_of_time_stamps_are_those_of_the_network_by_hand(
    train: Train, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    x = 1.7e9 + rng.normal(size=(80, 2)).round(4)
    kinds = ["late" if a > b else "early" for a, b in x]

    def written(name: str, order: list[int], label: bool = True, delimiter: str = ",") -> str:
        header = [["t", "u"][i] for i in order] + ["kind"] * label
        rows = [[repr(float(r[i])) for i in order] + [k] * label for r, k in zip(x, kinds, strict=True)]
        (tmp_path / name).write_text("\n".join(delimiter.join(r) for r in [header, *rows]))
        return str(tmp_path / name)

    path = written("t.csv", [0, 1])
    run = train(
        *QUICK,
        "data.name=table",
        f"data.args.path={path}",
        "model.name=mlp",
        "trainer.epochs=30",
        "tracking.tensorboard=false",
        source=None,
    )
    assert run.status == "done", run.failure
    model = trained_models.load_trained(run.path / "checkpoints" / "last.pt", False)
    mean, std = (np.array(model.transforms[-1].args()[k]) for k in ("mean", "std"))
    with torch.no_grad():
        by_hand = model.net(torch.from_numpy(((x - mean) / std).astype(np.float32))).softmax(1)
    late = model.info.class_names.index("late")
    for other in (path, written("r.TSV", [1, 0], False, "\t"), written("s.csv", [1, 0], True, ";")):
        found = list(predict_paths(model, [other], io.BytesIO(), top=2))
        assert [p.input for p in found] == [f"{other} row {i + 2}" for i in range(80)]
        assert [dict(p.top)["late"] for p in found] == pytest.approx(by_hand[:, late].tolist(), abs=1e-5)
    done = evaluate_model(model, Data(name="table", args={"path": str(tmp_path / "s.csv")}), "all")
    right = np.array([model.info.class_names[i] for i in by_hand.argmax(1)]) == np.array(kinds)
    assert done.report.metrics["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert right.mean() > 0.8
