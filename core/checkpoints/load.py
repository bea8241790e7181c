"""Tensors of a file as torch's tensors, without unpickling it: the way to take weights from anybody."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.stored import Stored
from torchdeck.core.checkpoints.tensors import StoredTensor
from torchdeck.core.errors import UserError


def weights(path: Path, where: str) -> dict[str, Tensor]:
    """The state_dict in a file of any kind that ``look`` knows, on the CPU; nothing in the file is run.

    A file that also wants to call what reaches beyond it (the system, the interpreter) is refused: whoever made it
    meant harm, or it holds something that is lost here.

    Raises UserError, beginning with ``where``.
    """
    try:
        stored = inspect_file(path)
        refuse_dangerous(stored)
        return tensors(stored.weights())
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def refuse_dangerous(stored: Stored) -> None:
    """Raises UserError for a file that would reach beyond itself when unpickled."""
    if stored.dangerous:
        call = next((c for c in stored.calls if stored.dangerous[0] in c), stored.dangerous[0])
        raise UserError(
            f"{str(stored.path)!r} would run {call} when loaded; it holds more than tensors and was not opened."
        )


def tensors(stored: Iterable[StoredTensor]) -> dict[str, Tensor]:
    """Copies in memory.

    Raises UserError when one can't be read.
    """
    return {one.name: tensor(one) for one in stored}


def tensor(stored: StoredTensor) -> Tensor:
    """A copy in memory.

    Raises UserError when it can't be read.
    """
    dtype = getattr(torch, stored.dtype, None)
    if not isinstance(dtype, torch.dtype) or stored.dtype.startswith("q"):
        raise UserError(f"The tensor {stored.name!r} is {stored.dtype}, which can't be loaded as plain weights.")
    copied = np.array(stored.array(), order="C")
    if copied.size == 0:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(bytearray(copied.tobytes()), dtype=dtype).reshape(stored.shape)


def average_weights(paths: list[Path]) -> dict[str, Tensor]:
    """The mean of the weights of several files (stochastic weight averaging by hand; Izmailov et al. 2018).

    What is no floating-point number (counters of batch norm) is the last file's.

    Raises UserError when the files hold different tensors.
    """
    if len(paths) < 2:
        raise UserError("An average needs two files or more.")
    every = []
    for path in paths:
        one = inspect_file(path)
        refuse_dangerous(one)
        every.append({t.name: t for t in one.weights()})
    for path, own in zip(paths[1:], every[1:], strict=True):
        for name, t in every[0].items():
            if name not in own or own[name].shape != t.shape:
                raise UserError(f"{str(paths[0])!r} and {str(path)!r} can't be averaged: they differ in {name!r}.")
        if len(own) != len(every[0]):
            raise UserError(f"{str(path)!r} has {len(own)} tensors, {str(paths[0])!r} has {len(every[0])}.")
    result = {}
    for name in every[0]:
        last = tensor(every[-1][name])
        if last.is_floating_point():
            total = sum((tensor(own[name]).double() for own in every[:-1]), last.double())
            result[name] = (total / len(every)).to(last.dtype)
        else:
            result[name] = last
    return result
