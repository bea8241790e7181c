"""Locks of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchdeck.core import files


def test_one_holds_a_lock_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(FileNotFoundError), files.holding(lock, create=False):
        pass
    with files.holding(lock) as mine:
        assert mine
        with files.holding(lock) as other:  # another descriptor, as another process has
            assert not other
        with pytest.raises(BlockingIOError):
            files.take_lock(lock)
    descriptor = files.take_lock(lock, wait=True, create=False)
    os.close(descriptor)
    with pytest.raises(ZeroDivisionError), files.holding(lock) as mine:
        assert mine and 1 / 0
    with files.holding(lock) as mine:
        assert mine
