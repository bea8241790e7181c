"""Files of torch.save: zip archives, the older format, TorchScript, and pickles made by hand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from torchdeck.core.checkpoints import pickles
from torchdeck.core.checkpoints.pickled import DTYPES, Call, Global, Persistent, Pickle, brief, walk_values
from torchdeck.core.checkpoints.pickles import Unreadable
from torchdeck.core.checkpoints.stored import Stored, shape_of, word
from torchdeck.core.checkpoints.tensors import StoredTensor
from torchdeck.core.text import printable

#: Bytes of a pickle that are read at most.
_PICKLE = 128 << 20
#: torch/serialization.py, _legacy_save.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def torch_zip(
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
        return start_of(archive, info), info.file_size

    script = f"{root}constants.pkl" in members or any(n.startswith(f"{root}code/") for n in members)
    return _stored(path, "TorchScript" if script else "torch zip", size, pickled, place, script)


def _pickle_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Pickle:
    """Read with a limit: what is packed may be a million times as large as the file."""
    if info.file_size > _PICKLE:
        raise Unreadable(f"its pickle has {info.file_size:,} bytes, more than any file of tensors needs")
    with archive.open(info) as member:
        data = member.read(_PICKLE + 1)
    return pickles.read_pickle(io.BytesIO(data))


def start_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose extra field differs from the directory's."""
    file: Any = archive.fp
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Unreadable("a member of the archive is not where its directory says")
    names, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + names + extra


# --- torch's older format --------------------------------------------------------------------------------------------


def torch_legacy(path: Path, file: BinaryIO, size: int) -> Stored:
    limited: Any = _Limited(file, min(size, _PICKLE))
    first = pickles.read_pickle(limited)
    if first.value != _MAGIC:
        # No file of torch.save: still told apart, for instance a model pickled by hand.
        return _stored(path, "pickle", size, first, lambda key: None)
    protocol, _, pickled, keys = (pickles.read_pickle(limited) for _ in range(4))
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
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}


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
    for _, one in walk_values(value):
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
    if call.name in _PARTS and a:
        return _assembled(call, name, path, place)
    if function == "_rebuild_meta_tensor_no_storage" and len(a) >= 2:
        shape = shape_of(a[1])
        dtype = a[0].name if isinstance(a[0], Global) else "?"
        return None if shape is None else StoredTensor(name, shape, dtype)
    if (
        not function.startswith(("_rebuild_tensor", "_rebuild_qtensor"))
        or not call.name.startswith("torch._utils.")
        or len(a) < 4
    ):
        return None
    storage, shape, stride = _storage(a[0]), shape_of(a[2]), shape_of(a[3])
    if storage is None or shape is None or stride is None or len(shape) != len(stride) or not isinstance(a[1], int):
        return None
    dtype = storage.dtype
    if function == "_rebuild_tensor_v3" and len(a) >= 7 and isinstance(a[6], Global):
        dtype = a[6].name
    width = DTYPES.get(dtype, (0, ""))[0]
    found = place(storage.key)
    flags = a[6] if function == "_rebuild_tensor_v2" and len(a) > 6 and isinstance(a[6], dict) else {}
    if flags.get("conj") or flags.get("neg"):  # the numbers stand in the file with another sign
        return StoredTensor(name, shape, f"{dtype} {'conjugate' if flags.get('conj') else 'negative'} view")
    if found is None or not width or a[1] < 0:
        return StoredTensor(name, shape, dtype)
    start, length = found
    return StoredTensor(name, shape, dtype, path, start + a[1] * width, stride, length // width - a[1])


#: What puts a tensor together from others: where these are among its arguments, and how that is called.
_PARTS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch.nested._internal.nested_tensor._rebuild_njt": "nested",
}


def _assembled(call: Call, name: str, path: Path, place: Any) -> StoredTensor | None:
    """A sparse or nested tensor: shape and kind of numbers, which are not read. A nested one has the shape of the
    tensor that holds all of its numbers."""
    kind, a = _PARTS[call.name], call.arguments
    inside = a[1] if kind == "sparse" and len(a) > 1 and isinstance(a[1], tuple) else a
    if isinstance(a[0], dict):
        inside = (a[0].get("values") or a[0].get("_values"),)
    parts = [one for p in inside if isinstance(p, Call) and (one := _tensor(p, name, path, place)) is not None]
    if not parts:
        return None
    if kind == "nested":
        return StoredTensor(name, parts[0].shape, f"{parts[0].dtype} nested")
    layout = a[0].arguments[0] if isinstance(a[0], Call) and a[0].arguments else "torch.sparse"
    shape = next((size for part in inside if (size := shape_of(part)) is not None), None)
    if shape is None:
        return None
    return StoredTensor(name, shape, f"{parts[-1].dtype} {word(layout).removeprefix('torch.')}")


def _kind_of(where: Sequence[Any]) -> str:
    """What a module keeps at that place; empty where that does not tell."""
    if "_buffers" in where:
        return "buffer"
    return "parameter" if "_parameters" in where else ""


def _stored(path: Path, format: str, size: int, pickled: Pickle, place: Any, script: bool = False) -> Stored:
    tensors: list[StoredTensor] = []
    for where, value in walk_values(pickled.value):
        if isinstance(value, Call):
            names = [word(part) for part in where if part not in ("_modules", "_parameters", "_buffers")]
            tensor = _tensor(value, ".".join(names), path, place)
            if tensor is not None:
                tensors.append(replace(tensor, kind=_kind_of(where) or tensor.kind))
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
        format = f"{format}, checkpoint of Lightning {word(top['pytorch-lightning_version'])}"
    experiment = top.get("experiment") if ours else ""
    return Stored(
        path,
        format,
        size,
        tuple(tensors),
        tuple(_contents(top)),
        experiment if isinstance(experiment, str) else "",
        tuple(dict.fromkeys(calls)),
        tuple(str(g) for g in ([] if script else pickled.dangerous())),
        _weights_key(top, ours),
        _target_scale(top) if ours else ((), ()),
    )


def _target_scale(top: dict[Any, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    data = top.get("data")
    mean, std = (data.get(key, []) if isinstance(data, dict) else [] for key in ("target_mean", "target_std"))
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std)):
        return (), ()
    if not all(isinstance(v, float) for v in (*mean, *std)):
        return (), ()
    return tuple(mean), tuple(std)


def _weights_key(top: dict[Any, Any], ours: bool) -> str:
    """Where the model's state_dict is; averaged weights (EMA) come first, as in evaluation and export."""
    if ours:
        ema = top.get("ema")
        return "ema.model" if isinstance(ema, dict) and isinstance(ema.get("model"), dict) else "model"
    for key in ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "params", "weights"):
        if isinstance(top.get(key), dict) and top[key]:
            return key
    return ""


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
                words = ", ".join(f"{word(k)} {brief(v)}" for k, v in value.items())
        found.append((word(key), printable(words)))
    return found
