"""Versions of what matters for reproducing a run."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata

from torchdeck import __version__


def versions() -> dict[str, str]:
    """Versions of what matters for reproducing a run, without importing any of it."""
    found = {"torchdeck": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "pytorch-ignite", "numpy", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
