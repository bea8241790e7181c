"""Live readings of this machine: cores, memory, disk, the process that trains, and what others take.

In a container the limits of its control group hold, not the machine's memory.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from torchdeck.core.machine.nvidia import Gpu, Nvidia

#: Seconds between two looks at all processes of the machine: there may be thousands.
_OTHERS_EVERY = 5.0


@dataclass(frozen=True)
class ProcessReading:
    """The process that trains, with its children."""

    pid: int
    #: Bytes of resident memory.
    memory: int
    threads: int
    #: Percent of one core.
    cpu: float


@dataclass(frozen=True)
class Reading:
    """This machine at one moment."""

    time: float
    #: Percent, a core each.
    cores: tuple[float, ...]
    memory_used: int
    memory_total: int
    #: Whether ``memory_total`` is a container's limit.
    container: bool
    disk_free: int
    disk_total: int
    #: Percent of one core that processes of other users take; None where they are hidden.
    others: float | None
    process: ProcessReading | None
    gpus: tuple[Gpu, ...]
    #: Why there are no GPU readings.
    gpu_why: str

    @property
    def cpu(self) -> float:
        """Percent of all cores."""
        return sum(self.cores) / max(len(self.cores), 1)


class Meter:
    """Takes readings. The first call of ``read`` has no loads yet: they are measured from one call to the next."""

    def __init__(self, folder: Path, nvidia: Nvidia | None = None) -> None:
        """``folder`` is where runs are written: its disk is watched."""
        self._folder = folder
        self._nvidia = nvidia
        self._processes: dict[int, psutil.Process] = {}
        self._others: float | None = None
        self._others_at = 0.0
        self._user = _user()
        psutil.cpu_percent(percpu=True)

    def read(self, pid: int | None = None) -> Reading:
        """A reading now; ``pid`` is the process that trains."""
        if self._nvidia is None:
            self._nvidia = Nvidia()
        used, total, container = _memory()
        disk = _disk(self._folder)
        return Reading(
            time=time.time(),
            cores=tuple(psutil.cpu_percent(percpu=True)),
            memory_used=used,
            memory_total=total,
            container=container,
            disk_free=disk[0],
            disk_total=disk[1],
            others=self._others_now(),
            process=self._process(pid) if pid else None,
            gpus=tuple(self._nvidia.read()),
            gpu_why=self._nvidia.why,
        )

    def _process(self, pid: int) -> ProcessReading | None:
        try:
            first = self._known(pid)
            family = [first, *(self._known(child.pid) for child in first.children(recursive=True))]
        except psutil.Error:
            self._processes.clear()
            return None
        self._processes = {p.pid: p for p in family}
        memory = threads = 0
        cpu = 0.0
        for process in family:
            with contextlib.suppress(psutil.Error), process.oneshot():
                memory += process.memory_info().rss
                threads += process.num_threads()
                cpu += process.cpu_percent()
        return ProcessReading(pid, memory, threads, cpu)

    def _known(self, pid: int) -> psutil.Process:
        return self._processes.get(pid) or psutil.Process(pid)

    def _others_now(self) -> float | None:
        now = time.monotonic()
        if now - self._others_at >= _OTHERS_EVERY:
            self._others_at = now
            total = 0.0
            for process in psutil.process_iter(["username"]):
                name = process.info["username"]
                if name not in (None, self._user, "root"):
                    with contextlib.suppress(psutil.Error):
                        total += process.cpu_percent()
            self._others = total
        return self._others


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _memory() -> tuple[int, int, bool]:
    memory = psutil.virtual_memory()
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int(Path(limit).read_text())
            if most < memory.total:
                return int(Path(usage).read_text()), most, True
    return memory.total - memory.available, memory.total, False


def _disk(folder: Path) -> tuple[int, int]:
    for place in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            usage = psutil.disk_usage(str(place))
            return usage.free, usage.total
    return 0, 0
