"""What is predicted for, read from files, folders and stdin by the code that reads training data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from torchdeck.core.data import arrays, table_files
from torchdeck.core.data.folders import files_below
from torchdeck.core.data.source import Arrays, Part, Samples
from torchdeck.core.data.tables import rows_for
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.trained import Trained

#: Images that are read ahead of their predictions.
_AT_ONCE = 4096


class InputReader:
    """Inputs as parts of data, those that follow each other and are of one kind together."""

    def __init__(self, trained: Trained, stdin: BinaryIO, tell: Callable[[str], None]) -> None:
        self._info = trained.info
        self._detects = trained.info.task == "detection"
        self._image = self._detects or len(trained.info.input_shape) == 3
        self._stdin, self._tell = stdin, tell

    def read(self, inputs: Sequence[str]) -> Iterator[tuple[list[str], Part, bool]]:
        """What each sample is called, the samples, and whether they are images."""
        waiting: list[tuple[Any, str]] = []
        for name, source in (one for text in inputs for one in self.found(text)):
            if self._is_image(name, source):
                waiting.append((source, name))
                if len(waiting) == _AT_ONCE:
                    yield self._images(waiting)
                    waiting = []
                continue
            if waiting:
                yield self._images(waiting)
                waiting = []
            yield self._array(name) if Path(name).suffix.lower() in (".npy", ".npz") else self._table(name, source)
        if waiting:
            yield self._images(waiting)

    def found(self, text: str) -> Iterator[tuple[str, Any]]:
        """The files that are meant, each with what can be opened."""
        if text == "-":
            data = self._stdin.read()
            if not data.strip():
                raise UserError("stdin is empty; give it an image or a CSV table.")
            yield "stdin", data
            return
        path = Path(text).expanduser()
        if not path.exists():
            raise UserError(f"There is no file {text!r}.")
        if not path.is_dir():
            yield str(path), str(path)
            return
        for one in self._below(path, text):
            yield str(one), str(one)

    def _below(self, folder: Path, text: str) -> list[Path]:
        if self._image:
            from torchdeck.core.data.images import SUFFIXES, images_below

            suffixes: Sequence[str] = SUFFIXES
            found, what = images_below(folder), "image"
        else:
            found = sorted(p for p in files_below(folder) if p.suffix.lower() in table_files.SUFFIXES and p.is_file())
            what, suffixes = "table", table_files.SUFFIXES
        if not found:
            raise UserError(f"{text!r} holds no {what} ({', '.join(suffixes[:4])} ...).")
        return found

    def _is_image(self, name: str, source: Any) -> bool:
        if isinstance(source, bytes):
            return self._image and not _looks_like_table(source)
        return self._image and Path(name).suffix.lower() not in (*table_files.SUFFIXES, ".npy", ".npz")

    def _images(self, files: list[tuple[Any, str]]) -> tuple[list[str], Part, bool]:
        from torchdeck.core.data.images import Images

        opened = [(io.BytesIO(f) if isinstance(f, bytes) else f, name) for f, name in files]
        mode = "RGBA" if self._info.input_shape[:1] == (4,) else "RGB"
        return [name for _, name in files], Samples(Images(opened, mode)), True

    def _array(self, name: str) -> tuple[list[str], Part, bool]:
        raw = arrays.first_inputs(arrays.read_arrays(Path(name)), name)
        shape = self._info.input_shape
        if not self._image and raw.shape[1:] == shape and raw.dtype.kind in "fiu":  # sequences are no images
            return [f"{name}[{i}]" for i in range(len(raw))], arrays_of(raw), False
        wanted = 4 if self._detects else len(shape) + 1
        if raw.ndim == wanted - 1 and not (wanted == 4 and raw.shape[1:] == shape[1:]):
            raw = raw[None]  # a single sample
        x = arrays.inputs_of(raw, name)
        if x.ndim != wanted:
            raise UserError(f"{name!r} has the shape {list(raw.shape)}; the model takes {list(shape) or 'images'}.")
        return [f"{name}[{i}]" for i in range(len(x))], Arrays(x, torch.zeros(len(x))), self._image

    def _table(self, name: str, source: Any) -> tuple[list[str], Part, bool]:
        shape, features = self._info.input_shape, self._info.feature_names
        width = torch.Size(shape).numel()
        read = (
            table_files.parse_table(source, name, features)
            if isinstance(source, bytes)
            else table_files.read_table(Path(name), features)
        )
        x, notes = rows_for(read, features, width)
        for note in (*read.notes, *notes):
            self._tell(note)
        x = x.reshape(-1, *shape)
        if self._info.integer:
            x = x.long()
        return [f"{name} row {row}" for row in read.rows], Arrays(x, torch.zeros(len(x))), self._image


def _looks_like_table(data: bytes) -> bool:
    try:
        first = data[:4096].decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return "," in first or "\n" in first.strip()


def arrays_of(raw: Any) -> Arrays:
    """Inputs [N, ...] as they are: floats as float32, whole numbers as int64."""
    x = torch.from_numpy(raw.astype("float32" if raw.dtype.kind == "f" else "int64"))
    return Arrays(x, torch.zeros(len(x)))
