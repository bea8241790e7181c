"""Masks go the way of their images: what moves pixels moves those of the mask alike, by nearest neighbour; pixels that
come from outside of the image do not count."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core import catalog, usercode
from torchdeck.core.data import transforms
from torchdeck.core.data.infer import as_values
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Transform
from torchdeck.core.experiment.schema import Experiment

#: Transforms that leave every pixel in its place.
_STILL = ("ToTensor", "Normalize", "RandomErasing", "ColorJitter", "GaussianBlur", "Grayscale")
#: Transforms of torchvision whose empty pixels are filled.
_FILLED = ("RandomRotation", "RandomAffine", "Pad", "RandomCrop")

#: A step for one sample: (image, mask) to both.
Pair = Callable[[Any, Tensor], tuple[Any, Tensor]]


def ignored_by(experiment: Experiment) -> int:
    """The class of pixels and tokens that do not count."""
    told = experiment.task.args.get("ignore_index", experiment.loss.args.get("ignore_index"))
    return -100 if told is None else int(told)


def refuse_unable(chosen: Sequence[Transform]) -> None:
    """Raises UserError for transforms that may move pixels and know no masks."""
    for transform in chosen:
        name = transforms.called(transform)
        if transform.name in ("RandAugment", "TrivialAugmentWide", "AutoAugment"):
            raise UserError(
                f"data.transforms: {name} moves the pixels of an image and can't move those of its mask; choose "
                "RandomAffine and ColorJitter, or change both in the data set.",
                field="data.transforms",
            )
        if transforms.is_own(transform) and not _is_v2(transform):
            raise UserError(
                f"data.transforms: {name} gets the image alone, and may move its pixels away from those of the mask; "
                "change both in the data set, or give a transform of torchvision.transforms.v2, which gets both.",
                field="data.transforms",
            )


def _is_v2(transform: Transform) -> bool:
    from torchvision.transforms import v2

    if not catalog.is_user_code(transform.name):
        return False
    made = usercode.load(transform.name, "data.transforms")
    return isinstance(made, v2.Transform) or (isinstance(made, type) and issubclass(made, v2.Transform))


# --- sample by sample ------------------------------------------------------------------------------------------------


class Together:
    """Transforms of an image and its mask, composed; DataLoader workers get it pickled."""

    def __init__(self, chosen: Sequence[Transform], ignored: int) -> None:
        """``ignored``: the class of pixels that do not count."""
        self._steps = [_pair_step(transform, ignored) for transform in chosen]

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        """Both transformed; the mask [H, W] or [1, H, W].

        Raises UserError for a target that is no mask, or not of the image's size.
        """
        values = as_values(mask)
        if values is not None and values.ndim == 3 and values.shape[-1] == 1 != values.shape[0]:
            values = values.squeeze(-1)
        if values is None or values.ndim not in (2, 3) or (values.ndim == 3 and len(values) != 1):
            what = f"a {type(mask).__name__}" if values is None else f"of the shape {list(values.shape)}"
            raise UserError(f"Its target is {what}; a mask [H, W] is needed, the number of a class for each pixel.")
        if tuple(values.shape[-2:]) != _size(image):
            height, width = _size(image)
            raise UserError(f"Its mask is {values.shape[-2]}x{values.shape[-1]} and its image {height}x{width}.")
        for step in self._steps:
            image, values = step(image, values)
        return image, values


def _size(image: Any) -> tuple[int, int]:
    if hasattr(image, "getbands"):
        return image.height, image.width
    height, width = transforms.as_tensor(image).shape[-2:]
    return int(height), int(width)


def _pair_step(transform: Transform, ignored: int) -> Pair:
    alone = transforms.sample_transform([transform])
    name, args = transform.name, transform.args()
    if name in _STILL:
        return functools.partial(_image_only, alone)
    if name == "Resize":
        return functools.partial(_resized, alone)
    if name == "CenterCrop":
        return functools.partial(_cropped, alone, args["size"], ignored)
    if transforms.is_own(transform):
        made = usercode.load(name, "data.transforms")
        made = usercode.call(made, args, "data.transforms") if isinstance(made, type) else made
        return functools.partial(_by_torchvision, made)
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    known = {k: v for k, v in catalog.find("transform", name).resolve(args).items() if v is not None}
    if name in _FILLED:
        known["fill"] = {tv_tensors.Mask: ignored, "others": 0}
    if name == "RandomResizedCrop":
        return functools.partial(_cut_and_resized, v2.RandomResizedCrop(**known))
    return functools.partial(_by_torchvision, getattr(v2, name)(**known))


def _image_only(step: Callable[[Any], Any], image: Any, mask: Tensor) -> tuple[Any, Tensor]:
    return step(image), mask


def _resized(step: Callable[[Any], Any], image: Any, mask: Tensor) -> tuple[Any, Tensor]:
    image = step(image)
    return image, nearest(mask, _size(image))


def _cropped(step: Callable[[Any], Any], size: Any, ignored: int, image: Any, mask: Tensor) -> tuple[Any, Tensor]:
    return step(image), transforms.center_crop(mask, size, ignored)


def _cut_and_resized(step: Any, image: Any, mask: Tensor) -> tuple[Any, Tensor]:
    cut = step.make_params([image])
    rows, columns = (slice(cut[a], cut[a] + cut[b]) for a, b in (("top", "height"), ("left", "width")))
    image = step.transform(image, cut)
    return image, nearest(mask[..., rows, columns], _size(image))


def _by_torchvision(step: Callable[..., Any], image: Any, mask: Tensor) -> tuple[Any, Tensor]:
    from torchvision import tv_tensors

    image, moved = step(image, tv_tensors.Mask(mask))
    return image, moved.as_subclass(Tensor)


def nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks [..., H, W] in another size: of each new pixel the class of the old one that its centre lies in."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    flat = masks.reshape(1, -1, *masks.shape[-2:]).to(torch.float32)
    made = F.interpolate(flat, size=tuple(size), mode="nearest-exact")
    return made.reshape(*masks.shape[:-2], *size).to(masks.dtype)


# --- a batch at a time -----------------------------------------------------------------------------------------------


def mask_ops(chosen: Sequence[Transform], ignored: int) -> list[transforms.BatchOp | None]:
    """What is done to the masks of a batch, beside each of the operations on its images that
    ``transforms.batch_transform`` makes of the same; None where pixels stay in their places. With the generator in the
    state in which it was for the images, masks are moved as these were."""
    return [_mask_op(group[0], ignored) for group in transforms.as_operations(chosen)]


def _mask_op(transform: Transform, ignored: int) -> transforms.BatchOp | None:
    if transform.name in _STILL:
        return None
    if transform.name == "Resize":
        return lambda y, g: nearest(y, transforms.resized_size(y.shape[-2:], transform.args()["size"]))
    if transform.name == "CenterCrop":
        return lambda y, g: transforms.center_crop(y, transform.args()["size"], ignored)
    return transforms.batch_op(transform, torch.device("cpu"), ignored)


def moved(
    x: Tensor, y: Tensor, ops: Sequence[transforms.BatchOp], on_masks: Sequence[transforms.BatchOp | None], g: Any
) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] and masks [B, H, W] or [B, 1, H, W] after the operations, with one draw for both."""
    masks = y if y.ndim == 4 else y[:, None]
    for op, on_mask in zip(ops, on_masks, strict=True):
        before = g.get_state()
        x = op(x, g)
        if on_mask is not None:
            after = g.get_state()
            g.set_state(before)
            masks = on_mask(masks, g)
            g.set_state(after)
    return x, masks if y.ndim == 4 else masks[:, 0]
