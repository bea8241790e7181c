"""Whether the process that writes a run still lives: a pid alone is soon another's."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil

#: Seconds between two heartbeats, and after how many a run on another machine counts as dead.
HEARTBEAT = 10.0
STALE = 60.0


def identity() -> dict[str, Any]:
    """What tells this process from every other: host, boot, pid and the moment it was started."""
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
    }


def alive(who: dict[str, Any], heartbeat: float) -> bool:
    """Whether that process lives.

    On this boot of this machine its pid and start time decide; elsewhere (another machine, another container) the
    heartbeat is all there is.
    """
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    if (who.get("host"), who.get("boot_id"), who.get("pid_namespace")) != here:
        if who.get("host") == here[0] and who.get("boot_id") != here[1]:
            return False  # this machine was started anew since
        return time.time() - heartbeat < STALE
    try:
        process = psutil.Process(int(who["pid"]))
        started = process.create_time()
        return abs(started - float(who["process_started"])) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False
    except psutil.AccessDenied:
        return True


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _pid_namespace() -> str:
    if sys.platform == "linux":
        try:
            return str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            pass
    return ""
