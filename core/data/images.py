"""Image files: one decoder for training, evaluation and prediction, and folders of them by class."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from torchdeck.core.data.folders import files_below, ignored
from torchdeck.core.data.source import Part, Samples, Source
from torchdeck.core.errors import UserError, count, first_line
from torchdeck.core.text import quoted

#: What file names of images end with: torchvision's, and what Pillow reads beside them.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

#: Pixels of an image, at most: a few kilobytes may claim to be a picture of gigabytes.
_PIXELS = 200_000_000

#: Folders that hold the parts of a data set, by what they are called.
_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


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
    except UserError:
        raise
    except Exception as error:  # what Pillow's readers raise of damaged files is of every kind
        raise UserError(f"{name!r} can't be read as an image: {first_line(error)}.") from None


def _deep(picture: Any, kind: str, name: str, channels: int) -> torch.Tensor:
    """A grey image of more than 8 bits a pixel. PNG has 16 at most, also where Pillow calls it one of 32."""
    values = np.asarray(picture)
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM"))):
        raise UserError(f"{name!r} has 32 bits a pixel, whose range of values is not known; save it with 8 or 16 bits.")
    grey = torch.from_numpy(values.astype(np.float32)) / 65535
    colours = grey.expand(min(channels, 3), *grey.shape)
    return torch.cat([colours, torch.ones(1, *grey.shape)]) if channels == 4 else colours.contiguous()


class Images(Dataset):
    """Image files one after the other, without targets."""

    #: Its images are those of ``decode``.
    decodes = True

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

    decodes = True

    def __init__(self, root: Path, mode: str, classes: Sequence[str] | None = None) -> None:
        self._wanted = classes
        self._root = root
        super().__init__(
            str(root),
            loader=functools.partial(_load, mode=mode),
            is_valid_file=self._is_image,
            allow_empty=classes is not None,
        )

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
        raise UserError(f"data.args.path = {path!r} is not a folder.", field="data.args.path")
    try:
        inside = {part: _subfolder(folder, names) for part, names in _PARTS.items()}
        if inside["train"] is None:
            _refuse_parts_alone(folder, [found for found in inside.values() if found is not None])
        train = _Folder(inside["train"] or folder, mode)
        parts: dict[str, Part | None] = {"val": None, "test": None}
        if inside["train"] is not None:
            parts = {part: _part(inside[part], mode, train.classes) for part in parts}
        used = [found for found in inside.values() if found is not None] if inside["train"] is not None else [folder]
        notes = _left_out(folder, used, parts)
    except OSError as error:
        reason = str(error.strerror or error).splitlines()[0]
        raise UserError(f"data.args.path = {path!r}: {reason.rstrip('. ')}.", field="data.args.path") from None
    return Source(
        _samples(train),
        parts["test"],
        "classification",
        True,
        tuple(train.classes),
        place=str(folder),
        val=parts["val"],
        notes=notes,
    )


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    there = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    return next((there[name] for name in names if name in there), None)


def _refuse_parts_alone(folder: Path, parts: Sequence[Path]) -> None:
    """Folders called val and test are no classes."""
    others = [e for e in folder.iterdir() if e.is_dir() and not ignored(e.name) and e not in parts]
    if parts and not others:
        raise UserError(
            f"data.args.path = {str(folder)!r} holds {quoted([p.name for p in parts])} but no 'train'; give the folder "
            f"that is meant, such as {str(parts[0])!r}.",
            field="data.args.path",
        )


def _part(folder: Path | None, mode: str, classes: Sequence[str]) -> Samples | None:
    if folder is None:
        return None
    found = _Folder(folder, mode, classes)
    return _samples(found) if len(found) else None


def _samples(folder: _Folder) -> Samples:
    return Samples(folder, torch.tensor(folder.targets))


def _left_out(folder: Path, used: Sequence[Path], parts: dict[str, Part | None]) -> tuple[str, ...]:
    """What lies in the folder and is not used, in sentences; what is hidden, or left by tools, is not worth a word."""
    notes = []
    if used != [folder]:
        others = sorted(e.name for e in folder.iterdir() if e.is_dir() and not ignored(e.name) and e not in used)
        if others:
            notes.append(
                f"Folders in {str(folder)!r} beside {quoted([u.name for u in used])} are left out: {quoted(others)}."
            )
        empty = [
            u.name
            for u in used
            for part, names in _PARTS.items()
            if u.name.lower() in names and part in parts and parts[part] is None
        ]
        notes += [f"{str(folder / name)!r} holds no image." for name in empty]
    for root in used:
        stray = [f.name for f in root.iterdir() if f.is_file() and _looks_like_image(f.name)]
        if stray:
            verb = "lies" if len(stray) == 1 else "lie"
            notes.append(
                f"{count(len(stray), 'image')} in {str(root)!r} {verb} beside the folders of the classes and are "
                f"left out."
            )
        suffixes = _other_suffixes(root)
        if suffixes:
            notes.append(
                f"{count(suffixes.total(), 'file')} below {str(root)!r} left out, whose names are not those of images: "
                f"{', '.join(sorted(suffixes)[:6])}."
            )
    return tuple(notes)


def _looks_like_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not ignored(name)


def _other_suffixes(root: Path) -> Counter[str]:
    """How many files in the folders of classes are no images by their names, by what these end with."""
    found: Counter[str] = Counter()
    for kind in root.iterdir():
        if kind.is_dir() and not ignored(kind.name):
            found.update(f.suffix or f.name for f in files_below(kind) if not _looks_like_image(f.name))
    return found


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, but for hidden ones, in the order of their paths."""
    return sorted(p for p in files_below(folder) if _looks_like_image(p.name) and p.is_file())
