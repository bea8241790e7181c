"""Transforms: on the whole batch on the training device where they can, sample by sample in the DataLoader elsewhere.

The order is as written: everything up to the last transform that needs single samples runs in the DataLoader, all
after it on the batch. On a batch every sample has a random draw of its own, from a generator that is seeded by
(seed, epoch, batch): a batch is the same whenever and wherever it is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core import catalog, usercode
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Transform

BatchOp = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Pipeline:
    """Transforms for one use (training or evaluation), split into those per sample and those per batch."""

    sample: tuple[Transform, ...]
    batch: tuple[Transform, ...]

    def needs_samples(self) -> bool:
        """Whether something must run sample by sample."""
        return bool(self.sample)


#: Transforms that images of several sizes need before they fit into one batch.
_SIZING = ("Resize", "CenterCrop", "RandomCrop")


def make(name: str, **args: Any) -> Transform:
    """A transform from its name and parameters."""
    return Transform.model_validate({"name": name, **args})


def make_pipelines(transforms: Sequence[Transform], training: bool, streamed: bool = False) -> Pipeline:
    """The transforms for training or for evaluation, which leaves the random ones out (but keeps their sizes).

    ``streamed``: samples are read one by one and may differ in size, so what makes them one size runs there, too.
    """
    chosen = list(transforms) if training else evaluation(transforms)
    single = [not _fact(t, "batch") or (streamed and t.name in _SIZING) for t in chosen]
    last = max((i for i, alone in enumerate(single) if alone), default=-1)
    return Pipeline(tuple(chosen[: last + 1]), tuple(chosen[last + 1 :]))


def evaluation(transforms: Sequence[Transform]) -> list[Transform]:
    """The transforms without the random ones, whose sizes are kept."""
    return [t for transform in transforms for t in _for_evaluation(transform)]


def fitted(
    transforms: Sequence[Transform], image: Tensor, raw_shape: Sequence[int], streamed: bool = False
) -> tuple[Transform, ...]:
    """The transforms with what makes other images [C, H, W] like those of the training, which had ``raw_shape``, put
    before them: as many channels, and the same size where no transform sees to that. ``streamed``: others may differ
    from this first one in size, so that each is made to fit."""
    channels, height, width = raw_shape
    before = []
    if image.shape[0] != channels and channels in (1, 3):
        before.append(make("Grayscale", num_output_channels=channels))
    sized = any(t.name in (*_SIZING, "RandomResizedCrop") for t in transforms)
    if not sized and (streamed or tuple(image.shape[-2:]) != (height, width)):
        before.append(make("Resize", size=[height, width]))
    return (*before, *transforms)


def draws(transforms: Sequence[Transform]) -> bool:
    """Whether any of them draws random numbers."""
    return any(_fact(t, "random") for t in transforms)


def is_own(transform: Transform) -> bool:
    """Whether it is code of the user's."""
    return catalog.is_user_code(transform.name) or transform.name == "Lambda"


def called(transform: Transform) -> str:
    """What a transform is called where it is code of the user's: the reference to it; else its name."""
    return str(transform.args().get("function", transform.name))


def _fact(transform: Transform, name: str) -> bool:
    if catalog.is_user_code(transform.name):
        return False
    return bool(catalog.find("transform", transform.name).fact(name))


def _for_evaluation(transform: Transform) -> list[Transform]:
    if transform.train_only is not None:
        return [] if transform.train_only else [transform]
    size = transform.args().get("size")
    if transform.name == "RandomCrop":
        return [make("CenterCrop", size=size)]
    if transform.name == "RandomResizedCrop":
        return [make("Resize", size=size), make("CenterCrop", size=size)]
    return [] if _fact(transform, "random") else [transform]


def _arguments(transform: Transform, kind: str = "transform") -> dict[str, Any]:
    return catalog.find(kind, transform.name).resolve(transform.args())


# --- sample by sample ------------------------------------------------------------------------------------------------


class Composed:
    """Functions applied one after the other; a class, because DataLoader workers get it pickled."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self._steps = tuple(steps)

    def __call__(self, value: Any) -> Any:
        for step in self._steps:
            value = step(value)
        return value


def sample_transform(transforms: Sequence[Transform]) -> Composed:
    """The transforms composed, for one sample: PIL image or uint8 tensor in, whatever the last one gives out."""
    return Composed([_sample_step(t) for t in transforms])


def _sample_step(transform: Transform) -> Callable[[Any], Any]:
    if catalog.is_user_code(transform.name):
        made = usercode.load(transform.name, "data.transforms")
        if isinstance(made, type):
            return usercode.call(made, transform.args(), "data.transforms")
        return functools.partial(made, **transform.args()) if transform.args() else made
    args = _arguments(transform)
    if transform.name == "Lambda":
        return usercode.load(args["function"], "data.transforms")
    if transform.name == "ToTensor":
        return _to_unit
    if transform.name == "Normalize":
        return functools.partial(_normalized, [transform])
    from torchvision.transforms import v2

    return getattr(v2, transform.name)(**{k: v for k, v in args.items() if v is not None})


def _to_unit(value: Any) -> Tensor:
    return to_unit(as_tensor(value))


def _normalized(transforms: Sequence[Transform], value: Any) -> Tensor:
    """One sample as a batch of one, by the code that normalises batches."""
    x = as_tensor(value)
    (op,) = batch_transform(transforms, x.device)
    return op(x[None], torch.Generator())[0]


def as_tensor(value: Any) -> Tensor:
    """A sample as a tensor: PIL images become uint8 [C, H, W], arrays keep their type, numbers become float."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "getbands"):  # a PIL image
        array = _from_numpy(np.array(value))
        return array.unsqueeze(0) if array.ndim == 2 else array.permute(2, 0, 1).contiguous()
    try:
        return _from_numpy(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"A sample is a {type(value).__name__}; a tensor, an array or an image is needed.") from None


def _from_numpy(array: np.ndarray) -> Tensor:
    """An array as a tensor of a type that torch computes with; images of 16 bits become floats from 0 to 1."""
    if array.dtype == np.uint16 and array.ndim >= 2:
        return torch.from_numpy(array.astype(np.float32)) / 65535
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b":
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


# --- a batch at a time -----------------------------------------------------------------------------------------------


def to_unit(x: Tensor) -> Tensor:
    """uint8 0..255 to float 0..1; floats are left alone."""
    if x.dtype == torch.uint8:
        return x.float().div_(255)
    return x if x.is_floating_point() else x.float()


def batch_transform(transforms: Sequence[Transform], device: torch.device) -> list[BatchOp]:
    """The transforms as functions of (batch [N, ...], generator on the device)."""
    ops: list[BatchOp] = []
    for first, *then in as_operations(transforms):
        ops.append(_normalize(then[0], device, scale=255.0) if then else batch_op(first, device))
    return ops


def as_operations(transforms: Sequence[Transform]) -> list[list[Transform]]:
    """The transforms that make one operation on a batch together: ToTensor and the Normalize after it, others alone."""
    found: list[list[Transform]] = []
    for transform in transforms:
        if transform.name == "Normalize" and found and [t.name for t in found[-1]] == ["ToTensor"]:
            found[-1].append(transform)
        else:
            found.append([transform])
    return found


def batch_op(transform: Transform, device: torch.device, fill: float = 0) -> BatchOp:
    """One transform as a function of (batch [N, ...], generator on the device); ``fill``: of pixels from outside."""
    args = _arguments(transform)
    match transform.name:
        case "ToTensor":
            return lambda x, g: to_unit(x)
        case "Normalize":
            return _normalize(transform, device)
        case "Resize":
            return lambda x, g: resize(x, args["size"])
        case "CenterCrop":
            return lambda x, g: center_crop(x, args["size"], fill)
        case "RandomCrop":
            return lambda x, g: random_crop(x, args["size"], args["padding"], args["padding_mode"], g, fill)
        case "RandomHorizontalFlip":
            return lambda x, g: random_flip(x, args["p"], -1, g)
        case "RandomVerticalFlip":
            return lambda x, g: random_flip(x, args["p"], -2, g)
        case "RandomErasing":
            return lambda x, g: random_erasing(x, args["p"], args["scale"], args["ratio"], args["value"], g)
    raise AssertionError(transform.name)


#: Types of numbers that float32 may not tell apart.
_EXACT = (torch.float64, torch.int64, torch.int32)


def _normalize(transform: Transform, device: torch.device, scale: float = 1.0) -> BatchOp:
    """(x / scale - mean) / std in one multiplication and one addition; ``scale`` is ToTensor's, folded in.

    Beside a large offset (a time stamp, an identifier) float32 would lose what changes: there, and for float64 and
    whole numbers, the mean is taken out in float64.
    """
    mean = torch.tensor(transform.args()["mean"], dtype=torch.float64)
    std = torch.tensor(transform.args()["std"], dtype=torch.float64)
    factor, shift = (1 / std).float().to(device), (-mean / std).float().to(device)
    folded = (1 / (std * scale)).float().to(device)
    offset = bool((mean.abs() > 100 * std).any()) or not bool(torch.isfinite(factor).all())
    exact = torch.device("cpu") if device.type == "mps" else device  # mps has no float64

    def apply(x: Tensor, generator: torch.Generator) -> Tensor:
        shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
        if x.dtype != torch.uint8 and (offset or x.dtype in _EXACT):
            centred = x.to(exact, torch.float64) - mean.to(exact).view(shape)
            return centred.div_(std.to(exact).view(shape)).float().to(device)
        by = folded if x.dtype == torch.uint8 else factor
        return torch.addcmul(shift.view(shape), x.float(), by.view(shape))

    return apply


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[-1]))


def resize(x: Tensor, size: Any) -> Tensor:
    """Bilinear and antialiased; one number is the length of the shorter side, as in torchvision."""
    size = resized_size(x.shape[-2:], size)
    if tuple(x.shape[-2:]) == size:
        return x
    whole = x.dtype == torch.uint8
    y = F.interpolate(x.float() if whole else x, size=size, mode="bilinear", antialias=True)
    return y.round_().clamp_(0, 255).to(torch.uint8) if whole else y


def resized_size(before: Sequence[int], size: Any) -> tuple[int, int]:
    """Height and width of an image after Resize to ``size``."""
    if not isinstance(size, int):
        return _pair(size)
    h, w = before
    return (size, max(1, int(size * w / h))) if h <= w else (max(1, int(size * h / w)), size)


def center_crop(x: Tensor, size: Any, fill: float = 0) -> Tensor:
    """The middle of each image, rounded as torchvision does it; images that are smaller are padded with ``fill``."""
    h, w = _pair(size)
    dy, dx = h - x.shape[-2], w - x.shape[-1]
    if dy > 0 or dx > 0:
        py, px = max(dy, 0), max(dx, 0)
        x = F.pad(x, (px // 2, px - px // 2, py // 2, py - py // 2), value=fill)
    top, left = round((x.shape[-2] - h) / 2), round((x.shape[-1] - w) / 2)
    return x[..., top : top + h, left : left + w]


def random_crop(x: Tensor, size: Any, padding: int, mode: str, generator: torch.Generator, fill: float = 0) -> Tensor:
    """A place of its own for each image of the batch [N, C, H, W]; ``fill``: what constant padding adds."""
    h, w = _pair(size)
    if padding:
        pad_mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[mode]
        plain = x if mode == "constant" else x.float()
        value = fill if mode == "constant" else None
        x = F.pad(plain, (padding,) * 4, mode=pad_mode, value=value).to(x.dtype)
    n, c, height, width = x.shape
    if height < h or width < w:
        raise UserError(
            f"data.transforms: RandomCrop to {h}x{w} needs larger images or padding; they are {height}x{width}.",
            field="data.transforms",
        )
    top = torch.randint(0, height - h + 1, (n, 1), generator=generator, device=x.device)
    left = torch.randint(0, width - w + 1, (n, 1), generator=generator, device=x.device)
    rows = (top + torch.arange(h, device=x.device)).view(n, 1, h, 1)
    columns = (left + torch.arange(w, device=x.device)).view(n, 1, 1, w)
    at = (rows * width + columns).expand(n, c, h, w).reshape(n, c, h * w)
    return x.reshape(n, c, height * width).gather(2, at).view(n, c, h, w)


def random_flip(x: Tensor, p: float, dim: int, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability ``p``."""
    chosen = torch.rand(len(x), generator=generator, device=x.device) < p
    return torch.where(chosen.view(-1, *([1] * (x.ndim - 1))), x.flip(dim), x)


def random_erasing(
    x: Tensor, p: float, scale: Sequence[float], ratio: Sequence[float], value: float, generator: torch.Generator
) -> Tensor:
    """Blank a rectangle in each image with probability ``p``: area within ``scale``, height over width in ``ratio``."""
    n, _, h, w = x.shape
    draw = torch.rand(5, n, generator=generator, device=x.device)
    area = (scale[0] + draw[1] * (scale[1] - scale[0])) * h * w
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + draw[2] * (high - low))
    eh = (area * aspect).sqrt().round().clamp(1, h)
    ew = (area / aspect).sqrt().round().clamp(1, w)
    top, left = (draw[3] * (h - eh + 1)).floor(), (draw[4] * (w - ew + 1)).floor()
    ys, xs = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    in_rows = (ys >= top[:, None]) & (ys < (top + eh)[:, None]) & (draw[0] < p)[:, None]
    in_columns = (xs >= left[:, None]) & (xs < (left + ew)[:, None])
    return x.masked_fill((in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1), value)
