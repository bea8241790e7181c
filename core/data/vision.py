"""MNIST and its kin, CIFAR and SVHN: found on disk, or downloaded whole."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from torchdeck.core.data import idx
from torchdeck.core.data.roots import DEBIAN_FASHION, data_roots
from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.errors import UserError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS = tuple("0123456789")
_BALANCED = (*_DIGITS, *_LETTERS, *"abdefghnqrt")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "FashionMNIST": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "MNIST": _DIGITS,
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "SVHN": _DIGITS,
}
_EMNIST_NAMES = {
    "byclass": (*_DIGITS, *_LETTERS, *_LETTERS.lower()),
    "bymerge": _BALANCED,
    "balanced": _BALANCED,
    "letters": tuple(_LETTERS),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}


def load_idx(name: str, root: str | None, download: bool, split: str = "") -> Source:
    """MNIST, FashionMNIST, KMNIST or EMNIST, as uint8 images [N, 1, 28, 28].

    Raises UserError with the folders and mirrors tried when it is nowhere.
    """
    folder = _find_idx(name, root, split)
    if folder is None:
        folder = _download(name, root, download, {"split": split} if split else {}) / name / "raw"
        if not _has_idx(folder, split):
            raise UserError(f"{name} was downloaded to {str(folder)!r}, but its files are not there.")

    def part(which: str) -> Arrays:
        x, y = (idx.read_idx(_idx_file(folder, which, what, split)) for what in ("images-idx3", "labels-idx1"))
        if len(x) != len(y):
            raise UserError(f"{name} in {str(folder)!r} has {len(x):,} images but {len(y):,} labels ({which}).")
        if split:  # EMNIST's images are stored transposed
            x = x.transpose(1, 2).contiguous()
        y = y.long() - (1 if split == "letters" else 0)
        return Arrays(x.unsqueeze(1), y)

    names = _EMNIST_NAMES[split] if split else CLASS_NAMES[name]
    return Source(part("train"), part("t10k"), "classification", True, names, place=str(folder))


def _idx_file(folder: Path, which: str, what: str, split: str) -> Path:
    stem = f"{which}-{what}-ubyte"
    if split:
        stem = f"emnist-{split}-{'train' if which == 'train' else 'test'}-{what}-ubyte"
    plain = folder / stem
    return plain if plain.is_file() else plain.with_name(f"{stem}.gz")


def _has_idx(folder: Path, split: str) -> bool:
    return all(
        _idx_file(folder, which, what, split).is_file()
        for which in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    )


def _find_idx(name: str, root: str | None, split: str) -> Path | None:
    for folder in _idx_folders(name, root):
        if _has_idx(folder, split):
            return folder
    return None


def _idx_folders(name: str, root: str | None) -> list[Path]:
    folders = [folder for base in data_roots(root) for folder in (base / name / "raw", base / name, base)]
    # Files straight in a root could be any of the four; only FashionMNIST's Debian folder is known to be its own.
    folders = [f for f in folders if f.name in (name, "raw")] + ([Path(root).expanduser()] if root else [])
    return folders + ([DEBIAN_FASHION] if name == "FashionMNIST" else [])


def load_torchvision(name: str, root: str | None, download: bool) -> Source:
    """CIFAR10, CIFAR100 or SVHN through torchvision (which verifies the files), as uint8 images [N, C, H, W].

    Raises UserError with the folders and mirrors tried when it is nowhere.
    """
    import torchvision

    cls = getattr(torchvision.datasets, name)

    def parts(folder: Path) -> list[Any]:
        if name == "SVHN":
            return [cls(str(folder), split=s) for s in ("train", "test")]
        return [cls(str(folder), train=t) for t in (True, False)]

    for base in data_roots(root):
        for folder in (base, base / name):
            with contextlib.suppress(RuntimeError):  # "Dataset not found or corrupted"
                return _from_torchvision(name, parts(folder), folder)
    folder = _download(name, root, download, {}) / name
    return _from_torchvision(name, parts(folder), folder)


def _from_torchvision(name: str, parts: list[Any], folder: Path) -> Source:
    def arrays(dataset: Any) -> Arrays:
        x = torch.from_numpy(dataset.data)
        if name != "SVHN":
            x = x.permute(0, 3, 1, 2).contiguous()
        labels = dataset.labels if name == "SVHN" else dataset.targets
        return Arrays(x, torch.as_tensor(labels).long())

    train, test = (arrays(p) for p in parts)
    names = CLASS_NAMES.get(name) or tuple(parts[0].classes)
    return Source(train, test, "classification", True, names, place=str(folder))


def _download(name: str, root: str | None, allowed: bool, extra: dict[str, Any]) -> Path:
    """Download into a folder beside the goal and rename it, so that a half download never looks whole."""
    import torchvision

    bases = data_roots(root)
    looked = ", ".join(repr(str(f)) for f in ([*_idx_folders(name, root)] if name.endswith("MNIST") else bases))
    if not allowed:
        raise UserError(f"{name} was not found; looked in {looked} (data.download is false).")
    base = bases[-1]
    cls = getattr(torchvision.datasets, name)
    try:
        base.mkdir(parents=True, exist_ok=True)
        for leftover in base.glob(f".download-{name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".download-{name}-", dir=base))
    except OSError as error:
        raise UserError(
            f"{name} was not found in {looked}, and {str(base)!r} can't be written: {error.strerror}."
        ) from None
    try:
        goal = work if name.endswith("MNIST") else work / name
        with _network_timeout(30):
            for which in [{"split": "train"}, {"split": "test"}] if name == "SVHN" else [{}]:
                cls(str(goal), download=True, **which, **extra)
        target = base / name
        if target.exists():
            shutil.rmtree(target)
        (work / name).replace(target)
        return base
    except (OSError, RuntimeError) as error:
        mirrors = getattr(cls, "mirrors", None) or [getattr(cls, "url", None) or "torchvision's mirror"]
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name} was not found in {looked}, and could not be downloaded from {', '.join(map(str, mirrors))} "
            f"({reason}). Copy it into one of those folders, or set data.root."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    old = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(old)
