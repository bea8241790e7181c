"""Exports of a trained model: weights, the whole module, or a program for other runtimes; each tried on real
samples."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import files
from torchdeck.core.checkpoints.save import to_torch
from torchdeck.core.data.items import tensors_in
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.models.calls import logits_of

#: Formats and the suffix of their files.
FORMATS = {"model": "pth", "torchscript": "ts.pt", "onnx": "onnx", "torch_export": "pt2", "int8": "int8.pt2"}

Run = Callable[..., Any]

#: Real inputs of a model [N, ...]: one tensor, a tuple of several, or a list of images of any sizes (a detector's).
Samples = Tensor | tuple[Tensor, ...] | list[Tensor]


def _inputs(samples: Samples, count: int | None = None) -> tuple[Any, ...]:
    """The inputs as they stand in a call; the first ``count`` samples of each."""
    return tuple(t[:count] for t in (samples if isinstance(samples, tuple) else (samples,)))


def _any_batch(samples: Samples) -> tuple[dict[int, Any], ...]:
    """For torch.export: batches of any size, the same for all inputs."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in _inputs(samples))


@dataclass(frozen=True)
class Compared:
    """The exported model beside the original, on the same samples."""

    samples: int
    #: Greatest absolute difference of an output, and that over the greatest absolute output (where all are 0: itself).
    difference: float
    relative: float
    #: Share of samples with the same largest logit; None where outputs are no logits of classes.
    agreement: float | None


def export_model(net: nn.Module, format: str, output: Path, samples: Samples, classes: bool = True) -> Compared:
    """Write the model to ``output``, whole or not at all, load it again and compare it on ``samples`` [N, ...].

    ``model`` is a pickle: whoever loads it runs what is in it. ``classes``: whether outputs are logits of classes.

    Raises UserError when the format can't hold the model, or ``output`` can't be written.
    """
    if isinstance(samples, list) and format != "model":
        raise UserError(
            "A detector takes lists of images of any sizes and gives as many boxes as it finds, which --format "
            f"{format} does not hold; use --format model, state_dict or safetensors."
        )
    net = net.eval().cpu()
    data, run = _WRITERS[format](net, samples)
    try:
        with files.replacing(output) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"{str(output)!r} can't be written: {error.strerror or error}.") from None
    return compare(net, run, samples, classes)


def compare(net: nn.Module, run: Run, samples: Samples, classes: bool = True) -> Compared:
    """The outputs of two models on the same samples."""
    given = _inputs(samples)
    with torch.inference_mode():
        outputs, others = net(*given), run(*given)
    if isinstance(outputs, Mapping) and isinstance(others, tuple) and len(outputs) == len(others):
        others = dict(zip(outputs, others, strict=True))  # of ONNX
    told, told_too = _numbers(outputs), _numbers(others)
    if told.shape != told_too.shape:  # what a model gives beside them (a cache) need not be kept
        told, told_too = _numbers(logits_of(outputs)), _numbers(logits_of(others))
    difference = float((told - told_too).abs().max())
    scale = float(told.abs().max())
    relative = difference / (scale or 1.0)
    agreement = None
    if classes:
        expected, got = logits_of(outputs), logits_of(others)
        flat, flat_got = (t.reshape(len(given[0]), -1).argmax(1) for t in (expected, got))
        agreement = float((flat == flat_got).float().mean())
    return Compared(len(given[0]), difference, relative, agreement)


def _numbers(outputs: Any) -> Tensor:
    """All numbers of all outputs, one after the other; a detector may tell none."""
    return torch.cat([torch.zeros(1, dtype=torch.double), *(t.flatten().double() for t in tensors_in(outputs))])


def _output_names(net: nn.Module, samples: Samples) -> list[str]:
    """What the outputs are called in ONNX: as the model's dict calls them, else by number where there are several."""
    with torch.inference_mode():
        outputs = net(*_inputs(samples, 2))
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return [str(name) for name in outputs]
    count = len(tensors_in(outputs))
    return ["output"] if count == 1 else [f"output{i}" for i in range(1, count + 1)]


def _model(net: nn.Module, samples: Samples) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    try:
        to_torch(net, buffer)
        # It is our own pickle of a moment ago, and nobody else's.
        return buffer.getvalue(), torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(f"The model can't be pickled ({first_line(error)}); export its state_dict.") from None


def _torchscript(net: nn.Module, samples: Samples) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    if hasattr(net, "_jit_is_scripting"):
        # Tracing reads all properties, of which a LightningModule's trainer raises where there is none.
        net._jit_is_scripting = True  # type: ignore[assignment]
    with _quiet(), _told("TorchScript"):
        traced = torch.jit.trace(net, _inputs(samples, 2), check_trace=False)
        torch.jit.save(traced, buffer)
        return buffer.getvalue(), torch.jit.load(io.BytesIO(buffer.getvalue()))


def _exported(net: nn.Module, samples: Samples) -> torch.export.ExportedProgram:
    with _quiet(), _told("torch.export"):
        # Two samples: a batch of one would be taken for a constant.
        return torch.export.export(net, _inputs(samples, 2), dynamic_shapes=_any_batch(samples))


def _torch_export(net: nn.Module, samples: Samples) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    program = _exported(net, samples)
    with _quiet(), _told("torch.export"):
        torch.export.save(program, buffer)
        buffer.seek(0)
        return buffer.getvalue(), torch.export.load(buffer).module()


def _onnx(net: nn.Module, samples: Samples) -> tuple[bytes, Run]:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs onnx and onnxscript: pip install 'torchdeck[onnx]'.") from None
    with _quiet(), _told("ONNX"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            net,
            _inputs(samples, 2),
            path,
            dynamo=True,
            dynamic_shapes=_any_batch(samples),
            input_names=_names(samples),
            output_names=_output_names(net, samples),
            external_data=False,
            verbose=False,
        )
        data = path.read_bytes()
    with _told("ONNX"):
        onnx.checker.check_model(onnx.load_from_string(data))
    return data, _onnx_runner(data)


def _names(samples: Samples) -> list[str]:
    """What the inputs are called in ONNX."""
    count = len(_inputs(samples))
    return ["input"] if count == 1 else [f"input{i}" for i in range(1, count + 1)]


def _onnx_runner(data: bytes) -> Run:
    try:
        import onnxruntime
    except ImportError:
        from onnx import load_from_string
        from onnx.reference import ReferenceEvaluator

        reference: Any = ReferenceEvaluator(load_from_string(data))
        return lambda *given: tuple(map(torch.from_numpy, reference.run(None, _by_name(given))))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda *given: tuple(map(torch.from_numpy, session.run(None, _by_name(given))))


def _by_name(given: tuple[Tensor, ...]) -> dict[str, Any]:
    return {name: x.numpy() for name, x in zip(_names(given), given, strict=True)}


def _int8(net: nn.Module, samples: Samples) -> tuple[bytes, Run]:
    return _torch_export(quantised(net), samples)


_WRITERS: dict[str, Callable[[nn.Module, Samples], tuple[bytes, Run]]] = {
    "model": _model,
    "torchscript": _torchscript,
    "torch_export": _torch_export,
    "onnx": _onnx,
    "int8": _int8,
}


class Int8Linear(nn.Module):
    """A linear layer with weights of 8 bits, one scale a row, and inputs that are quantised as they come.

    Dynamic quantisation as torch.ao.quantization.quantize_dynamic does it (which is deprecated, and whose modules
    torch.export refuses): weights symmetric per output channel, inputs with one scale a sample (Jacob et al. 2018).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with torch.no_grad():
            scale = linear.weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            self.register_buffer("weight", (linear.weight / scale).round().clamp(-127, 127).to(torch.int8))
            self.register_buffer("scale", scale[:, 0].float())
            self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]: integers are multiplied and added up, then scaled back."""
        flat = x.reshape(-1, x.shape[-1])
        size = flat.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        whole = (flat / size).round().clamp(-127, 127).to(torch.int8)
        y = torch._int_mm(whole, self.weight.t()).float() * (size * self.scale)
        y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], -1)


def quantised(net: nn.Module) -> nn.Module:
    """A copy whose linear layers compute with 8 bit integers.

    Raises UserError when it has none.
    """
    made = copy.deepcopy(net).cpu().eval()
    names = [name for name, module in made.named_modules() if type(module) is nn.Linear]
    if not names:
        raise UserError("The model has no linear layer, and dynamic quantisation is for those.")
    for name in names:
        linear: Any = made.get_submodule(name)
        if not name:
            return Int8Linear(linear)
        made.set_submodule(name, Int8Linear(linear))
    return made


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What a tracer raises is of many kinds, and long: its first line is told."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # torch.onnx wraps it in instructions for reports, in colours
        raise UserError(
            f"The model can't be exported to {what}: {type(cause).__name__}: {first_line(cause)}."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracers print, log and warn."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
