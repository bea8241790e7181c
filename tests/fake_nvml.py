"""What NVML tells on machines that are not here."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any


class FakeNvml:
    """What pynvml would tell; ``broken`` names functions that raise, with their message."""

    def __init__(self, count: int = 1, **broken: str) -> None:
        self.count, self.broken = count, broken
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=1 << 30)]
        self.memory = SimpleNamespace(used=8 << 30, total=80 << 30)
        self.mig = False
        self.utilization = 97
        #: What a function tells of one GPU alone, by (function, index); an exception is raised.
        self.faults: dict[tuple[str, int], Any] = {}
        #: The UUIDs of the MIG devices of each GPU.
        self.parts: dict[int, list[str]] = {}

    def __getattr__(self, name: str) -> Any:
        def function(*args: Any) -> Any:
            if name in self.broken:
                raise RuntimeError(self.broken[name])
            index = args[0] if args else 0
            if (name, index) in self.faults:
                fault = self.faults[name, index]
                if isinstance(fault, Exception):
                    raise fault
                return fault
            if name == "nvmlDeviceGetMaxMigDeviceCount":
                return len(self.parts.get(index, ()))
            if name == "nvmlDeviceGetMigDeviceHandleByIndex":
                return self.parts[index][args[1]]
            if isinstance(index, str):
                return index  # the UUID of a MIG device
            return {
                "nvmlInit": None,
                "nvmlDeviceGetCount": self.count,
                "nvmlDeviceGetHandleByIndex": index,
                "nvmlDeviceGetName": "NVIDIA H100",
                "nvmlDeviceGetUUID": f"GPU-{index:04d}",
                "nvmlDeviceGetMigMode": (int(self.mig), 0),
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=self.utilization),
                "nvmlDeviceGetMemoryInfo": self.memory,
                "nvmlDeviceGetPowerUsage": 512_300,
                "nvmlDeviceGetEnforcedPowerLimit": 700_000,
                "nvmlDeviceGetTemperature": 66,
                "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
                "nvmlDeviceGetComputeRunningProcesses": self.processes,
            }[name]

        return function
