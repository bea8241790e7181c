"""Whether data are the very same as others, wherever they lie: a fingerprint of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from torchdeck.core import usercode
from torchdeck.core.data.items import tensors_in
from torchdeck.core.data.probe import equal, seeded, states
from torchdeck.core.data.source import Arrays, Part, Source

#: Bytes of an array that are looked at (all rows, or some of them), and files whose size is.
_BYTES, _FILES = 2**24, 10_000


def fingerprint(source: Source) -> str:
    """A hash of the samples: targets and rows of arrays (some of large ones), paths and sizes of image files, lengths
    and some samples of data sets that give the same whenever they are read."""
    made = hashlib.blake2b(digest_size=16)
    for name, part in source.parts.items():
        made.update(f"{name} {len(part)} {source.task} {source.class_names}".encode())
        for piece in _pieces(part):
            made.update(piece)
    return made.hexdigest()


def fingerprint_of(items: list[Any]) -> str:
    """A hash of the content of some samples."""
    made = hashlib.blake2b(digest_size=16)
    for piece in _content(items):
        made.update(piece)
    return made.hexdigest()


def _pieces(part: Part) -> Iterator[bytes]:
    if part.targets is not None:
        yield _bytes(part.targets)
    if isinstance(part, Arrays):
        for x in tensors_in(part.x):
            step = -(-x.nbytes // _BYTES) or 1
            yield str((tuple(x.shape), x.dtype)).encode()
            yield _bytes(x[::step])
        return
    files = getattr(part.dataset, "samples", None)
    root = getattr(part.dataset, "root", None)
    if isinstance(files, list) and isinstance(root, str):
        for path, _ in files[:_FILES]:
            yield f"{Path(path).relative_to(root)} {Path(path).stat().st_size}".encode()
        yield "\n".join(str(Path(path).relative_to(root)) for path, _ in files[_FILES:]).encode()
        return
    yield from _samples(part.dataset, len(part))


def _samples(dataset: Any, length: int) -> Iterator[bytes]:
    """The first, the middle and the last sample; nothing where they are drawn at random, or can't be read, which is
    told when they are needed."""
    some = sorted({0, length // 2, length - 1})
    with seeded(0):
        before = states()
        try:
            with usercode.user_errors():
                found = [dataset[index] for index in some]
                again = [dataset[index] for index in some]
                steady = equal(found, again)
        except Exception:
            return
        if not steady or states() != before:
            return
    yield from _content(found)


def _content(value: Any) -> Iterator[bytes]:
    """What can be told of a value alike in every process."""
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        for one in value:
            yield from _content(one)
    elif isinstance(value, torch.Tensor) and value.layout == torch.strided:
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, str | bytes | int | float | None):
        yield repr(value).encode()
    elif hasattr(value, "tobytes") and getattr(getattr(value, "dtype", None), "kind", "") != "O":  # arrays and pictures
        yield value.tobytes()
    else:
        yield type(value).__name__.encode()


def _bytes(values: torch.Tensor) -> bytes:
    flat = values.detach().cpu().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
