"""Which transforms are run: those of the experiment or the usual ones, and which of them on training samples only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.probe import is_random, seeded
from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Transform


def refuse_float_transforms(chosen: tuple[Transform, ...], integer: bool, name: str) -> None:
    """Raises UserError for transforms that would make floats of whole numbers that stay so."""
    wrong = next((t.name for t in chosen if t.name in ("ToTensor", "Normalize")), None)
    if integer and wrong is not None:
        raise UserError(
            f"data.transforms: {wrong} would make floats of the inputs of {name!r}, which are whole numbers and "
            "stay so; leave it out.",
            field="data.transforms",
        )


def default_transforms(source: Source, integer: bool, normalised: bool = True) -> tuple[Transform, ...]:
    """Those of an experiment that names none; ``normalised``: whether the task's inputs are."""
    normalise = (Transform(name="Normalize"),) if normalised else ()
    images = (Transform(name="ToTensor"), *normalise)
    if integer:
        return ()
    if isinstance(source.train, Arrays):
        return images if source.image else normalise
    sample, _ = samples.first_sample(source.train, source.layout)
    floats = isinstance(sample, Tensor) and sample.is_floating_point()
    floats = floats or (isinstance(sample, np.ndarray) and sample.dtype.kind == "f")
    if floats and getattr(source.train.dataset, "samples", None) is None:
        return ()  # the user's Dataset has made its inputs ready
    return images if source.image else ()


def without_random_in_evaluation(
    chosen: tuple[Transform, ...], source: Source, train_at: Tensor, warn: Callable[[str], None]
) -> tuple[Transform, ...]:
    """Transforms of the user's own that draw random numbers are marked as for training only: found out by trying."""
    marked: list[Transform] = []
    some = sorted({int(train_at[0]), int(train_at[len(train_at) // 2]), int(train_at[-1])})
    for transform in chosen:
        if transforms.is_own(transform) and transform.train_only is None:
            before = [t for t in transforms.evaluation(marked) if t.name != "Normalize"]
            apply = transforms.sample_transform(before)
            step = transforms.sample_transform((transform,))
            if any(_draws(step, apply(samples.sample_at(source.train, index, source.layout)[0])) for index in some):
                transform = transform.model_copy(update={"train_only": True})
                warn(
                    f"data.transforms: {transforms.called(transform)} draws random numbers and is run on "
                    "training samples only (train_only = false runs it on all)."
                )
        marked.append(transform)
    return tuple(marked)


def _draws(step: Callable[[Any], Any], x: Any) -> bool:
    with usercode.user_errors():
        return is_random(lambda: step(_copied(x)))


def _copied(x: Any) -> Any:
    """A sample that may be changed in place."""
    if isinstance(x, Tensor):
        return x.clone()
    return x.copy() if hasattr(x, "copy") else x


def refuse_other_forms(source: Source, train_at: Tensor, chosen: tuple[Transform, ...]) -> None:
    """What is left out of evaluation must not be what gives the inputs their shape, or makes numbers of pictures.

    Raises UserError where it is.
    """
    left_out = next((t for t in chosen if t.train_only), None)
    if left_out is None:
        return
    known = [t for t in chosen if t.name != "Normalize"]
    run = [t.model_copy(update={"train_only": False}) if t.train_only else t for t in known]
    x, _ = samples.sample_at(source.train, int(train_at[0]), source.layout)
    with usercode.user_errors(), seeded(0):
        training, evaluation = (
            transforms.as_tensor(transforms.sample_transform(transforms.evaluation(each))(_copied(x)))
            for each in (run, known)
        )
    forms = (training.shape, training.is_floating_point()), (evaluation.shape, evaluation.is_floating_point())
    if forms[0] != forms[1]:
        name = transforms.called(left_out)
        raise UserError(
            f"data.transforms: {name} is run on training samples only, which with it are {_form(training)} and "
            f"without it {_form(evaluation)}. Set train_only = false in it, or move the part that does not draw random "
            "numbers into a transform of its own.",
            field="data.transforms",
        )


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of the shape {list(x.shape)}"
