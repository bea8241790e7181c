"""Checkpoints written whole, by a thread of their own, with generations kept and the best one named."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from torchdeck.core import files
from torchdeck.core.checkpoints.names import BEST, LAST, generations, step_of
from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.errors import UserError
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
        self, folder: Path, keep: int, publish: Callable[[Event], None], trouble: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._publish = publish
        self._trouble = trouble
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
                self._trouble(f"A checkpoint can't be written to {str(self._folder)!r}: {error.strerror or error}.")
            finally:
                self._queue.task_done()

    def _write(self, state: dict[str, Any], best: bool) -> None:
        path = self._folder / f"step-{state['step']:09d}.pt"
        with files.replacing(path) as file:
            save(state, file)
        if best:
            files.link(path, self._folder / BEST)
        files.link(path, self._folder / LAST)
        for old in generations(self._folder)[self._keep :]:
            old.unlink(missing_ok=True)
        self._publish(
            CheckpointWritten(epoch=state["epoch"], step=state["step"], path=f"checkpoints/{path.name}",
                              bytes=path.stat().st_size, best=best)
        )  # fmt: skip


def save(value: Any, file: IO[bytes]) -> None:
    """torch.save, with the system's own error.

    Raises OSError when the file can't be written; torch turns that into a RuntimeError about its zip archive.
    """
    errors: list[OSError] = []

    class Writer:
        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                errors.append(error)
                raise

        def flush(self) -> None:
            file.flush()

    try:
        torch.save(value, Writer())  # type: ignore[arg-type]
    except RuntimeError:
        if errors:
            raise errors[0] from None
        raise


def newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None when there is none at all.

    A damaged one is told of and set aside (``*.damaged``), and the generation before is taken.

    Raises UserError when there are some and none is whole.
    """
    # A kill may have fallen between the newest generation and its second name; a copied run may have last.pt alone.
    candidates = [*generations(folder), folder / LAST]
    errors: list[str] = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path, "--resume")
        except UserError as error:
            errors.append(str(error))
            continue
        _set_aside_after(folder, state["step"])
        if errors:
            warn(f"{errors[0]} Going on from {path.name}, step {state['step']}.")
        return state
    if errors:
        raise UserError(errors[0])
    return None


def _set_aside_after(folder: Path, step: int) -> None:
    """Later generations than the one that is gone on from are damaged; they must not count as the newest ones."""
    for path in generations(folder):
        if step_of(path) > step:
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{path.name}.damaged"))
