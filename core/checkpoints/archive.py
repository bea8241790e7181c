"""Files of weights, opened without running or loading them: what kind they are, their tensors, and what else they hold.

torch.save's zip archives and its older format, TorchScript, safetensors, Lightning's checkpoints, sharded weights of
Hugging Face, NumPy's .npz and .npy. A few kilobytes of directory and pickle are read; tensors stay on the disk.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from torchdeck.core.checkpoints.other_files import HEADER, npy_calls, npy_header, npy_in_zip, safetensors
from torchdeck.core.checkpoints.pickled import brief
from torchdeck.core.checkpoints.pickles import Unreadable
from torchdeck.core.checkpoints.stored import Stored
from torchdeck.core.checkpoints.torch_files import torch_legacy, torch_zip
from torchdeck.core.errors import UserError

#: File names that may hold weights.
SUFFIXES = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".pt2",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".th",
    ".tar",
    ".index.json",
)


def inspect_file(path: Path) -> Stored:
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
    except EOFError:
        raise UserError(f"{str(path)!r} is damaged or no file of weights: it ends too early.") from None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
        ValueError,
        struct.error,
        RuntimeError,  # encrypted, or with a compression that is not known; nested too deep
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
        tensor = npy_header(file, path, path.stem, 0, size)
        return Stored(path, "npy", size, (tensor,), **npy_calls([tensor]))
    if len(head) >= 9 and head[4:8] == bytes(4) and (path.suffix == ".safetensors" or head[8:9] == b"{"):
        return safetensors(path, file, size)
    for start, kind in (
        (b"\x89HDF", "HDF5 file (Keras)"),
        (b"\x1f\x8b", "gzip file"),
        (b"\xff\xd8", "JPEG image"),
        (b"\x89PNG", "PNG image"),
        (b"BZh", "bzip2 file"),
        (b"\xfd7zXZ", "xz file"),
        (b"%PDF", "PDF"),
        (b"version https://git-lfs", "Git LFS pointer; fetch the file itself with git lfs pull"),
        (b"GGUF", "GGUF file"),
        (b"<!", "HTML page"),
        (b"<html", "HTML page"),
        (b"\x7fELF", "program"),
    ):
        if head.startswith(start):
            raise Unreadable(f"it is a {kind}")
    if head[:1] in (b"\x80", b"(", b"}", b"]", b"c", b"I", b"."):
        return torch_legacy(path, file, size)
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
            return torch_zip(path, archive, members, name.removesuffix("data.pkl"), size)
        arrays = [n for n in members if n.endswith(".npy")]
        if arrays:
            found = [npy_in_zip(path, archive, members[n], file) for n in arrays]
            return Stored(path, "npz", size, tuple(found), **npy_calls(found))
    listed = ", ".join(list(members)[:3]) or "nothing"
    raise Unreadable(f"it is a zip archive of something else ({brief(listed)})")


def _sharded(path: Path, size: int) -> Stored:
    """Weights in several files (Hugging Face): the index names them."""
    if size > HEADER:
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
    shards = [inspect_file(path.parent / name) for name in files]
    wanted = set(names)
    return Stored(
        path,
        f"{len(shards)} shards, {shards[0].format if shards else 'none'}",
        sum(s.size for s in shards),
        tuple(t for s in shards for t in s.tensors if t.name in wanted),
        (("shards", ", ".join(files[:20])),),
        "",
        tuple(c for s in shards for c in s.calls),
        tuple(d for s in shards for d in s.dangerous),
    )
