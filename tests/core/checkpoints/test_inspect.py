"""Files of weights looked into: what torch would load, without torch, without loading, without running anything."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from torchdeck.core.checkpoints import load
from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.compare import diff_weights, match
from torchdeck.core.checkpoints.find import caches, find_checkpoints
from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.checkpoints.save import save_weights
from torchdeck.core.checkpoints.stored import Stored
from torchdeck.core.checkpoints.tensors import tensor_figures
from torchdeck.core.errors import UserError
from torchdeck.core.runs.prune import carry_out, plan

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        inspect_file(path)
    text = str(error.value)
    assert "\n" not in text
    assert repr(str(path)) in text
    return text


def same(stored: Stored, state: dict[str, torch.Tensor]) -> None:
    found = load.tensors(stored.weights())
    assert list(found) and set(found) == set(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(
            found[name].view(torch.uint8) if tensor.ndim else found[name],
            tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor,
        )


# --- the same tensors as torch's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_every_dtype_shape_and_stride(tmp_path: Path, legacy: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for dtype in DTYPES:
        base = torch.randn(6, 10, generator=generator).mul(20)
        state[str(dtype).removeprefix("torch.")] = (base.abs() if dtype in (torch.uint8, torch.uint16) else base).to(
            dtype
        )
    base = torch.arange(120.0)
    state |= {
        "view": base[10:34].reshape(4, 6),
        "transposed": base[:24].reshape(4, 6).t(),
        "every second": base[::2],
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "expanded": torch.ones(1, 5).expand(3, 5),
    }
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    stored = inspect_file(path)
    assert stored.safe
    assert stored.format == ("torch legacy" if legacy else "torch zip")
    same(stored, state)


def test_safetensors_and_npz(tmp_path: Path) -> None:
    state = {str(d).removeprefix("torch."): torch.ones(3, 2).to(d) for d in DTYPES if d != torch.complex64}
    save_file(state, tmp_path / "w.safetensors", {"format": "pt", "note": "\x1b[2J"})
    stored = inspect_file(tmp_path / "w.safetensors")
    same(stored, state)
    assert dict(stored.contents)["note"] == "\N{REPLACEMENT CHARACTER}[2J"
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, dtype=np.int16)}
    np.savez(tmp_path / "w.npz", **arrays)
    same(inspect_file(tmp_path / "w.npz"), {n: torch.from_numpy(a) for n, a in arrays.items()})
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    assert [t.shape for t in inspect_file(tmp_path / "packed.npz").tensors] == [(2, 3), (3,)]
    np.save(tmp_path / "w.npy", arrays["a"])
    assert tensor_figures(inspect_file(tmp_path / "w.npy").tensors[0]).maximum == 5.0


def test_a_whole_pickled_model_is_read_and_not_opened(tmp_path: Path) -> None:
    model = net()
    torch.save(model, tmp_path / "model.pt")
    stored = inspect_file(tmp_path / "model.pt")
    assert "whole model torch.nn.modules.container.Sequential" in stored.format
    assert any(call.startswith("torch.nn.modules.conv.Conv2d") for call in stored.calls)
    assert stored.dangerous == ()
    same(stored, dict(model.state_dict()))


def test_a_checkpoint_of_ours(train: Train) -> None:
    run = train("trainer.epochs=1", "trainer.ema=0.5").path
    path = run / "checkpoints" / "last.pt"
    stored = inspect_file(path)
    state = torch.load(path, weights_only=True)
    assert stored.safe
    assert "checkpoint of torchdeck" in stored.format
    assert dict(stored.contents)["epoch"] == "1"
    assert 'name = "digits"' in stored.experiment
    same(stored, state["ema"]["model"])  # the averaged weights are those that are used
    assert {t.name for t in stored.tensors if t.name.startswith("optimizer")}


def test_what_weights_only_refuses_can_be_used(tmp_path: Path) -> None:
    """As Lightning's checkpoints: hyperparameters of classes that nobody has here."""

    class Config(dict):
        pass

    Config.__module__, Config.__qualname__ = "some_package.config", "Config"
    import sys
    import types

    module = types.ModuleType("some_package.config")
    module.Config = Config  # type: ignore[attr-defined]
    sys.modules.update({"some_package": types.ModuleType("some_package"), "some_package.config": module})
    try:
        state = {f"model.{k}": v for k, v in net().state_dict().items()}
        torch.save(
            {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.5", "hyper_parameters": Config(lr=1)},
            tmp_path / "x.ckpt",
        )
    finally:
        del sys.modules["some_package"], sys.modules["some_package.config"]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.ckpt", weights_only=True)
    stored = inspect_file(tmp_path / "x.ckpt")
    assert "Lightning 2.5" in stored.format
    assert stored.calls[0].startswith("some_package.config.Config")
    assert set(load.weights(tmp_path / "x.ckpt", "here")) == set(state)


def test_wrappers_prefixes_are_taken_off(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{k}": v for k, v in net().state_dict().items()}
    torch.save({"model": state, "epoch": 1}, tmp_path / "x.pt")
    same(inspect_file(tmp_path / "x.pt"), dict(net().state_dict()))


def test_sharded_weights(tmp_path: Path) -> None:
    state = dict(net().state_dict())
    halves = list(state.items())
    save_file(dict(halves[:4]), tmp_path / "a.safetensors")
    save_file(dict(halves[4:]), tmp_path / "b.safetensors")
    index = {"weight_map": {n: "a.safetensors" if i < 4 else "b.safetensors" for i, n in enumerate(state)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    same(inspect_file(tmp_path / "model.safetensors.index.json"), state)
    index["weight_map"]["0.bias"] = "../../etc/passwd"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "other folders" in refused(tmp_path / "model.safetensors.index.json")


def test_tied_and_endless_structures(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    loop: dict[str, Any] = {"w": tensor, "again": tensor}
    loop["self"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    assert next(t.name for t in inspect_file(tmp_path / "loop.pt").tensors) == "w"


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
            | st.tuples(inner, inner)
        ),
    ),
    st.integers(0, 5),
)
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    from torchdeck.core.checkpoints.pickles import read_pickle

    found = read_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert found.calls == () or protocol < 3  # protocol 2 makes bytes by a call
    if protocol >= 3:
        assert found.value == value


# --- figures ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=50),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_figures_are_numpys(tmp_path_factory: pytest.TempPathFactory, values: list[float], dtype: torch.dtype) -> None:
    path = tmp_path_factory.mktemp("w") / "w.pt"
    tensor = torch.tensor(values).to(dtype)
    torch.save({"w": tensor}, path)
    found = tensor_figures(inspect_file(path).tensors[0])
    real = tensor.double().numpy()
    finite = real[np.isfinite(real)]
    assert found.nans == np.isnan(real).sum()
    assert found.infinities == np.isinf(real).sum()
    assert found.count == len(values)
    if len(finite):
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())
        assert found.mean == pytest.approx(finite.mean(), rel=1e-6, abs=1e-6 * float(np.abs(finite).max()) + 1e-30)
        assert found.std == pytest.approx(finite.std(), rel=1e-5, abs=1e-6 * float(np.abs(finite).max()) + 1e-30)
        assert found.zeros == (finite == 0).sum()
        assert sum(found.histogram) == len(finite)
    else:
        assert math.isnan(found.mean)


# --- diff, match, average, prune, find -------------------------------------------------------------------------------


def test_a_diff_tells_missing_added_reshaped_and_how_much_changed(tmp_path: Path) -> None:
    a = {
        "same": torch.ones(4),
        "moved": torch.full((4,), 2.0),
        "gone": torch.ones(1),
        "shape": torch.ones(2, 3),
        "nan": torch.tensor([math.nan]),
    }
    b = {
        "same": torch.ones(4),
        "moved": torch.full((4,), 3.0),
        "new": torch.ones(1),
        "shape": torch.ones(3, 2),
        "nan": torch.tensor([math.nan]),
    }
    torch.save(a, tmp_path / "a.pt")
    save_file(b, tmp_path / "b.safetensors")
    found = {
        c.name: c
        for c in diff_weights(
            inspect_file(tmp_path / "a.pt").weights(), inspect_file(tmp_path / "b.safetensors").weights()
        )
    }
    assert {n: c.kind for n, c in found.items()} == {
        "same": "same",
        "moved": "changed",
        "gone": "missing",
        "shape": "reshaped",
        "new": "added",
        "nan": "same",
    }
    assert found["moved"].change == pytest.approx(0.5)


#: Numbers among which some are equal, as what a training that diverged leaves.
odd_numbers = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, math.inf, -math.inf]), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(odd_numbers, odd_numbers, st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64]))
def test_nan_equals_nan_and_what_is_equal_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, before: list[float], after: list[float], dtype: torch.dtype
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    n = min(len(before), len(after))
    a, b = torch.tensor(before[:n]).to(dtype), torch.tensor(after[:n]).to(dtype)
    for name, tensor in (("a", a), ("b", b)):
        torch.save({"w": tensor}, folder / f"{name}.pt")
    files = [inspect_file(folder / f"{name}.pt").weights() for name in ("a", "a", "b")]
    assert diff_weights(files[0], files[1])[0].kind == "same"
    (change,) = diff_weights(files[0], files[2])
    assert change.kind == ("same" if torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) else "changed")
    finite = torch.isfinite(a) & torch.isfinite(b)
    if bool((finite | (a == b) | (a.isnan() & b.isnan())).all()) and bool(torch.isfinite(a).any()):
        norm = a[torch.isfinite(a)].to(torch.complex128).abs().norm()
        expected = (b - a)[finite].to(torch.complex128).abs().norm() / norm
        assert change.change == pytest.approx(float(expected), nan_ok=True) or norm == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64])
def test_a_difference_that_float64_can_not_hold_is_one(tmp_path: Path, dtype: torch.dtype) -> None:
    large = 2**60 if dtype == torch.int64 else 200
    for name, value in (("a", large), ("b", large + 1)):
        torch.save({"w": torch.tensor([value]).to(dtype)}, tmp_path / f"{name}.pt")
    first, second = (inspect_file(tmp_path / f"{name}.pt").weights() for name in ("a", "b"))
    assert [c.kind for c in diff_weights(first, second)] == ["changed"]


def test_sparse_and_nested_tensors_and_views_of_another_sign_are_shown(tmp_path: Path) -> None:
    eye = torch.eye(4)
    state = {
        "coo": (eye.to_sparse(), (4, 4), "float32 sparse_coo"),
        "csr": (eye.to_sparse_csr(), (4, 4), "float32 sparse_csr"),
        "csc": (eye.to_sparse_csc(), (4, 4), "float32 sparse_csc"),
        "bsr": (eye.to_sparse_bsr((2, 2)), (4, 4), "float32 sparse_bsr"),
        "parameter": (nn.Parameter(eye.double().to_sparse()), (4, 4), "float64 sparse_coo"),
        "nested": (torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]), (9,), "float32 nested"),
        "jagged": (
            torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged),
            (3, 3),
            "float32 nested",
        ),
        "conj": (torch.ones(2, dtype=torch.complex64).conj(), (2,), "complex64 conjugate view"),
        "neg": (torch.ones(2, dtype=torch.complex64).conj().imag, (2,), "float32 negative view"),
        "plain": (torch.ones(2), (2,), "float32"),
    }
    for name, (tensor, shape, dtype) in state.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"first": torch.zeros(1), name: tensor}, path)
        shown = {t.name: t for t in inspect_file(path).tensors}
        assert (shown[name].shape, shown[name].dtype) == (shape, dtype)
        if name == "plain":
            assert tensor_figures(shown[name]).mean == 1
            continue
        with pytest.raises(UserError, match=dtype):  # never a wrong number
            tensor_figures(shown[name])
        with pytest.raises(UserError, match=f"The tensor '{name}' is {dtype}, which can't be loaded"):
            load.weights(path, "model.weights")


def test_damaged_is_said_of_what_is_damaged_alone(train: Train, tmp_path: Path) -> None:
    import warnings

    checkpoint = train("trainer.epochs=1").path / "checkpoints" / "last.pt"
    made = net()
    save_weights(made.state_dict(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(made.eval(), torch.zeros(1, 3, 3, 3)), tmp_path / "script.pt")
        torch.save(made.state_dict(), tmp_path / "plain.pt")
        torch.save(made.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.npz", "script.pt", "plain.pt", "old.pt"):
        with warnings.catch_warnings(), pytest.raises(UserError) as error:
            warnings.simplefilter("error")
            load_checkpoint(tmp_path / name, "the checkpoint")
        assert "is damaged" not in str(error.value)
        assert "torchdeck checkpoint" in str(error.value)
    data = checkpoint.read_bytes()
    for cut in (data[: len(data) // 2], data[:-10], b"PK\x03\x04" + bytes(100)):
        (tmp_path / "cut.pt").write_bytes(cut)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(tmp_path / "cut.pt", "the checkpoint")


def test_matches_find_prefixes_heads_and_what_does_not_fit() -> None:
    own = {n: tuple(t.shape) for n, t in net().state_dict().items()}
    assert match(own, own).fits
    lightning = match(own, {f"model.{n}": s for n, s in own.items()} | {"criterion.weight": (4,)})
    assert lightning.removed == "model."
    assert len(lightning.of("loads")) == len(own)
    assert [m.stored for m in lightning.of("unused")] == ["criterion.weight"]
    inner = match({f"backbone.{n}": s for n, s in own.items()}, own)
    assert inner.added == "backbone."
    assert inner.fits
    other_head = match(own, own | {"3.weight": (100, 8), "3.bias": (100,)})
    assert other_head.fits
    assert len(other_head.of("head")) == 2
    wrong = match(own, own | {"0.weight": (8, 1, 3, 3)})
    assert not wrong.fits
    assert "1 of another shape" in wrong.sentence()
    assert not match(own, {"x": (1,)}).fits


def test_an_average_is_the_mean(tmp_path: Path) -> None:
    states = [{"w": torch.full((3,), float(v), dtype=torch.bfloat16), "n": torch.tensor(v)} for v in (1, 2, 6)]
    paths = []
    for number, state in enumerate(states):
        paths.append(tmp_path / f"{number}.pt")
        torch.save(state, paths[-1])
    mean = load.average_weights(paths)
    assert mean["w"].tolist() == [3.0] * 3
    assert mean["w"].dtype == torch.bfloat16
    assert int(mean["n"]) == 6
    torch.save({"w": torch.ones(4), "n": torch.tensor(1)}, paths[0])
    with pytest.raises(UserError, match="differ in 'w'"):
        load.average_weights(paths)


def test_pruning_keeps_best_and_newest_and_tells_before(train: Train) -> None:
    run = train("trainer.epochs=6", "trainer.keep=10", "trainer.checkpoint_steps=5").path
    folder = run / "checkpoints"
    before = {p.name for p in folder.iterdir()}
    planned = plan(run, keep_best=1)
    assert {p.name for p in folder.iterdir()} == before  # nothing was done yet
    assert planned.deleted
    sizes = sum(p.stat().st_size for p in planned.deleted)
    assert planned.freed == sizes
    assert carry_out([planned]) == sizes
    left = {p.name for p in folder.iterdir()}
    assert {"best.pt", "last.pt"} <= left
    assert torch.load(folder / "best.pt", weights_only=True)["torchdeck"] == 1
    assert before - left == {p.name for p in planned.deleted}
    assert plan(run, keep_best=1).deleted == ()


def test_files_are_found_once_with_all_their_names(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("trainer.epochs=2").path
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save({"w": torch.ones(1)}, hub / "resnet.pth")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_checkpoints([run], [tmp_path, *caches()])
    ours = [f for f in found if f.run == run]
    assert {name for f in ours for name in f.names} == {p.name for p in (run / "checkpoints").iterdir()}
    assert len({f.path.stat().st_ino for f in ours}) == len(ours)
    assert [f.path.name for f in found if f.run is None] == ["resnet.pth"]


# --- bad files -------------------------------------------------------------------------------------------------------


def test_empty_zeros_text_and_other_things(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for data, word in (
        (b"", "empty"),
        (bytes(5000), "zeros"),
        (b"hello world\n", "text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (os.urandom(3) + b"\xfe" * 500, ""),
    ):
        path.write_bytes(data)
        assert word in refused(path)
    assert "no file" in refused(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "folder" in refused(tmp_path / "folder.pth")


def test_every_truncation_is_one_sentence(tmp_path: Path) -> None:
    state = {f"layer{i}.weight": torch.randn(4, 4) for i in range(3)}
    for legacy in (False, True):
        whole = tmp_path / "whole"
        torch.save(state, whole, _use_new_zipfile_serialization=not legacy)
        data = whole.read_bytes()
        for end in range(1, len(data), max(1, len(data) // 60)):
            path = tmp_path / "cut.pth"
            path.write_bytes(data[:end])
            refused(path)
    save_file(state, tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    for end in range(1, len(data), 7):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(data[:end])
        refused(path)


def test_an_archive_whose_member_ends_too_early(tmp_path: Path) -> None:
    """Its directory says that more comes than the file holds."""
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones((3, 3)))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 + 2] = content[entry + 24 + 2] = 1  # 64 KiB more, compressed and not
    path.write_bytes(bytes(content))
    refused(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip")
    kind = data.draw(st.sampled_from(["zip", "legacy", "safetensors", "npz", "compressed.npz"]))
    path = folder / f"x.{kind}"
    state = {"a.weight": torch.randn(3, 3), "a.bias": torch.zeros(3)}
    if kind == "safetensors":
        save_file(state, path)
    elif kind.endswith("npz"):
        with path.open("wb") as file:
            (np.savez if kind == "npz" else np.savez_compressed)(file, a=np.ones((3, 3)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 10**6)) % len(content)] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        for tensor in inspect_file(path).tensors:
            tensor_figures(tensor)
    except UserError as error:
        assert "\n" not in str(error)


def test_encrypted_archives_and_bombs(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    central = data.find(b"PK\x01\x02")
    while central >= 0:  # the flag of encryption, in the directory
        data[central + 8] |= 1
        central = data.find(b"PK\x01\x02", central + 1)
    path.write_bytes(bytes(data))
    assert "encrypted" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300 << 20))  # 300 MB of nothing in 300 KB
    assert "more than any file of tensors needs" in refused(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1 << 20))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nested.zip", inner.getvalue())
    assert "something else" in refused(path)


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02" + b"(" * 1_000_000 + b".",
        b"\x80\x02N" + b"\x85" * 1_000_000 + b".",  # a tuple a million deep
        b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",  # ... as the key of a dict
        b"\x80\x02" + b"]" + b"2e" * 500_000 + b".",
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 62) + b".",  # bytearray8 of four exabytes
        b"\x80\x02]r" + struct.pack("<I", (1 << 32) - 1) + b".",  # a memo of four billion places
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
        b"I" + b"9" * 1_000_000 + b"\n.",
        b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\xff" * 1_000_000 + b".",
        b"\x80\x02" + b"N" * 6_000_000 + b".",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02N.",
        b"\x80\x02.",
        b".",
        b"\x80\x09N.",
        b"\x80\x02cos\nsystem\n.",
    ],
)
def test_pickle_bombs(tmp_path: Path, body: bytes) -> None:
    for wrap in ("zip", "bare"):
        path = tmp_path / f"{wrap}.pt"
        if wrap == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", body)
        else:
            path.write_bytes(body)
        try:
            assert inspect_file(path).tensors == ()
        except UserError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500


def test_ten_thousand_tensors(tmp_path: Path) -> None:
    torch.save(OrderedDict((f"blocks.{i}.weight", torch.zeros(2)) for i in range(10_000)), tmp_path / "many.pt")
    assert len(inspect_file(tmp_path / "many.pt").tensors) == 10_000


def test_names_that_are_no_text_or_try_to_paint(tmp_path: Path) -> None:
    torch.save(
        {
            "\x1b]0;owned\x07": torch.ones(1),
            b"\xff\xfe": torch.ones(1),
            7: torch.ones(1),
            "a" * 5000: torch.ones(1),
            ".".join("x" * 500): torch.ones(1),
        },
        tmp_path / "names.pt",
    )
    names = [t.name for t in inspect_file(tmp_path / "names.pt").tensors]
    assert len(names) == 5
    assert all(name.isprintable() for name in names)
    from torchdeck.tui.tensor_tree import folded, tensor_tree

    root = tensor_tree(inspect_file(tmp_path / "names.pt").tensors)
    assert root.count == 5
    assert isinstance(folded(root), set)


def test_a_tensor_that_reaches_beyond_its_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(8)}, tmp_path / "w.pt")
    # The pickle says 8 elements; make it say 200: BININT1 8 is K\x08.
    data = (tmp_path / "w.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        pickled = archive.read("w/data.pkl")
        storage = archive.read("w/data/0")
    assert data
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        archive.writestr("big/data.pkl", pickled.replace(b"K\x08\x85", b"K\xc8\x85"))
        archive.writestr("big/data/0", storage)
    [tensor] = inspect_file(tmp_path / "big.pt").tensors
    assert tensor.shape == (200,)
    with pytest.raises(UserError, match="reaches beyond its storage"):
        tensor_figures(tensor)


def test_five_gigabytes_open_without_being_read(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1_250_000_000], "data_offsets": [0, 5_000_000_000]}}).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 5_000_000_000)  # sparse: takes no disk
    stored = inspect_file(path)
    assert stored.nbytes == 5_000_000_000
    assert float(stored.tensors[0].array()[-1]) == 0.0
