"""The profiler's trace of a few steps (trainer.profile), for TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def profiling(folder: Path | None) -> Iterator[Callable[[], None]]:
    """Trace five steps, once they have warmed up, into ``folder``; yields what is to be called after each step.

    Nothing is traced where there is no folder.
    """
    if folder is None:
        yield lambda: None
        return
    few = torch.profiler.schedule(wait=5, warmup=3, active=5, repeat=1)
    ready = torch.profiler.tensorboard_trace_handler(str(folder))
    with torch.profiler.profile(schedule=few, on_trace_ready=ready) as profiler:
        yield profiler.step
