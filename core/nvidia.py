"""Live readings of NVIDIA GPUs through NVML, with a word for everything that can't be read.

NVML numbers GPUs by their place on the bus and ignores CUDA_VISIBLE_DEVICES, so they are matched by UUID. In MIG mode
utilisation is not supported; machines with unified memory report no total; in a container the process ids are another
namespace's: each is a word in the pane, never an error (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

#: nvmlClocksEventReasons, those that tell of a limit.
_THROTTLES = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x20: "thermal (software)", 0x40: "thermal (hardware)",
    0x80: "power brake", 0x10: "sync boost",
}  # fmt: skip


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU; ``name`` and ``user`` are empty where another namespace hides them."""

    pid: int
    memory: int | None
    name: str = ""
    user: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU now. None: it is not told; ``notes`` say why, in words."""

    index: int
    name: str
    uuid: str
    visible: bool
    utilization: int | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    #: Degrees Celsius.
    temperature: int | None = None
    #: Watts.
    power: float | None = None
    power_limit: float | None = None
    throttles: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    mig: bool = False
    notes: tuple[str, ...] = ()


class Nvidia:
    """The GPUs of this machine. ``why`` tells in words why there are none."""

    def __init__(self, nvml: Any = None) -> None:
        """``nvml`` is the module pynvml, or what stands for it in a test."""
        self.why = ""
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            if nvml is None:
                import pynvml

                nvml = pynvml
            nvml.nvmlInit()
            self._nvml = nvml
            count = nvml.nvmlDeviceGetCount()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            if not count:
                self.why = "the NVIDIA driver finds no GPU"
        except ImportError:
            self.why = "nvidia-ml-py is not installed"
        except Exception as error:  # NVML's errors are made at run time, one class for each code
            self.why = in_words(error)

    def read(self) -> list[Gpu]:
        """All GPUs now; each that fails says so in its notes."""
        return [self._read(index, handle) for index, handle in enumerate(self._handles)]

    def _read(self, index: int, handle: Any) -> Gpu:
        nvml, notes = self._nvml, []

        def ask(what: str, function: Callable[[], Any]) -> Any:
            try:
                return function()
            except Exception as error:
                notes.append(f"{what}: {in_words(error)}")
                return None

        name = _text(ask("name", lambda: nvml.nvmlDeviceGetName(handle)) or "NVIDIA GPU")
        uuid = _text(ask("uuid", lambda: nvml.nvmlDeviceGetUUID(handle)) or "")
        mig = False
        with contextlib.suppress(Exception):  # most GPUs have no MIG at all, which is not worth a note
            mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        utilization = ask("utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        if utilization is not None and not 0 <= utilization <= 100:
            notes.append("utilisation: the driver tells nonsense")
            utilization = None
        if mig:
            notes = [n for n in notes if not n.startswith("utilisation")] + ["MIG is on: utilisation is not told"]
        memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        total = getattr(memory, "total", None)
        if memory is not None and not total:
            notes.append("memory: shared with the CPU, its total is not told")
        power = ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit = ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        reasons = ask("throttling", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        return Gpu(
            index=index, name=name, uuid=uuid, visible=_visible(index, uuid), utilization=utilization,
            memory_used=getattr(memory, "used", None), memory_total=total or None,
            temperature=ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, 0)),
            power=power / 1000 if power is not None else None, power_limit=limit / 1000 if limit is not None else None,
            throttles=tuple(word for bit, word in _THROTTLES.items() if reasons & bit),
            processes=tuple(self._processes(handle, notes)), mig=mig, notes=tuple(notes),
        )  # fmt: skip

    def _processes(self, handle: Any, notes: list[str]) -> list[GpuProcess]:
        try:
            found = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except Exception as error:
            notes.append(f"processes: {in_words(error)}")
            return []
        processes = []
        for item in found:
            memory = item.usedGpuMemory
            memory = memory if isinstance(memory, int) and 0 < memory < 1 << 50 else None
            try:
                process = psutil.Process(item.pid)
                processes.append(GpuProcess(item.pid, memory, process.name(), process.username()))
            except psutil.Error:
                processes.append(GpuProcess(item.pid, memory))
        if any(not p.name for p in processes):
            notes.append("processes: some are of another container or user")
        return processes


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _visible(index: int, uuid: str) -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves this GPU to torch."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return True
    wanted = [part.strip() for part in names.split(",")]
    return any(part == str(index) or (part.startswith("GPU-") and uuid.startswith(part)) for part in wanted if part)


def in_words(error: Exception) -> str:
    """An error of NVML as a person would say it."""
    text = str(error).strip() or type(error).__name__
    for sign, word in {
        "Not Supported": "not supported by this GPU",
        "Shared Library Not Found": "no NVIDIA driver here",
        "Driver/library version mismatch": "the driver and its library have different versions: reboot or reload the driver",
        "Driver Not Loaded": "the NVIDIA driver is not loaded",
        "Insufficient Permissions": "not permitted to this user",
        "No Permission": "not permitted to this user",
        "GPU is lost": "the GPU has fallen off the bus: reboot",
    }.items():
        if sign.lower() in text.lower():
            return word
    return text


def assignable(nvidia: Nvidia | None = None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to, to give a process one of the GPUs that this one may use."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [part.strip() for part in names.split(",") if part.strip() and part.strip() != "-1"]
    return [gpu.uuid for gpu in (nvidia or Nvidia()).read() if gpu.uuid]
