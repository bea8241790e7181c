"""Several GPUs: one process for each, started by torchrun; every process calls the same functions in the same order.

    torchrun --nproc-per-node 4 --no-python torchdeck --batch EXPERIMENT

The first process (rank 0) alone writes the run and obeys Control; what it decides is shared between steps. Each batch
of ``trainer.batch_size`` goes to one process, so a step takes that many samples on every GPU. In a process that
torchrun has not started, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class World:
    """Which process this is, among how many."""

    rank: int = 0
    size: int = 1
    #: Its number on this machine, which is the number of its GPU.
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and decides."""
        return self.rank == 0


def world() -> World:
    """The world that torchrun has put into the environment; alone without it."""
    try:
        return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
    except (KeyError, ValueError):
        return World()


def join_processes(device: torch.device) -> None:
    """Meet the other processes.

    A pause may last: nobody gives up waiting before a week is over.
    """
    import torch.distributed as dist

    if world().size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=7))


def leave() -> None:
    """Part from the other processes."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share(value: Any) -> Any:
    """What rank 0 passes, in every process; tensors come on the CPU.

    It travels as a pickle, between processes of one run only.
    """
    import torch.distributed as dist

    if world().size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def same_everywhere(value: Any) -> bool:
    """Whether every process passes the same, as a plain value; every one has to ask."""
    import torch.distributed as dist

    if world().size == 1 or not dist.is_initialized():
        return True
    found: list[Any] = [None] * world().size
    dist.all_gather_object(found, value)
    return all(one == found[0] for one in found)


def distribute_model(net: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over all processes; the model itself when there is but one."""
    if world().size == 1:
        return net
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)


def average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Make each gradient the mean over all processes, whatever has made it. One that is missing everywhere stays so; in
    some of them, it counts as zero there."""
    if world().size == 1:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        by_type.setdefault(parameter.dtype, []).append(parameter)
    for several in by_type.values():
        _average(several)


def _average(parameters: list[torch.Tensor]) -> None:
    import torch
    import torch.distributed as dist

    device = parameters[0].device
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=device, dtype=parameters[0].dtype)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([there, *(g.reshape(-1) for g in gradients)])
    dist.all_reduce(flat)
    counts, *sums = flat.split([len(there), *(g.numel() for g in gradients)])
    for parameter, total, having in zip(parameters, sums, counts.tolist(), strict=True):
        parameter.grad = (total / world().size).view_as(parameter) if having else None


def share_buffers(net: nn.Module) -> None:
    """Make the buffers (batch norm's averages) those of rank 0 everywhere, as DistributedDataParallel has it."""
    import torch
    import torch.distributed as dist

    if world().size == 1:
        return
    with torch.no_grad():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)
