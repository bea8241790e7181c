"""What a trained model costs: parameters, seconds of training, latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.training.session import Session


def cost(name: str, session: Session) -> float:
    """One cost of a session that is over: ``parameters``, ``seconds`` of training, or ``latency``."""
    assert session.run is not None
    if name == "latency":
        return latency(session)
    return float(session.run.get(name))


def latency(session: Session) -> float:
    """Milliseconds that the model takes for one sample on the device it was trained on: the median of many calls
    (torch.utils.benchmark: docs.pytorch.org/docs/stable/benchmark_utils.html)."""
    import torch
    from torch.utils.benchmark import Timer

    from core.training.evaluation import evaluating

    assert session.built is not None
    net, device = session.built.trainer.trained_net, session.built.device
    sample = session.built.data.sample[:1].to(device)
    with torch.inference_mode(), evaluating(net):
        timer = Timer("net(x)", globals={"net": net, "x": sample}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=0.2).median * 1e3
