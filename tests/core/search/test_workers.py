"""Where workers run, and what becomes of a storage's address."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_nvml import FakeNvml

from torchdeck.core.experiment import toml
from torchdeck.core.machine.nvidia import Nvidia, assignable
from torchdeck.core.search import opening as studies
from torchdeck.core.search import storage as storages
from torchdeck.core.search import workers
from torchdeck.core.search.workers import Workers


def test_each_worker_gets_its_gpu_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers, "assignable", lambda: assignable(Nvidia(FakeNvml(2))))
    monkeypatch.setattr(workers, "cores", lambda: 8)
    study = studies.create(toml.load("digits", ["search.space.optimizer.lr=0.1 .. 1"]), tmp_path)
    four = Workers(study, 4, lambda trial: None, print, False)
    found = [four.worker_environment(place) for place in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["GPU-0000", "GPU-0001", "GPU-0000", "GPU-0001"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"2"}


def test_what_the_user_has_bound_stays_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert assignable(Nvidia(FakeNvml(8))) == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert assignable(Nvidia(FakeNvml(8))) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db/optuna", "postgresql://me:***@db/optuna"),
        ("mysql+pymysql://me:secret@db/optuna", "mysql+pymysql://me:***@db/optuna"),
        ("sqlite:////runs/optuna.db", "sqlite:////runs/optuna.db"),
        ("journal:///runs/optuna.journal", "journal:///runs/optuna.journal"),
        ("nonsense", "nonsense://..."),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert storages.hidden(url) == shown


def test_network_disks_get_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import psutil

    disks = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: disks)
    assert storages.url_of("auto", tmp_path / "runs" / "s") == f"journal://{tmp_path}/runs/s/optuna.journal"
    assert storages.url_of("auto", Path("/elsewhere")) == "sqlite:////elsewhere/optuna.db"


def test_the_address_is_for_nobody_else(tmp_path: Path) -> None:
    study = studies.create(toml.load("digits", ["search.space.optimizer.lr=0.1 .. 1", "search.name=s"]), tmp_path)
    assert (study.folder / "study.json").stat().st_mode & 0o777 == 0o600
