"""Readings of the machine: real ones of the CPU; of GPUs, what NVML tells on machines that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fake_nvml import FakeNvml

from core.nvidia import Nvidia, in_words
from core.readings import Meter


def test_a_gpu() -> None:
    [gpu] = Nvidia(FakeNvml()).read()
    assert (gpu.utilization, gpu.temperature, gpu.power, gpu.power_limit) == (97, 66, 512.3, 700.0)
    assert gpu.memory_total == 80 << 30
    assert gpu.throttles == ("power cap", "thermal (hardware)")
    assert gpu.processes[0].pid == os.getpid()
    assert gpu.processes[0].name
    assert gpu.notes == ()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("NVML Shared Library Not Found", "no NVIDIA driver"),
        ("Driver/library version mismatch", "different versions"),
        ("Driver Not Loaded", "not loaded"),
        ("Insufficient Permissions", "not permitted"),
        ("Something New", "Something New"),
    ],
)
def test_no_driver_is_told_in_words(message: str, words: str) -> None:
    nvidia = Nvidia(FakeNvml(nvmlInit=message))
    assert nvidia.read() == []
    assert words in nvidia.why


def test_what_is_not_supported_is_a_note_and_the_rest_is_told() -> None:
    nvml = FakeNvml(nvmlDeviceGetUtilizationRates="Not Supported", nvmlDeviceGetPowerUsage="Not Supported")
    nvml.mig = True
    [gpu] = Nvidia(nvml).read()
    assert gpu.utilization is None
    assert gpu.power is None
    assert gpu.temperature == 66
    assert any("MIG" in note for note in gpu.notes)


def test_unified_memory_containers_and_nonsense() -> None:
    nvml = FakeNvml()
    nvml.memory = SimpleNamespace(used=1 << 30, total=0)
    nvml.processes = [SimpleNamespace(pid=2**22 + 1, usedGpuMemory=2**64 - 1)]
    nvml.utilization = 9223372036854776000
    [gpu] = Nvidia(nvml).read()
    assert gpu.memory_total is None
    assert gpu.utilization is None
    assert gpu.processes[0].memory is None
    assert sum(word in " ".join(gpu.notes) for word in ("shared with the CPU", "another container", "nonsense")) == 3


@pytest.mark.parametrize(
    ("value", "visible"),
    [(None, [True, True]), ("1", [False, True]), ("GPU-0000", [True, False]), ("", [False, False])],
)
def test_visible_devices(monkeypatch: pytest.MonkeyPatch, value: str | None, visible: list[bool]) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert [gpu.visible for gpu in Nvidia(FakeNvml(2)).read()] == visible


def test_here(tmp_path: Path) -> None:
    """The real driver, or the word that there is none."""
    nvidia = Nvidia()
    assert nvidia.read() or nvidia.why
    assert in_words(RuntimeError("")) == "RuntimeError"


def test_this_machine(tmp_path: Path) -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        meter = Meter(tmp_path / "not there yet", Nvidia(FakeNvml()))
        meter.read(busy.pid)
        total = 0.0
        while total < 1.0:  # until the process has had some time
            total = psutil.Process(busy.pid).cpu_times().user
        reading = meter.read(busy.pid)
    finally:
        busy.kill()
        busy.wait()
    assert reading.process is not None
    assert reading.process.cpu > 10
    assert reading.process.memory > 1 << 20
    assert len(reading.cores) == os.cpu_count()
    assert 0 < reading.memory_used <= reading.memory_total
    assert 0 < reading.disk_free <= reading.disk_total
    assert meter.read(busy.pid).process is None  # it has ended
