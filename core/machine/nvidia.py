"""Live readings of NVIDIA GPUs through NVML, with a word for everything that can't be read.

NVML numbers GPUs by their place on the bus and ignores CUDA_VISIBLE_DEVICES, so they are matched by UUID. In MIG mode
utilisation is not supported; machines with unified memory report no total; in a container the process ids are another
namespace's: each is a word in the pane, never an error (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil

from torchdeck.core.machine import cuda_visible

#: nvmlClocksEventReasons, those that tell of a limit.
_THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
    0x10: "sync boost",
}
#: More than any GPU has: bytes, milliwatts.
_MOST_MEMORY, _MOST_POWER = 1 << 50, 100_000_000

_NOT_SUPPORTED = "not supported by this GPU"


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
    #: Whether CUDA_VISIBLE_DEVICES leaves it to torch; None: it can't be told.
    visible: bool | None
    utilization: int | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    #: Whether the memory is the machine's, shared with the CPU.
    unified: bool = False
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
        self._count = 0
        try:
            if nvml is None:
                import pynvml

                nvml = pynvml
            nvml.nvmlInit()
            self._nvml = nvml
            self._count = nvml.nvmlDeviceGetCount()
            if not self._count:
                self.why = "the NVIDIA driver finds no GPU"
        except ImportError:
            self.why = "nvidia-ml-py is not installed"
        except Exception as error:  # NVML's errors are made at run time, one class for each code
            self.why = nvml_error(error)

    def read(self) -> list[Gpu]:
        """All GPUs now; each that fails says so in its notes."""
        gpus = [self._read(index) for index in range(self._count)]
        places = cuda_visible.visible([gpu.uuid for gpu in gpus], self._mig_devices(gpus))
        seen = [replace(gpu, visible=gpu.index in places) for gpu in gpus]
        return [_in_doubt(gpu) for gpu in seen] if _order_unknown(gpus) else seen

    def _mig_devices(self, gpus: list[Gpu]) -> dict[str, int]:
        """The UUID of each MIG device, and the index of its GPU."""
        nvml, found = self._nvml, {}
        for gpu in gpus:
            if not gpu.mig:
                continue
            with contextlib.suppress(Exception):
                handle = nvml.nvmlDeviceGetHandleByIndex(gpu.index)
                for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                    with contextlib.suppress(Exception):  # not every place is taken
                        part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                        found[_text(nvml.nvmlDeviceGetUUID(part))] = gpu.index
        return found

    def _read(self, index: int) -> Gpu:
        nvml = self._nvml
        asked = _Asked()
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except Exception as error:
            return Gpu(index, "NVIDIA GPU", "", False, notes=(f"it can't be read: {nvml_error(error)}",))
        mig = False
        with contextlib.suppress(Exception):  # most GPUs have no MIG at all, which is not worth a note
            mig = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
        name = asked.text("name", lambda: nvml.nvmlDeviceGetName(handle)) or "NVIDIA GPU"
        uuid = asked.text("uuid", lambda: nvml.nvmlDeviceGetUUID(handle))
        if mig:
            asked.notes.append("MIG is on: utilisation is not told")
            utilization = None
        else:
            utilization = asked.figure("utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100)
        used, total, unified = self._memory(handle, mig, asked.notes)
        power = asked.figure("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle), _MOST_POWER)
        limit = asked.figure("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle), _MOST_POWER)
        reasons = asked.figure("throttling", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle), 0xFFFF)
        return Gpu(
            index=index,
            name=name,
            uuid=uuid,
            visible=False,
            utilization=utilization,
            memory_used=used,
            memory_total=total,
            unified=unified,
            temperature=asked.figure("temperature", lambda: nvml.nvmlDeviceGetTemperature(handle, 0), 200),
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
            throttles=tuple(word for bit, word in _THROTTLES.items() if (reasons or 0) & bit),
            processes=tuple(self._processes(handle, asked.notes)),
            mig=mig,
            notes=tuple(asked.notes),
        )

    def _memory(self, handle: Any, mig: bool, notes: list[str]) -> tuple[int | None, int | None, bool]:
        """Bytes used and in all, and whether they are the machine's, which such a GPU shares: its driver tells no total
        (docs.nvidia.com/dgx/dgx-spark, known issues of nvidia-smi)."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except Exception as error:
            if mig or nvml_error(error) != _NOT_SUPPORTED:
                notes.append(f"memory: {nvml_error(error)}")
                return None, None, False
            memory = None
        total = getattr(memory, "total", 0)
        if total in (0, 2**64 - 1):
            notes.append("memory: shared with the CPU; the figures are the machine's")
            machine = psutil.virtual_memory()
            return machine.total - machine.available, machine.total, True
        if not _within(total, _MOST_MEMORY):
            notes.append("memory: the driver tells nonsense")
            return None, None, False
        used = getattr(memory, "used", None)
        if not _within(used, total):
            notes.append("memory in use: the driver tells nonsense")
            return None, total, False
        return used, total, False

    def _processes(self, handle: Any, notes: list[str]) -> list[GpuProcess]:
        try:
            found = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except Exception as error:
            notes.append(f"processes: {nvml_error(error)}")
            return []
        processes = []
        for item in found:
            memory = item.usedGpuMemory
            memory = memory if _within(memory, _MOST_MEMORY) and memory else None
            try:
                process = psutil.Process(item.pid)
                processes.append(GpuProcess(item.pid, memory, process.name(), process.username()))
            except (psutil.Error, ValueError, OverflowError):
                processes.append(GpuProcess(item.pid, memory))
        if any(not p.name for p in processes):
            notes.append("processes: some are of another container or user")
        return processes


class _Asked:
    """Answers of NVML, each checked by itself; ``notes`` say what is not told, or is no figure."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def figure(self, what: str, function: Callable[[], Any], most: int) -> int | None:
        """A whole number from 0 to ``most``; None for what is none."""
        try:
            value = function()
        except Exception as error:
            self.notes.append(f"{what}: {nvml_error(error)}")
            return None
        if not _within(value, most):
            self.notes.append(f"{what}: the driver tells nonsense")
            return None
        return int(value)

    def text(self, what: str, function: Callable[[], Any]) -> str:
        """A text; empty for none."""
        try:
            value = function()
        except Exception as error:
            self.notes.append(f"{what}: {nvml_error(error)}")
            return ""
        if not isinstance(value, (str, bytes)):
            self.notes.append(f"{what}: the driver tells nonsense")
            return ""
        return _text(value)


def _within(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _order_unknown(gpus: list[Gpu]) -> bool:
    """Whether the numbers in CUDA_VISIBLE_DEVICES may mean other GPUs than NVML's: CUDA puts the fastest first, so that
    the two agree on GPUs of one kind only, unless CUDA_DEVICE_ORDER asks for the order on the bus."""
    wanted = cuda_visible.visible_entries()
    if not wanted or not wanted[0].isdigit() or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return False
    return len({gpu.name for gpu in gpus}) > 1


def _in_doubt(gpu: Gpu) -> Gpu:
    note = "CUDA may number these GPUs otherwise: set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    return replace(gpu, visible=None, notes=(*gpu.notes, note))


def nvml_error(error: Exception) -> str:
    """An error of NVML as a person would say it. Its classes differ between the packages that bring it: its words
    tell."""
    text = str(error).strip() or type(error).__name__
    for sign, word in {
        "Not Supported": _NOT_SUPPORTED,
        "Shared Library Not Found": "no NVIDIA driver here",
        "Driver/library version mismatch": "the driver and its library have different versions: reboot or reload "
        "the driver",
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
    wanted = cuda_visible.visible_entries()
    if wanted == []:
        return []
    gpus = (nvidia or Nvidia()).read()
    if wanted is None:
        return [gpu.uuid for gpu in gpus if gpu.uuid]
    if not gpus:
        return wanted
    return list(itertools.takewhile(lambda entry: not entry.isdigit() or int(entry) < len(gpus), wanted))
