"""Exports answer in the target's own unit: against plain torch in float64, and against ``torchdeck predict``."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from torchdeck.core.checkpoints.unit import in_own_unit
from torchdeck.core.evaluation import trained as trained_models
from torchdeck.core.evaluation.export import FORMATS, compare, export_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.tui.__main__ import main


class Flat(nn.Module):
    """One number a sample, of the shape [N]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:, 0]


def drawn(seed: int, targets: int, flat: bool, offset: float) -> tuple[nn.Module, list[float], list[float], Tensor]:
    torch.manual_seed(seed)
    net: nn.Module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, targets))
    net = (Flat(net) if flat else net).eval()
    std = [10.0 ** (seed % 7 - 3) * (i + 1) for i in range(targets)]
    mean = [offset * s * (-1) ** i for i, s in enumerate(std)]
    return net, mean, std, torch.randn(9, 3)


def expected(net: nn.Module, mean: list[float], std: list[float], x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return net(x).double().numpy() * np.array(std) + np.array(mean)


def close(found: Any, right: np.ndarray, std: list[float]) -> None:
    assert tuple(found.shape) == right.shape
    assert np.abs((np.asarray(found, dtype=np.float64) - right) / np.array(std)).max() < 5e-5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, False), (1, True), (3, False)]),
    st.sampled_from([0.0, 2.0, 100.0, 1e4, 1e7]),
)
def test_a_model_answers_in_the_targets_unit_to_a_fraction_of_their_deviation(
    seed: int, kind: tuple[int, bool], offset: float
) -> None:
    net, mean, std, x = drawn(seed, *kind, offset)
    right = expected(net, mean, std, x)
    made = in_own_unit(net, mean, std, x)
    assert not made.training
    with torch.no_grad():
        close(made(x), right, std)
        close(made(x[:1]), right[:1], std)
    assert in_own_unit(net, [], [], x) is net


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("offset", [3.0, 1e6])
def test_every_format_answers_in_the_targets_unit(tmp_path: Path, format: str, offset: float) -> None:
    net, mean, std, x = drawn(11, 2, False, offset)
    right = expected(net, mean, std, x)
    file = tmp_path / f"m.{FORMATS[format]}"
    told = export_model(in_own_unit(net, mean, std, x), format, file, x, classes=False)
    assert told.agreement is None  # there is no class that could be the same
    if format == "onnx":
        import onnxruntime

        found = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})
        return close(found[0], right, std)
    with torch.no_grad():
        if format == "torchscript":
            return close(torch.jit.load(file)(x), right, std)
        if format == "model":
            return close(torch.load(file, weights_only=False)(x), right, std)
        program: Any = torch.export.load(file).module()
        if format == "int8":
            assert told.difference < 0.2 * max(std)
            assert np.abs((program(x).double().numpy() - right) / np.array(std)).max() < 0.1
        else:
            close(program(x), right, std)


class Several(nn.Module):
    """A tuple, or a dict whose logits come last."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.first, self.second, self.named = nn.Linear(3, 4), nn.Linear(3, 2), named

    def forward(self, x: Tensor) -> Any:
        y, other = self.first(x), self.second(x)
        return {"aux": other, "logits": y} if self.named else (y, other)


@pytest.mark.parametrize("named", [False, True])
def test_all_outputs_are_exported_named_and_compared(tmp_path: Path, named: bool) -> None:
    import onnxruntime

    net, x, file = Several(named).eval(), torch.randn(7, 3), tmp_path / "m.onnx"
    told = export_model(net, "onnx", file, x)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == (["aux", "logits"] if named else ["output1", "output2"])
    right = list(net(x).values()) if named else net(x)
    for found, one in zip(session.run(None, {"input": x.numpy()}), right, strict=True):
        np.testing.assert_allclose(found, one.detach().numpy(), atol=1e-6)
    assert told.agreement == 1.0 and told.difference < 1e-6

    def off(x: Tensor) -> Any:
        found = net(x)
        other = found["aux"] if named else found[1]
        other.add_(0.5)
        return found

    assert compare(net, off, x).difference == pytest.approx(0.5, abs=1e-6)


def test_a_whole_model_of_ones_own_code_loads_without_torchdeck(train: Train, tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text("from torch import nn\nclass Block(nn.Linear):\n    pass\n")
    (tmp_path / "net.py").write_text(
        "from layers import Block\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    class Head(nn.Linear):\n        pass\n"
        "    def __init__(self):\n        super().__init__()\n        self.a, self.b = Block(10, 4), self.Head(4, 1)\n"
        "    def forward(self, x):\n        return self.b(self.a(x).relu())\n"
    )
    run = train(
        "trainer.epochs=1",
        f"model.name={tmp_path}/net.py:Net",
        "model.args={}",
        "tracking.tensorboard=false",
        source="diabetes",
    )
    path = run.path / "checkpoints" / "best.pt"
    assert main(["export", str(path), "--format", "model", "--trust-code", "-o", str(tmp_path / "m.pth")]) == 0
    script_file, optimizer = tmp_path / "s.pt", tmp_path / "o.pth"
    assert main(["export", str(path), "--format", "torchscript", "--trust-code", "-o", str(script_file)]) == 0
    torch.save(run.session.built.trainer.optimizer, optimizer)
    assert not any(b"torchdeck" in file.read_bytes() for file in (tmp_path / "m.pth", script_file, optimizer))
    assert type(trained_models.load_trained(path, True).net).__module__ == "net"
    script = (
        "import sys, torch; m = torch.load('m.pth', weights_only=False); x = torch.zeros(1, 10); "
        "assert torch.allclose(torch.jit.load('s.pt')(x), m(x)); "
        "assert isinstance(torch.load('o.pth', weights_only=False), torch.optim.Optimizer); "
        "assert not any(n.startswith('torchdeck') for n in sys.modules); print(m(x).item())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    trained = trained_models.load_trained(path, True)
    right = expected(trained.net, list(trained.info.target_mean), list(trained.info.target_std), torch.zeros(1, 10))
    assert float(done.stdout) == pytest.approx(right.item(), rel=1e-5)


def test_what_is_exported_predicts_what_predict_says_and_plain_weights_say_their_scale(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("trainer.epochs=2", "model.name=mlp", "tracking.tensorboard=false", source="diabetes")
    path = run.path / "checkpoints" / "best.pt"
    x = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    trained = trained_models.load_trained(path, False)
    said = [float(p.predicted[0]) for p in predict_paths(trained, [str(tmp_path / "x.npy")], io.BytesIO())]
    assert trained.info.target_std[0] > 10

    assert main(["export", str(path), "--format", "model", "-o", str(tmp_path / "m.pth")]) == 0
    assert "same prediction" not in capsys.readouterr().out
    whole = torch.load(tmp_path / "m.pth", weights_only=False)
    prepared = run.session.built.data
    assert [t.name for t in prepared.transforms] == ["Normalize"]
    given_mean, given_std = (torch.tensor(prepared.transforms[0].args()[k]) for k in ("mean", "std"))
    with torch.no_grad():
        assert whole((torch.from_numpy(x) - given_mean) / given_std)[:, 0].tolist() == pytest.approx(said, rel=1e-4)

    for format, name in (("safetensors", "w.safetensors"), ("state_dict", "w.pth")):
        assert main(["export", str(path), "--format", format, "-o", str(tmp_path / name)]) == 0
        text = capsys.readouterr().out
        assert f"prediction = output * {trained.info.target_std[0]:.9g} + {trained.info.target_mean[0]:.9g}" in text
    header = safe_open(tmp_path / "w.safetensors", "pt").metadata()
    assert json.loads(header["target_mean"]) == list(trained.info.target_mean)
    assert json.loads(header["target_std"]) == list(trained.info.target_std)
