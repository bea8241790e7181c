"""Files of weights, opened without running or loading them: what kind they are, their tensors, and what else they hold.

torch.save's zip archives and its older format, TorchScript, safetensors, Lightning's checkpoints, sharded weights of
Hugging Face, NumPy's .npz and .npy. A few kilobytes of directory and pickle are read; tensors stay on the disk.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.checkpoints import pickles
from core.checkpoints.pickles import DTYPES, Call, Global, Persistent, Pickle, Unreadable, brief, walk
from core.checkpoints.tensors import StoredTensor
from core.errors import UserError
from core.text import printable

#: Bytes of a pickle, and of a safetensors header, that are read at most (the format's own limit).
_PICKLE, _HEADER = 128 << 20, 100_000_000
#: torch/serialization.py, _legacy_save.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

#: File names that may hold weights.
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pt2", ".npz", ".npy", ".pkl", ".pickle", ".th", ".tar",
            ".index.json")  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A file that was looked into."""

    path: Path
    #: torch zip, torch legacy, safetensors, TorchScript, npz ...
    format: str
    size: int
    tensors: tuple[StoredTensor, ...]
    #: What else is inside, by key, in a few words each; of ours also epoch, step, metrics.
    contents: tuple[tuple[str, str], ...] = ()
    #: The experiment as TOML, in a checkpoint of ours.
    experiment: str = ""
    #: What it would call when really unpickled, beside what makes tensors; in words.
    calls: tuple[str, ...] = ()
    #: What of that reaches beyond the file.
    dangerous: tuple[str, ...] = ()
    #: Key under which the model's weights are: "" for the file itself.
    weights_key: str = ""

    @property
    def safe(self) -> bool:
        """Whether unpickling it would make nothing but tensors and plain containers."""
        return not self.calls

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors)

    def weights(self) -> tuple[StoredTensor, ...]:
        """The tensors of the model's state_dict, named as the model names them (without wrappers' prefixes).

        Raises UserError when there is none.
        """
        start = f"{self.weights_key}." if self.weights_key else ""
        found = [replace(t, name=t.name[len(start) :]) for t in self.tensors if t.name.startswith(start)]
        if not found:
            raise UserError(f"{str(self.path)!r} holds no state_dict (names and tensors).")
        return tuple(strip(found))


#: What torch.compile and DistributedDataParallel put before every name (pytorch#101107).
PREFIXES = ("_orig_mod.", "module.")


def strip(tensors: list[StoredTensor], prefixes: Iterable[str] = PREFIXES) -> list[StoredTensor]:
    """Tensors without the prefixes that wrappers put before every name."""
    stripping = True
    while stripping and tensors:
        stripping = False
        for prefix in prefixes:
            if all(t.name.startswith(prefix) and t.name != prefix for t in tensors):
                tensors = [replace(t, name=t.name[len(prefix) :]) for t in tensors]
                stripping = True
    return tensors


def look(path: Path) -> Stored:
    """What is in a file. Nothing in it is run, imported or loaded.

    Raises UserError, in one sentence, when it is missing, damaged, encrypted or of no known kind.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _look(path, file, size)
    except FileNotFoundError:
        raise UserError(f"There is no file {str(path)!r}.") from None
    except IsADirectoryError:
        raise UserError(f"{str(path)!r} is a folder, not a file of weights.") from None
    except Unreadable as error:
        raise UserError(f"{str(path)!r} is damaged or no file of weights: {error}.") from None
    except (
        OSError,
        zipfile.BadZipFile,
        RecursionError,
        MemoryError,
        ValueError,
        struct.error,
        NotImplementedError,
    ) as error:
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
        raise UserError(f"{str(path)!r} can't be read: {reason.rstrip('.')}.") from None


def _look(path: Path, file: BinaryIO, size: int) -> Stored:
    if path.name.endswith(".index.json"):
        return _sharded(path, size)
    head = file.read(64)
    file.seek(0)
    if not head:
        raise Unreadable("it is empty")
    if not any(head) and _all_zero(file):
        raise Unreadable("it holds nothing but zeros")
    if head.startswith(b"PK\x03\x04"):
        return _zip(path, file, size)
    if head.startswith(b"\x93NUMPY"):
        tensor = _npy_header(file, path, path.stem, 0, size)
        return Stored(path, "npy", size, (tensor,), **_npy_calls([tensor]))
    if len(head) >= 9 and head[4:8] == bytes(4) and (path.suffix == ".safetensors" or head[8:9] == b"{"):
        return _safetensors(path, file, size)
    for start, kind in ((b"\x89HDF", "HDF5 file (Keras)"), (b"\x1f\x8b", "gzip file"), (b"\xff\xd8", "JPEG image"),
                        (b"\x89PNG", "PNG image"), (b"BZh", "bzip2 file"), (b"\xfd7zXZ", "xz file"), (b"%PDF", "PDF"),
                        (b"version https://git-lfs", "Git LFS pointer; fetch the file itself with git lfs pull"),
                        (b"GGUF", "GGUF file"), (b"<!", "HTML page"), (b"<html", "HTML page"), (b"\x7fELF", "program")):  # fmt: skip
        if head.startswith(start):
            raise Unreadable(f"it is a {kind}")
    if head[:1] in (b"\x80", b"(", b"}", b"]", b"c", b"I", b"."):
        return _legacy(path, file, size)
    if _is_text(file):
        raise Unreadable("it is a text")
    raise Unreadable("it begins like no format that is known here")


def _all_zero(file: BinaryIO) -> bool:
    data = file.read(1 << 16)
    file.seek(0)
    return not any(data)


def _is_text(file: BinaryIO) -> bool:
    data = file.read(512)
    file.seek(0)
    try:
        return data.decode().isprintable() or b"\n" in data
    except UnicodeDecodeError:
        return False


# --- zip archives ----------------------------------------------------------------------------------------------------


def _zip(path: Path, file: BinaryIO, size: int) -> Stored:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.flag_bits & 1 for info in members.values()):
            raise Unreadable("it is an encrypted zip archive")
        if any(info.file_size < 0 or info.header_offset > size for info in members.values()):
            raise Unreadable("its directory points outside the file")
        pickled = [n for n in members if n == "data.pkl" or n.endswith("/data.pkl")]
        if pickled:
            name = min(pickled, key=len)
            return _torch_zip(path, archive, members, name.removesuffix("data.pkl"), size)
        arrays = [n for n in members if n.endswith(".npy")]
        if arrays:
            found = [_npy_in_zip(path, archive, members[n], file) for n in arrays]
            return Stored(path, "npz", size, tuple(found), **_npy_calls(found))
    listed = ", ".join(list(members)[:3]) or "nothing"
    raise Unreadable(f"it is a zip archive of something else ({brief(listed)})")


def _torch_zip(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], root: str, size: int
) -> Stored:
    pickled = _pickle_in(archive, members[f"{root}data.pkl"])
    order = members.get(f"{root}byteorder")
    if order is not None and archive.open(order).read(16).strip() == b"big":
        raise Unreadable("it was written on a big-endian machine, whose tensors are not read here")

    def place(key: str) -> tuple[int, int] | None:
        info = members.get(f"{root}data/{key}") or members.get(f"{root}tensors/{key}")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            return None
        return _start_of(archive, info), info.file_size

    script = f"{root}constants.pkl" in members or any(n.startswith(f"{root}code/") for n in members)
    return _stored(path, "TorchScript" if script else "torch zip", size, pickled, place, script)


def _pickle_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Pickle:
    """Read with a limit: what is packed may be a million times as large as the file."""
    if info.file_size > _PICKLE:
        raise Unreadable(f"its pickle has {info.file_size:,} bytes, more than any file of tensors needs")
    with archive.open(info) as member:
        data = member.read(_PICKLE + 1)
    return pickles.read(io.BytesIO(data))


def _start_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose extra field differs from the directory's."""
    file: Any = archive.fp
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Unreadable("a member of the archive is not where its directory says")
    names, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + names + extra


# --- torch's older format --------------------------------------------------------------------------------------------


def _legacy(path: Path, file: BinaryIO, size: int) -> Stored:
    limited: Any = _Limited(file, min(size, _PICKLE))
    first = pickles.read(limited)
    if first.value != _MAGIC:
        # No file of torch.save: still told apart, for instance a model pickled by hand.
        return _stored(path, "pickle", size, first, lambda key: None)
    protocol, _, pickled, keys = (pickles.read(limited) for _ in range(4))
    if protocol.value != _PROTOCOL:
        raise Unreadable(f"its protocol is {brief(protocol.value)}, not {_PROTOCOL}")
    sizes = {str(s.key): s.dtype_size for s in _storages(pickled.value)}
    at, places = file.tell(), {}
    for key in keys.value if isinstance(keys.value, list) else ():
        file.seek(at)
        count = file.read(8)
        width = sizes.get(str(key))
        if width is None:
            raise Unreadable("it lists a storage that no tensor has")
        if len(count) < 8:
            raise Unreadable("it ends before its tensors do")
        length = struct.unpack("<q", count)[0] * width
        if length < 0 or at + 8 + length > size:
            raise Unreadable("it ends before its tensors do")
        places[str(key)] = (at + 8, length)
        at += 8 + length
    return _stored(path, "torch legacy", size, pickled, places.get)


class _Limited(io.RawIOBase):
    """A file of which no more than so many bytes are given out."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or what is left of the limit."""
        left = self._limit - self._file.tell()
        return self._file.read(max(0, left if size < 0 else min(size, left)))

    def readline(self, size: int | None = -1) -> bytes:
        """A line within the limit."""
        return self._file.readline(max(0, self._limit - self._file.tell()))

    def tell(self) -> int:
        """Where the file is."""
        return self._file.tell()


# --- what a pickle of torch's holds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    #: Elements.
    count: int

    @property
    def dtype_size(self) -> int:
        return DTYPES.get(self.dtype, (1, ""))[0]


_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "UntypedStorage": "uint8",
}  # fmt: skip


def _storage(value: Any) -> _Storage | None:
    """The storage that a persistent id names: ("storage", type, key, location, elements)."""
    if not isinstance(value, Persistent) or not isinstance(value.id, tuple) or len(value.id) < 5:
        return None
    word, kind, key, _, count = value.id[:5]
    if word != "storage" or not isinstance(kind, Global) or not isinstance(count, int) or count < 0:
        return None
    return _Storage(str(key), _STORAGES.get(kind.name, kind.name.lower()), count)


def _storages(value: Any) -> list[_Storage]:
    found: dict[str, _Storage] = {}
    for _, one in walk(value):
        if isinstance(one, Call):
            for argument in one.arguments:
                if (storage := _storage(argument)) is not None:
                    found[storage.key] = storage
                if isinstance(argument, Call):
                    found |= {s.key: s for a in argument.arguments if (s := _storage(a)) is not None}
    return list(found.values())


def _tensor(call: Call, name: str, path: Path, place: Any) -> StoredTensor | None:
    """The tensor that a call would make; None for a call that makes none."""
    function = call.name.rpartition(".")[2]
    a = call.arguments
    if call.name.endswith(("Parameter._make", "parameter.Parameter")) or function.startswith("_rebuild_parameter"):
        inner = a[0] if a else None
        return (
            replace(made, kind="parameter")
            if isinstance(inner, Call) and (made := _tensor(inner, name, path, place))
            else None
        )
    if function == "_rebuild_from_type_v2" and len(a) >= 3 and isinstance(a[2], tuple):
        return _tensor(Call(a[0], a[2]), name, path, place)
    if function == "_rebuild_meta_tensor_no_storage" and len(a) >= 2:
        shape = _shape(a[1])
        dtype = a[0].name if isinstance(a[0], Global) else "?"
        return None if shape is None else StoredTensor(name, shape, dtype)
    if (
        not function.startswith(("_rebuild_tensor", "_rebuild_qtensor"))
        or not call.name.startswith("torch._utils.")
        or len(a) < 4
    ):
        return None
    storage, shape, stride = _storage(a[0]), _shape(a[2]), _shape(a[3])
    if storage is None or shape is None or stride is None or len(shape) != len(stride) or not isinstance(a[1], int):
        return None
    dtype = storage.dtype
    if function == "_rebuild_tensor_v3" and len(a) >= 7 and isinstance(a[6], Global):
        dtype = a[6].name
    width = DTYPES.get(dtype, (0, ""))[0]
    found = place(storage.key)
    if found is None or not width or a[1] < 0:
        return StoredTensor(name, shape, dtype)
    start, length = found
    return StoredTensor(name, shape, dtype, path, start + a[1] * width, stride, length // width - a[1])


def _shape(value: Any) -> tuple[int, ...] | None:
    if (
        isinstance(value, list | tuple)
        and len(value) <= 64
        and all(isinstance(v, int) and 0 <= v < 1 << 62 for v in value)
    ):
        return tuple(value)
    return None


def _stored(path: Path, format: str, size: int, pickled: Pickle, place: Any, script: bool = False) -> Stored:
    tensors: list[StoredTensor] = []
    for where, value in walk(pickled.value):
        if isinstance(value, Call):
            names = [_word(part) for part in where if part not in ("_modules", "_parameters", "_buffers")]
            tensor = _tensor(value, ".".join(names), path, place)
            if tensor is not None:
                kind = "buffer" if "_buffers" in where else "parameter" if "_parameters" in where else tensor.kind
                tensors.append(replace(tensor, kind=kind))
    value = pickled.value
    top = value if isinstance(value, dict) else {}
    foreign = [] if script else pickled.foreign()
    calls = [brief(call) for call in pickled.suspects()] if not script else []
    named = {str(call.function) for call in pickled.suspects()}
    calls += [f"{g} (named, handed on)" for g in foreign if str(g) not in named]
    ours = "torchdeck" in top
    if isinstance(value, Call) and not script:
        format = f"{format}, whole model {value.name}"
    elif ours:
        format = f"{format}, checkpoint of torchdeck"
    elif "pytorch-lightning_version" in top:
        format = f"{format}, checkpoint of Lightning {_word(top['pytorch-lightning_version'])}"
    experiment = top.get("experiment") if ours else ""
    return Stored(
        path, format, size, tuple(tensors), tuple(_contents(top)), experiment if isinstance(experiment, str) else "",
        tuple(dict.fromkeys(calls)), tuple(str(g) for g in ([] if script else pickled.dangerous())), _weights_key(top, ours),
    )  # fmt: skip


def _weights_key(top: dict[Any, Any], ours: bool) -> str:
    """Where the model's state_dict is; averaged weights (EMA) come first, as in evaluation and export."""
    if ours:
        ema = top.get("ema")
        return "ema.model" if isinstance(ema, dict) and isinstance(ema.get("model"), dict) else "model"
    for key in ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "params", "weights"):
        if isinstance(top.get(key), dict) and top[key]:
            return key
    return ""


def _word(part: Any) -> str:
    return printable(part if isinstance(part, str) else brief(part, 0))


def _contents(top: dict[Any, Any]) -> list[tuple[str, str]]:
    """Everything at the top that is no tensor."""
    found: list[tuple[str, str]] = []
    for key, value in top.items():
        if len(found) >= 100:
            found.append(("…", f"{len(top) - 100:,} more"))
            break
        if isinstance(value, Call) and value.name.startswith("torch._utils._rebuild"):
            continue
        if key == "experiment" and isinstance(value, str):
            continue
        words = brief(value)
        if isinstance(value, dict) and value:
            plain = {k: v for k, v in value.items() if isinstance(v, bool | int | float | str | type(None))}
            if len(plain) == len(value) and len(value) <= 8:
                words = ", ".join(f"{_word(k)} {brief(v)}" for k, v in value.items())
        found.append((_word(key), printable(words)))
    return found


# --- safetensors, NumPy, shards --------------------------------------------------------------------------------------

_SAFE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def _safetensors(path: Path, file: BinaryIO, size: int) -> Stored:
    """huggingface.co/docs/safetensors: length of the header (8 bytes), JSON, then the tensors without gaps."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(_HEADER, size - 8):
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
                _shape(entry["shape"]),
                _SAFE.get(entry["dtype"], entry["dtype"]),
                entry["data_offsets"],
            )
            assert shape is not None and isinstance(dtype, str) and isinstance(begin, int) and isinstance(end, int)
        except (KeyError, TypeError, ValueError, AssertionError):
            raise Unreadable(f"the entry {_word(name)!r} of the safetensors header is malformed") from None
        width = DTYPES.get(dtype, (0, ""))[0]
        if not 0 <= begin <= end <= size - 8 - length or (width and end - begin != math.prod(shape) * width):
            raise Unreadable(f"the tensor {_word(name)!r} does not lie where the header says; the file may be cut off")
        tensors.append(
            StoredTensor(_word(name), shape, dtype, path, 8 + length + begin, (), (end - begin) // max(width, 1))
        )
    tensors.sort(key=lambda t: t.offset or 0)
    contents = [(_word(k), printable(str(v)[:200])) for k, v in metadata.items()] if isinstance(metadata, dict) else []
    return Stored(path, "safetensors", size, tuple(tensors), tuple(contents))


def _npy_header(file: Any, path: Path, name: str, start: int, room: int) -> StoredTensor:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    known = next((n for n, (w, k) in DTYPES.items() if np.dtype(k) == dtype and n not in ("bfloat16",)), None)
    if known is None or fortran:
        return StoredTensor(_word(name), shape, "object" if dtype.hasobject else dtype.name)
    return StoredTensor(
        _word(name), shape, known, path, start + file.tell(), (), (room - file.tell()) // dtype.itemsize
    )


def _npy_in_zip(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: BinaryIO) -> StoredTensor:
    with archive.open(info) as member:
        tensor = _npy_header(
            io.BytesIO(member.read(1 << 16)), path, info.filename.removesuffix(".npy"), 0, info.file_size
        )
    if tensor.offset is None or info.compress_type != zipfile.ZIP_STORED:
        return replace(tensor, file=None, offset=None)
    return replace(tensor, offset=_start_of(archive, info) + tensor.offset)


def _npy_calls(found: list[StoredTensor]) -> dict[str, Any]:
    objects = [t.name for t in found if t.dtype == "object"]
    if not objects:
        return {}
    calls = tuple(f"a pickle of Python objects in the array {name!r}" for name in objects)
    return {"calls": calls, "dangerous": ("a pickle of Python objects",)}


def _sharded(path: Path, size: int) -> Stored:
    """Weights in several files (Hugging Face): the index names them."""
    if size > _HEADER:
        raise Unreadable("the index is longer than any index is")
    try:
        names = json.loads(path.read_bytes())["weight_map"]
        files = sorted({str(v) for v in names.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unreadable("it is no index of sharded weights") from None
    if any(Path(name).name != name for name in files):
        raise Unreadable("the index points to files in other folders")
    if len(files) > 1000:
        raise Unreadable("the index names more than a thousand files")
    shards = [look(path.parent / name) for name in files]
    wanted = set(names)
    return Stored(
        path, f"{len(shards)} shards, {shards[0].format if shards else 'none'}", sum(s.size for s in shards),
        tuple(t for s in shards for t in s.tensors if t.name in wanted), (("shards", ", ".join(files[:20])),), "",
        tuple(c for s in shards for c in s.calls), tuple(d for s in shards for d in s.dangerous),
    )  # fmt: skip
