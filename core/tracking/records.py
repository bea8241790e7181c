"""TensorBoard's record files, read a few million records a second, with every checksum looked at.

A record is: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the data; little-endian
(tensorflow/core/lib/io/record_writer.h). Files are read in parts; records of one length are taken together, and all
work on them is done on whole arrays. CRC-32C is linear over XOR, so the checksum of a record is the XOR of what each
of its bytes contributes at its place: one table a place, and no loop over records.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Bytes read at once.
_PART = 1 << 24
#: A header and its checksum; the checksum of the data.
_HEAD, _TAIL = 12, 4
#: Records in which a period of lengths is looked for.
_LOOK_BACK = 64
#: A record may be this long; a length beyond it is taken for damage (images and graphs are some megabytes).
_LONGEST = 1 << 31
#: Checksums of records longer than this are computed one record at a time.
_SHORT = 512


def _byte_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _byte_table()


@functools.lru_cache(maxsize=64)
def _tables(length: int) -> tuple[NDArray[np.uint32], np.uint32]:
    """What each byte contributes at each place of ``length`` bytes [length, 256], and what the start value does."""
    tables = np.empty((length, 256), dtype=np.uint32)
    row = _TABLE
    for place in range(length - 1, -1, -1):
        tables[place] = row
        row = _TABLE[row & 0xFF] ^ (row >> 8)
    state = np.uint32(0xFFFFFFFF)
    for _ in range(length):
        state = _TABLE[state & 0xFF] ^ (state >> np.uint32(8))
    return tables, state ^ np.uint32(0xFFFFFFFF)


def checksums(rows: Bytes) -> NDArray[np.uint32]:
    """The CRC-32C of each row [n, length]; rows are taken in blocks that stay in the CPU's cache."""
    tables, start = _tables(rows.shape[1])
    out = np.full(len(rows), start, dtype=np.uint32)
    for at in range(0, len(rows), 1 << 14):
        columns = np.ascontiguousarray(rows[at : at + (1 << 14)].T)
        part = out[at : at + (1 << 14)]
        for table, column in zip(tables, columns, strict=True):
            if (column == column[0]).all():
                part ^= table[column[0]]  # most bytes of a record are those of its neighbours
            else:
                part ^= table[column]
    return out


def _checksum(data: bytes | memoryview) -> int:
    """The CRC-32C of one long record: its pieces as rows, joined by what zeros after them would do."""
    array = np.frombuffer(data, dtype=np.uint8)
    state = 0xFFFFFFFF
    whole = len(array) // _SHORT * _SHORT
    if whole:
        tables, _ = _tables(_SHORT)
        rows = array[:whole].reshape(-1, _SHORT)
        parts = np.zeros(len(rows), dtype=np.uint32)
        for place in range(_SHORT):
            parts ^= tables[place][rows[:, place]]
        for part in parts.tolist():
            # The state so far is XORed into the next four bytes.
            shifted = int(
                tables[0][state & 0xFF]
                ^ tables[1][state >> 8 & 0xFF]
                ^ tables[2][state >> 16 & 0xFF]
                ^ tables[3][state >> 24]
            )
            state = shifted ^ part
    table = _TABLE
    for byte in array[whole:].tolist():
        state = int(table[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked(checksum: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Checksums as they are stored: a CRC of data that hold CRCs would be weak."""
    return ((checksum >> np.uint32(15)) | (checksum << np.uint32(17))) + np.uint32(0xA282EAD8)


def _header(length: int) -> bytes:
    """The header of a record of that length."""
    text = length.to_bytes(8, "little")
    return text + masked(checksums(np.frombuffer(text, np.uint8)[None]))[0].tobytes()


@dataclass(frozen=True)
class Group:
    """Records of one length: ``rows`` [n, length], and the place of each in the order of the part."""

    rows: Bytes
    order: NDArray[np.int64]


class RecordFile:
    """One file, read from where the last reading ended; a record that is not whole yet is left for the next time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        #: Bytes that were passed over because their checksum is wrong.
        self.damaged = 0
        self._inode = 0
        #: Headers that were found right, and the length that each tells.
        self._headers: dict[bytes, int] = {}

    def replaced(self) -> bool:
        """Whether the file is another than that which was read, or was cut: what was read does not hold any more."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return self.offset > 0 and (now.st_size < self.offset or now.st_ino != self._inode)

    def poll(self) -> Iterator[list[Group]]:
        """What was written since, in parts of some megabytes.

        Raises OSError as the file system does.
        """
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            self._inode = os.fstat(file.fileno()).st_ino
            part = _PART
            while self.offset < size:
                file.seek(self.offset)
                data = file.read(min(part, size - self.offset))
                groups, used = self._split(data)
                if used == 0:
                    if self.offset + len(data) >= size or part >= _LONGEST:
                        return
                    part *= 4  # a single record is longer than a part
                    continue
                self.offset += used
                part = _PART
                yield groups

    def _split(self, data: bytes) -> tuple[list[Group], int]:
        starts, lengths, used = self._walk(data)
        if not len(starts):
            return [], used
        buffer = np.frombuffer(data, dtype=np.uint8)
        groups = []
        for length in np.unique(lengths).tolist():
            numbers = np.flatnonzero(lengths == length)
            at = starts[numbers]
            if length > _SHORT:
                groups += self._long(buffer, at, numbers, length)
                continue
            view = np.lib.stride_tricks.sliding_window_view(buffer, length + _TAIL)
            rows = view[at + _HEAD]
            stored = np.ascontiguousarray(rows[:, length:]).view("<u4").reshape(-1)
            rows = rows[:, :length]
            good = masked(checksums(rows)) == stored
            if not good.all():
                self.damaged += int((~good).sum()) * (length + _HEAD + _TAIL)
                rows, numbers = rows[good], numbers[good]
            groups.append(Group(rows, numbers))
        return groups, used

    def _long(self, buffer: Bytes, at: NDArray[np.int64], numbers: NDArray[np.int64], length: int) -> list[Group]:
        found = []
        for start, number in zip(at.tolist(), numbers.tolist(), strict=True):
            body = buffer[start + _HEAD : start + _HEAD + length]
            stored = int.from_bytes(buffer[start + _HEAD + length : start + _HEAD + length + _TAIL].tobytes(), "little")
            if int(masked(np.array([_checksum(body.data)], dtype=np.uint32))[0]) == stored:
                found.append(Group(body[None], np.array([number])))
            else:
                self.damaged += length + _HEAD + _TAIL
        return found

    def _walk(self, data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Starts and lengths of the whole records, and the bytes that were used up.

        A header whose checksum is wrong is passed over: what follows is looked through for the next good one.
        """
        found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        starts: list[int] = []
        lengths: list[int] = []
        at, size = 0, len(data)
        take_start, take_length, known = starts.append, lengths.append, self._headers.get
        wait = _LOOK_BACK
        while size - at >= _HEAD:
            head = data[at : at + _HEAD]
            length = known(head)
            if length is None:
                length = int.from_bytes(head[:8], "little")
                if length > _LONGEST or head != _header(length):
                    following = _next_header(data, at + 1)
                    if following is None:  # the last bytes may be the beginning of a good one
                        following = size - min(size - at, _HEAD - 1)
                    self.damaged += following - at
                    at = following
                    continue
                self._headers[head] = length
            end = at + _HEAD + length + _TAIL
            if end > size:
                break
            take_start(at)
            take_length(length)
            at = end
            if len(starts) >= wait:
                # Writers repeat themselves: the same few lengths over and over are taken in one go.
                many, at = _repeated(data, at, lengths[-_LOOK_BACK:])
                wait = _LOOK_BACK if len(many[0]) else len(starts) + 8 * _LOOK_BACK
                if len(many[0]):
                    found += [(_array(starts), _array(lengths)), many]
                    starts.clear()
                    lengths.clear()
        found.append((_array(starts), _array(lengths)))
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]), at


def _repeated(data: bytes, at: int, lengths: list[int]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], int]:
    """The records from ``at`` on that go on with the period of these lengths: starts, lengths, and where they end."""
    nothing = (_array([]), _array([]))
    period = next((p for p in range(1, len(lengths) // 2 + 1) if lengths[p:] == lengths[:-p]), None)
    if period is None:
        return nothing, at
    cycle = lengths[-period:]
    places = np.concatenate([[0], np.cumsum(np.array(cycle) + _HEAD + _TAIL)])
    stride = int(places[-1])
    count = (len(data) - at) // stride
    if not count:
        return nothing, at
    buffer = np.frombuffer(data, dtype=np.uint8)[at : at + count * stride].reshape(count, stride)
    for place, length in zip(places.tolist(), cycle, strict=False):
        wrong = (buffer[:count, place : place + _HEAD] != np.frombuffer(_header(length), dtype=np.uint8)).any(1)
        if wrong.any():
            count = int(wrong.argmax())
    starts = at + (np.arange(count)[:, None] * stride + places[:-1]).reshape(-1)
    return (starts, np.tile(_array(cycle), count)), at + count * stride


def _array(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _next_header(data: bytes, start: int) -> int | None:
    """Where the next header with a right checksum begins."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    step = 1 << 20
    for at in range(start, len(data) - _HEAD + 1, step):
        part = buffer[at : at + step + _HEAD - 1]
        if len(part) < _HEAD:
            return None
        windows = np.lib.stride_tricks.sliding_window_view(part, _HEAD)
        # Lengths beyond 4 GiB do not occur: most places are sorted out by that alone.
        likely = np.flatnonzero((windows[:, 4:8] == 0).all(1))
        if not len(likely):
            continue
        rows = np.ascontiguousarray(windows[likely])
        stored = np.ascontiguousarray(rows[:, 8:]).view("<u4").reshape(-1)
        good = np.flatnonzero((masked(checksums(rows[:, :8])) == stored) & (rows[:, :8].any(1)))
        if len(good):
            return at + int(likely[good[0]])
    return None
