"""Which device to train on, with which precision; what this machine has."""

from __future__ import annotations

import os
import platform
import resource
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from torchdeck.core.errors import UserError
from torchdeck.core.machine.distributed import world

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceInfo:
    """One device that torch can train on: its name in torch, in words, and its memory in bytes (0: not told)."""

    device: str
    name: str
    memory: int


def available() -> list[DeviceInfo]:
    """The devices that can be trained on, best first: cuda, then mps, then cpu."""
    import torch

    found = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            found.append(DeviceInfo(f"cuda:{i}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        found.append(DeviceInfo("mps", f"Apple {platform.processor()} GPU", psutil.virtual_memory().total))
    return [*found, DeviceInfo("cpu", cpu_name(), psutil.virtual_memory().total)]


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes the first of cuda, mps and cpu that is there, each process its own GPU.

    Raises UserError when the device is not there, with those that are.
    """
    import torch

    there = available()
    local = world().local_rank
    if name == "auto":
        name = there[0].device.partition(":")[0]
    wanted = f"cuda:{local}" if name == "cuda" else name
    if wanted in {d.device for d in there}:
        return torch.device(wanted)
    names = ", ".join(d.device for d in there)
    why = ""
    if name.startswith("cuda") and not torch.cuda.is_available():
        built = torch.version.cuda
        why = " (no usable NVIDIA driver)" if built else " (this torch was built without CUDA)"
    raise UserError(f"trainer.device = {name!r} is not on this machine{why}; it has {names}.", field="trainer.device")


@dataclass(frozen=True)
class Precision:
    """How numbers are kept while training: autocast to ``dtype`` (None: float32 throughout), gradient scaling."""

    name: str
    dtype: torch.dtype | None = None
    scaler: bool = False
    tf32: bool = False


def precision(name: str, device: torch.device) -> Precision:
    """The precision of that name on that device.

    ``auto``: bf16 on GPUs that compute it in hardware, else fp16 with a gradient scaler; float32 on cpu and mps.

    Raises UserError for fp16 or tf32 where the device has none.
    """
    import torch

    if name == "auto":
        if device.type != "cuda":
            return Precision("fp32")
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "bf16":
        return Precision(name, torch.bfloat16, tf32=device.type == "cuda")
    if name == "fp16":
        if device.type == "cpu":
            raise UserError(
                "trainer.precision = 'fp16' needs a GPU; on cpu choose fp32 or bf16.", field="trainer.precision"
            )
        return Precision(name, torch.float16, scaler=device.type == "cuda", tf32=device.type == "cuda")
    if name == "tf32":
        if device.type != "cuda":
            raise UserError(
                f"trainer.precision = 'tf32' needs an NVIDIA GPU; on {device.type} choose fp32 or bf16.",
                field="trainer.precision",
            )
        return Precision(name, tf32=True)
    return Precision("fp32")


def memory_used(device: torch.device) -> int:
    """Bytes used: allocated by torch on a GPU, this process' resident memory on the CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return _resident()


def _resident() -> int:
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:  # noqa: PTH123  read at every summary: the plain call is the cheap one
            return int(file.read().split()[1]) * resource.getpagesize()
    return psutil.Process().memory_info().rss


def memory_free(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def cores() -> int:
    """Cores that this process may use (containers and taskset give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return f"{line.partition(':')[2].strip()}, {cores()} cores"
    return f"{platform.processor() or platform.machine()}, {cores()} cores"
