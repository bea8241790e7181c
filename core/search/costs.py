"""What a trained model costs: parameters, seconds of training, latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchdeck.core.session.session import Session

#: Calls before the latency is measured, and for how many seconds and calls it is, at least.
_WARM, _SECONDS, _CALLS = 5, 0.2, 20


def cost(name: str, session: Session) -> float:
    """One cost of a session that is over: ``parameters``, ``seconds`` of training, or ``latency``."""
    assert session.run is not None
    if name == "latency":
        return latency(session)
    return float(session.run.get(name))


def latency(session: Session) -> float:
    """Milliseconds that the model takes for one sample on the device it was trained on: the median of many calls."""
    import torch

    from torchdeck.core.data.items import to_device
    from torchdeck.core.training.evaluation import evaluating

    assert session.built is not None
    net, device = session.built.trainer.trained_net, session.built.device
    batch = session.built.data.sample.first(1)
    task, x = session.built.trainer.task, to_device(batch.x, device)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: list[float] = []
    with torch.inference_mode(), evaluating(net):
        for _ in range(_WARM):
            task.caller(net, x)
        wait()
        end = time.perf_counter() + _SECONDS
        while len(times) < _CALLS or time.perf_counter() < end:
            began = time.perf_counter()
            task.caller(net, x)
            wait()
            times.append(time.perf_counter() - began)
    return median(times) * 1e3
