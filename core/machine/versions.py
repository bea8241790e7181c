"""Versions of what matters for reproducing a run."""

from __future__ import annotations

import contextlib

from torchdeck import __version__


def versions() -> dict[str, str]:
    """Versions of what matters for reproducing a run, without importing any of it."""
    import platform
    from importlib import metadata  # it takes longer than all the rest of a list of runs, which needs no versions

    found = {"torchdeck": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "pytorch-ignite", "numpy", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
