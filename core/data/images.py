"""Image files: one decoder for training, evaluation and prediction, and folders of them by class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from core.data.source import Part, Samples, Source
from core.errors import UserError, count

#: What file names of images end with: torchvision's, and what Pillow reads beside them.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

#: Pixels of an image, at most: a few kilobytes may claim to be a picture of gigabytes.
_PIXELS = 200_000_000

#: Folders and files that systems and tools leave everywhere.
_LEFT_BY_TOOLS = {"__macosx", "__pycache__", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
                  "lost+found", "@eadir"}  # fmt: skip

#: Folders that hold the parts of a data set, by what they are called.
_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def ignored(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or one that systems and tools leave everywhere."""
    return name.startswith(".") or name.lower() in _LEFT_BY_TOOLS


def decode(file: str | Path | BinaryIO, name: str, mode: str = "RGB") -> Any:
    """An image as PIL's ``mode``, upright by its EXIF orientation; one of 16 bits a pixel as float [C, H, W], 0 to 1.

    Alpha is dropped and palettes are looked up as ``Image.convert`` does it, as in torchvision's own loader.

    Raises UserError, naming the file, when it can't be read, or its range of values can't be known.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > _PIXELS:
                raise UserError(f"{name!r} has {opened.width:,} x {opened.height:,} pixels, more than {_PIXELS:,}.")
            picture: Any = ImageOps.exif_transpose(opened)
            if picture.mode == "F" or picture.mode.startswith("I"):
                return _deep(picture, opened.format or "", name, len(mode))
            return picture.convert(mode)
    except UnidentifiedImageError:
        raise UserError(f"{name!r} can't be read as an image: it is no image.") from None
    except FileNotFoundError:
        raise UserError(f"There is no file {name!r}.") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name!r} can't be read as an image: {reason.rstrip('.')}.") from None


def _deep(picture: Any, kind: str, name: str, channels: int) -> torch.Tensor:
    """A grey image of more than 8 bits a pixel. PNG has 16 at most, also where Pillow calls it one of 32."""
    values = np.asarray(picture)
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM"))):
        raise UserError(f"{name!r} has 32 bits a pixel, whose range of values is not known; save it with 8 or 16 bits.")
    grey = torch.from_numpy(values.astype(np.float32)) / 65535
    return grey.expand(channels, *grey.shape).contiguous()


class Images(Dataset):
    """Image files one after the other, without targets."""

    def __init__(self, files: Sequence[tuple[str | BinaryIO, str]], mode: str) -> None:
        """``files``: what to open, and what it is called."""
        self._files, self._mode = files, mode

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, name = self._files[index]
        return decode(file, name, self._mode), 0


class _Folder(ImageFolder):
    """torchvision's ImageFolder with our decoder, without what is hidden, and with the classes of the training."""

    def __init__(self, root: Path, mode: str, classes: Sequence[str] | None = None) -> None:
        self._wanted = classes
        self._root = root
        super().__init__(str(root), loader=functools.partial(_load, mode=mode), is_valid_file=self._is_image,
                         allow_empty=classes is not None)  # fmt: skip

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The folders that are classes, in the order of the training's, or of their names."""
        found = sorted(entry.name for entry in Path(directory).iterdir() if entry.is_dir() and not ignored(entry.name))
        if self._wanted is None:
            return found, {name: number for number, name in enumerate(found)}
        unknown = next((name for name in found if name not in self._wanted), None)
        if unknown is not None:
            raise UserError(f"{directory!r} has the class folder {unknown!r}, which the training set lacks.")
        return list(self._wanted), {name: number for number, name in enumerate(self._wanted)}

    def _is_image(self, path: str) -> bool:
        below = Path(path).relative_to(self._root).parts
        return path.lower().endswith(SUFFIXES) and not any(map(ignored, below))


def _load(path: str, mode: str) -> Any:
    return decode(path, path, mode)


def load_folder(path: str, mode: str = "RGB") -> Source:
    """Images in one folder per class; ``train``, ``val`` and ``test`` below ``path`` are the parts as they are.

    Raises UserError when there is no such folder, no class folder in it or no image in one.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.args.path = {path!r} is not a folder.")
    try:
        inside = {part: _subfolder(folder, names) for part, names in _PARTS.items()}
        train = _Folder(inside["train"] or folder, mode)
        if not train.classes:
            raise UserError(f"data.args.path = {path!r} has no folder in it; one folder of images per class is needed.")
        parts: dict[str, Part | None] = {"val": None, "test": None}
        if inside["train"] is not None:
            parts = {part: _part(inside[part], mode, train.classes) for part in parts}
        notes = _left_out(inside["train"] or folder)
    except OSError as error:
        reason = str(error.strerror or error).splitlines()[0]
        raise UserError(f"data.args.path = {path!r}: {reason.rstrip('.')}.") from None
    return Source(_samples(train), parts["test"], "classification", True, tuple(train.classes), place=str(folder),
                  val=parts["val"], notes=notes)  # fmt: skip


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _part(folder: Path | None, mode: str, classes: Sequence[str]) -> Samples | None:
    if folder is None:
        return None
    found = _Folder(folder, mode, classes)
    return _samples(found) if len(found) else None


def _samples(folder: _Folder) -> Samples:
    return Samples(folder, torch.tensor(folder.targets))


def _left_out(folder: Path) -> tuple[str, ...]:
    """Images that lie beside the folders of the classes."""
    stray = [
        f.name for f in folder.iterdir() if f.is_file() and f.name.lower().endswith(SUFFIXES) and not ignored(f.name)
    ]
    if not stray:
        return ()
    verb = "lies" if len(stray) == 1 else "lie"
    return (
        f"{count(len(stray), 'image')} in {str(folder)!r} {verb} beside the folders of the classes and are left out.",
    )


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, but for hidden ones, in the order of their paths."""
    return sorted(
        p for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not any(map(ignored, p.relative_to(folder).parts)) and p.is_file()
    )  # fmt: skip
