"""What this machine has: versions, devices, data folders, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchdeck.core.machine import devices
from torchdeck.core.machine.versions import versions

#: What nothing can be trained without.
_REQUIRED = ("torch", "torchvision")


def complete() -> bool:
    """Whether the packages are there that nothing can be trained without."""
    return all(importlib.util.find_spec(package) is not None for package in _REQUIRED)


def examine(data: Iterable[Path], runs: Path) -> dict[str, Any]:
    """Look, change nothing; a plain dict for people and programs.

    ``data``: the folders in which data sets are looked for; ``runs``: the one that runs are written to.
    """
    missing = []
    for package, use in (
        ("torch", "torch: nothing can be trained without it"),
        ("torchvision", "torchvision: its models, CIFAR, SVHN and image folders"),
        ("tensorboard", "tensorboard: its events and pages"),
        ("pyarrow", "pyarrow: Parquet tables (pip install 'torchdeck[tables]')"),
    ):
        if importlib.util.find_spec(package) is None:
            missing.append(use)
    found: list[dict[str, Any]] = []
    chosen = "nothing: torch is missing"
    if importlib.util.find_spec("torch") is not None:
        there = devices.available()
        found = [vars(d) for d in there]
        chosen = there[0].device
        if not any(d.device.startswith("cuda") for d in there):
            missing.append(_why_no_cuda())
    return {
        "versions": versions(),
        "devices": found,
        "chosen": chosen,
        "data_roots": [{"path": str(p), "state": _folder(p)} for p in data],
        "runs": {"path": str(runs), "state": _folder(runs, writing=True)},
        "missing": missing,
    }


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "CUDA: this torch was built without it"
    if shutil.which("nvidia-smi") is None:
        return "CUDA: no NVIDIA driver (nvidia-smi) on this machine"
    return "CUDA: there is a driver, but torch can't use it (version too old, or no permission)"


def _folder(path: Path, writing: bool = False) -> str:
    if not path.exists():
        return "not there yet" if writing else "not there"
    if not os.access(path, os.W_OK if writing else os.R_OK):
        return "can't be written" if writing else "can't be read"
    if writing:
        return f"{shutil.disk_usage(path).free / 2**30:.1f} GiB free"
    names = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    return ", ".join(names[:8]) or "empty"
