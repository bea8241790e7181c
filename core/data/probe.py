"""Whether somebody's code draws random numbers, found out by trying it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

#: How often something is tried; what changes a sample seldom may still be taken for what never does.
_TRIES = 6


class kept_random_states:
    """Random states of python, numpy and torch (CPU) are after a block as they were before."""

    def __enter__(self) -> None:
        self._states = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def __exit__(self, *error: object) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
        torch.set_rng_state(self._states[2])


def seed_generators(seed: int) -> None:
    """Seed the generators of python, numpy and torch (CPU): 12 us, where ``torch.manual_seed`` alone takes 300, for it
    looks for devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


class seeded(kept_random_states):
    """Random states of python, numpy and torch (CPU) set for a block, and put back after it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        super().__enter__()
        seed_generators(self._seed)


def is_random(call: Callable[[], Any]) -> bool:
    """Whether a call draws random numbers: the generators of python, numpy or torch move, or its results differ."""
    with seeded(0):
        before = states()
        first = call()
        if states() != before:
            return True
        return any(not equal(first, call()) for _ in range(_TRIES - 1))


def states() -> tuple[Any, ...]:
    """The states of the generators of python, numpy and torch (CPU), to be compared."""
    kind, keys, *rest = np.random.get_state()
    drawn = (kind, np.asarray(keys).tobytes(), *rest)
    return random.getstate(), drawn, torch.get_rng_state().numpy().tobytes()


def equal(a: Any, b: Any) -> bool:
    """Whether two samples, or parts of them, are the same, numbers and pictures by their values."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if type(a) is type(b) and callable(getattr(a, "to_dict", None)):  # graphs
        return equal(a.to_dict(), b.to_dict())
    if hasattr(a, "tobytes") and hasattr(b, "tobytes"):  # pictures
        return a.tobytes() == b.tobytes()
    return bool(a == b) or (a != a and b != b)
