"""Hostile files, by the hundred: looked at in every way, and nothing happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_hostile_files_are_told_and_nothing_is_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("malicious.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "files")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert saw["files"] > 1000
    assert saw["opened"] > 0.9 * saw["files"]
    assert saw["wrong"] == []
    assert saw["seen"] == []
    assert not saw["canary"]
    assert not saw["changed"]
    assert [p.name for p in tmp_path.iterdir()] == ["files"]
