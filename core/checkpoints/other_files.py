"""Files of weights that are no pickles: safetensors, and NumPy's arrays."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchdeck.core.checkpoints.pickled import DTYPES
from torchdeck.core.checkpoints.pickles import Unreadable
from torchdeck.core.checkpoints.stored import Stored, shape_of, word
from torchdeck.core.checkpoints.tensors import StoredTensor
from torchdeck.core.checkpoints.torch_files import start_of
from torchdeck.core.text import printable

#: Bytes of a safetensors header, at most (the format's own limit).
HEADER = 100_000_000


_SAFE = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def safetensors(path: Path, file: BinaryIO, size: int) -> Stored:
    """huggingface.co/docs/safetensors: length of the header (8 bytes), JSON, then the tensors without gaps."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(HEADER, size - 8):
        raise Unreadable("it is no safetensors file, or was cut off: its header would be longer than the file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise Unreadable("the header of the safetensors file is not JSON") from None
    if not isinstance(header, dict):
        raise Unreadable("the header of the safetensors file is not a table")
    metadata = header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        try:
            shape, dtype, (begin, end) = (
                shape_of(entry["shape"]),
                _SAFE.get(entry["dtype"], entry["dtype"]),
                entry["data_offsets"],
            )
            assert shape is not None and isinstance(dtype, str) and isinstance(begin, int) and isinstance(end, int)
        except (KeyError, TypeError, ValueError, AssertionError):
            raise Unreadable(f"the entry {word(name)!r} of the safetensors header is malformed") from None
        width = DTYPES.get(dtype, (0, ""))[0]
        if not 0 <= begin <= end <= size - 8 - length or (width and end - begin != math.prod(shape) * width):
            raise Unreadable(f"the tensor {word(name)!r} does not lie where the header says; the file may be cut off")
        tensors.append(
            StoredTensor(word(name), shape, dtype, path, 8 + length + begin, (), (end - begin) // max(width, 1))
        )
    tensors.sort(key=lambda t: t.offset or 0)
    tensors += _tied(metadata, tensors)
    contents = [(word(k), printable(str(v)[:200])) for k, v in metadata.items()] if isinstance(metadata, dict) else []
    return Stored(path, "safetensors", size, tuple(tensors), tuple(contents))


def _tied(metadata: Any, tensors: list[StoredTensor]) -> list[StoredTensor]:
    """Tensors that safetensors.torch.save_model left out because they share their memory with another: the metadata
    name the one that was kept for each."""
    kept = {t.name: t for t in tensors}
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return [
        replace(kept[to], name=word(name))
        for name, to in pairs
        if name != "format" and isinstance(to, str) and to in kept and word(name) not in kept
    ]


def npy_header(file: Any, path: Path, name: str, start: int, room: int) -> StoredTensor:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    known = next((n for n, (w, k) in DTYPES.items() if np.dtype(k) == dtype and n not in ("bfloat16",)), None)
    if known is None or fortran:
        return StoredTensor(word(name), shape, "object" if dtype.hasobject else dtype.name)
    return StoredTensor(word(name), shape, known, path, start + file.tell(), (), (room - file.tell()) // dtype.itemsize)


def npy_in_zip(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: BinaryIO) -> StoredTensor:
    with archive.open(info) as member:
        tensor = npy_header(
            io.BytesIO(member.read(1 << 16)), path, info.filename.removesuffix(".npy"), 0, info.file_size
        )
    if tensor.offset is None or info.compress_type != zipfile.ZIP_STORED:
        return replace(tensor, file=None, offset=None)
    return replace(tensor, offset=start_of(archive, info) + tensor.offset)


def npy_calls(found: list[StoredTensor]) -> dict[str, Any]:
    objects = [t.name for t in found if t.dtype == "object"]
    if not objects:
        return {}
    calls = tuple(f"a pickle of Python objects in the array {name!r}" for name in objects)
    return {"calls": calls, "dangerous": ("a pickle of Python objects",)}
