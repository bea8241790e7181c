"""Random states of python, numpy, torch's CPU and every device: read, set, kept.

As a checkpoint has them they load under ``weights_only=True``: numpy's state is plain numbers and a tensor.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_states(device: torch.device) -> dict[str, Any]:
    """All random states."""
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = numpy_state
    version, numbers, next_gauss = random.getstate()
    states: dict[str, Any] = {
        "python": [version, list(numbers), next_gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state_all()
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_states(states: dict[str, Any], device: torch.device) -> None:
    """Put random states back; those of devices that this machine lacks are left out."""
    version, numbers, next_gauss = states["python"]
    random.setstate((version, tuple(numbers), next_gauss))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and len(states.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def unchanged_random_states(device: torch.device) -> Iterator[None]:
    """Whatever the block draws, training draws what it would have drawn without it."""
    states = get_states(device)
    try:
        yield
    finally:
        set_states(states, device)
