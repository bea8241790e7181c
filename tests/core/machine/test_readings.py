"""Readings of the machine: real ones of the CPU; of GPUs, what NVML tells on machines that are not here."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest
from fake_nvml import FakeNvml
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdeck.core.machine import cuda_visible
from torchdeck.core.machine.nvidia import Gpu, Nvidia, nvml_error
from torchdeck.core.machine.readings import Meter
from torchdeck.tui.widgets.device import gpu_lines


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
    assert gpu.unified
    assert gpu.memory_total == psutil.virtual_memory().total
    assert gpu.memory_used is not None
    assert 0 < gpu.memory_used < gpu.memory_total
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


#: What drivers were seen to tell in place of a figure.
NONSENSE = st.sampled_from(
    [RuntimeError("Not Supported"), RuntimeError("GPU is lost"), 2**64 - 1, 2**32 - 1, -1, None, 9223372036854776000]
)
FIELDS = {
    "nvmlDeviceGetUtilizationRates": ("utilization", lambda value: SimpleNamespace(gpu=value)),
    "nvmlDeviceGetTemperature": ("temperature", lambda value: value),
    "nvmlDeviceGetPowerUsage": ("power", lambda value: value),
    "nvmlDeviceGetEnforcedPowerLimit": ("power_limit", lambda value: value),
    "nvmlDeviceGetCurrentClocksThrottleReasons": ("throttles", lambda value: value),
    "nvmlDeviceGetMemoryInfo": ("memory_used", lambda value: SimpleNamespace(used=value, total=80 << 30)),
    "nvmlDeviceGetUUID": ("uuid", lambda value: value),
    "nvmlDeviceGetComputeRunningProcesses": ("processes", lambda value: [SimpleNamespace(pid=1, usedGpuMemory=value)]),
}


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), NONSENSE, max_size=8), st.integers(0, 2))
def test_each_field_is_checked_by_itself(faults: dict[str, object], index: int) -> None:
    """Whatever one GPU tells, its other fields and the other GPUs are as if it told nothing of the kind."""
    whole = {gpu.index: gpu for gpu in Nvidia(FakeNvml(3)).read()}
    nvml = FakeNvml(3)
    for name, value in faults.items():
        made = value if isinstance(value, Exception) else FIELDS[name][1](value)
        nvml.faults[name, index] = made
    for gpu in Nvidia(nvml).read():
        spoilt = {FIELDS[name][0] for name in faults} if gpu.index == index else set()
        if "memory_used" in spoilt and str(faults["nvmlDeviceGetMemoryInfo"]) == "Not Supported":
            spoilt |= {"memory_total", "unified"}
        elif "memory_used" in spoilt and isinstance(faults["nvmlDeviceGetMemoryInfo"], Exception):
            spoilt |= {"memory_total"}
        for field in fields(Gpu):
            if field.name not in {*spoilt, "notes", "visible"}:
                assert getattr(gpu, field.name) == getattr(whole[gpu.index], field.name), field.name
        for name in spoilt & {"utilization", "temperature", "power", "power_limit"}:
            assert getattr(gpu, name) is None
        # 4 GiB less a byte is a memory that can be in use: nothing about it is to be told.
        told = spoilt - ({"memory_used"} if isinstance(gpu.memory_used, int) else set())
        if told - {"uuid", "processes"}:
            assert gpu.notes
        text = "\n".join(line.plain for line in gpu_lines(gpu, [], 60, None, {}))
        assert not re.search(r"\d{8}|-1|\d[PEZY]B|None", text)


def test_a_broken_gpu_spoils_none_of_the_others() -> None:
    nvml = FakeNvml(2)
    nvml.faults["nvmlDeviceGetHandleByIndex", 0] = RuntimeError("GPU is lost")
    lost, other = Nvidia(nvml).read()
    assert "fallen off the bus" in lost.notes[0]
    assert other == Nvidia(FakeNvml(2)).read()[1]


@pytest.mark.parametrize("total", [0, 2**64 - 1, RuntimeError("Not Supported")])
def test_unified_memory_is_the_machines(total: object) -> None:
    nvml = FakeNvml()
    told = total if isinstance(total, Exception) else SimpleNamespace(used=0, total=total)
    nvml.faults["nvmlDeviceGetMemoryInfo", 0] = told
    [gpu] = Nvidia(nvml).read()
    assert gpu.memory_total == psutil.virtual_memory().total
    assert "(the machine's)" in "\n".join(line.plain for line in gpu_lines(gpu, [], 80, None, {}))


PARTS = st.one_of(
    st.sampled_from(
        ["", "-1", "x", " 1", "1gpu2", "+2", "-0", "GPU-", "GPU-ab", "GPU-abc", "GPU-b", "GPU-cd1", "GPU-zz"]
    ),
    st.integers(-1, 5).map(str),
)
UUIDS = ["GPU-abc", "GPU-abd", "GPU-b12", "GPU-cd1"]


@settings(deadline=None, max_examples=300)
@given(st.lists(PARTS, max_size=5))
def test_cuda_visible_devices_as_torch_reads_them(parts: list[str]) -> None:
    import torch.cuda as oracle

    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ",".join(parts)}):
        wanted = oracle._parse_visible_devices()
        if wanted and isinstance(wanted[0], str):
            right = oracle._transform_uuid_to_ordinals(wanted, UUIDS)
        else:
            right = list(itertools.takewhile(lambda n: n < len(UUIDS), wanted))
        assert cuda_visible.visible(UUIDS, {}) == right


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("MIG-aa", [True, False]),
        ("MIG-b", [False, True]),
        ("MIG-a", [False, False]),
        ("MIG-aa,MIG-ab", [True, False]),
        ("MIG-GPU-0001/1/0", [False, True]),
        ("MIG-b,MIG-b", [False, False]),
        ("1,-1,0", [False, True]),
    ],
)
def test_parts_of_gpus(monkeypatch: pytest.MonkeyPatch, value: str, right: list[bool]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    nvml = FakeNvml(2)
    nvml.mig = True
    nvml.parts = {0: ["MIG-aa", "MIG-ab"], 1: ["MIG-ba"]}
    assert [gpu.visible for gpu in Nvidia(nvml).read()] == right


def test_numbers_of_unlike_gpus_are_in_doubt_unless_their_order_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(2)
    nvml.faults["nvmlDeviceGetName", 1] = "NVIDIA T4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.visible for gpu in Nvidia(nvml).read()] == [None, None]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert [gpu.visible for gpu in Nvidia(nvml).read()] == [False, True]


def test_here(tmp_path: Path) -> None:
    """The real driver, or the word that there is none."""
    nvidia = Nvidia()
    assert nvidia.read() or nvidia.why
    assert nvml_error(RuntimeError("")) == "RuntimeError"


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
