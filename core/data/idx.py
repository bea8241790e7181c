"""The IDX files of MNIST and its kin (yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from torchdeck.core.errors import UserError

_TYPES = {8: np.uint8, 9: np.int8, 11: np.int16, 12: np.int32, 13: np.float32, 14: np.float64}


def read_idx(path: Path) -> torch.Tensor:
    """The array in an IDX file, in the file's shape and type.

    Raises UserError when the file is damaged or is not IDX.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{str(path)!r} is damaged or can't be read ({error}); delete it and fetch it again.") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{str(path)!r} is not an IDX file.")
    dtype = np.dtype(_TYPES[data[2]]).newbyteorder(">")
    shape = np.frombuffer(data, ">u4", data[3], 4).tolist()
    start = 4 + 4 * data[3]
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - start != expected:
        raise UserError(
            f"{str(path)!r} is damaged: it has {len(data) - start:,} bytes of data where its header promises "
            f"{expected:,}; delete it and fetch it again."
        )
    array = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=True))
