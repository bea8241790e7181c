"""Checkpoints written whole, by a thread of their own, with generations kept and the best one named."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from torchdeck.core import files
from torchdeck.core.checkpoints.names import BEST, LAST, generations
from torchdeck.core.checkpoints.save import to_torch
from torchdeck.core.events import CheckpointWritten, Event


def snapshot(value: Any) -> Any:
    """A copy of a state in the CPU's memory, which training then can't change any more."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: snapshot(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(v) for v in value)
    return value


class CheckpointWriter:
    """Writes checkpoints one after the other.

    ``submit`` copies the state and returns; it waits only while the checkpoint before is still being written, so that
    at most one copy is in memory.
    """

    def __init__(
        self, folder: Path, keep: int, publish: Callable[[Event], None], on_failure: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._publish = publish
        self._on_failure = on_failure
        self._queue: queue.Queue[tuple[dict[str, Any], bool] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._run, name="torchdeck-checkpoints", daemon=True)
        self._thread.start()

    def submit(self, state: dict[str, Any], best: bool) -> None:
        """Write this state; ``best``: it is the best so far, too."""
        self._queue.join()
        self._queue.put((snapshot(state), best))

    def close(self) -> None:
        """Wait until all is on disk."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except OSError as error:
                self._on_failure(f"A checkpoint can't be written to {str(self._folder)!r}: {error.strerror or error}.")
            finally:
                self._queue.task_done()

    def _write(self, state: dict[str, Any], best: bool) -> None:
        path = self._folder / f"step-{state['step']:09d}.pt"
        with files.replacing(path) as file:
            to_torch(state, file)
        if best:
            files.link(path, self._folder / BEST)
        files.link(path, self._folder / LAST)
        for old in generations(self._folder)[self._keep :]:
            old.unlink(missing_ok=True)
        self._publish(
            CheckpointWritten(
                epoch=state["epoch"],
                step=state["step"],
                path=f"checkpoints/{path.name}",
                bytes=path.stat().st_size,
                best=best,
            )
        )
