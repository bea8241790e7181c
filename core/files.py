"""Files that are either old or new, never half: temporary file, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

#: What a temporary file's name begins with; leftovers of a kill are swept at the next start.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", private: bool = False) -> Iterator[IO]:
    """A file to write that takes ``path``'s place when the block ends well, and vanishes when it doesn't.

    ``private``: nobody but the user may read it, at any moment.

    Raises OSError as the file system does; ``path`` is then as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666
        )
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Put ``text`` at ``path``, whole or not at all; ``private``: for nobody else to read."""
    with replacing(path, "w", private) as file:
        file.write(text)


def link(source: Path, path: Path) -> None:
    """Make ``path`` a second name of ``source``, at once; a copy where the file system has no hard links."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        # Renaming one hard link onto another of the same file does nothing and leaves both names (POSIX).
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def take_lock(path: Path, *, wait: bool = False, create: bool = True) -> int:
    """Hold the lock (flock) of a file; the descriptor, which lets go of it when it is closed, as the system does
    however a process ends.

    ``wait``: until whoever holds it lets go. ``create``: the file, where it is not there.
    Raises BlockingIOError when another process holds it, and OSError as the file system does.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def holding(path: Path, *, create: bool = True) -> Iterator[bool]:
    """Hold the lock of a file; gives False when another process does.

    Raises OSError as the file system does.
    """
    try:
        descriptor = take_lock(path, create=create)
    except BlockingIOError:
        descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files that a kill left in ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
