"""Talks with the process that looks at data and model (torchdeck.core.session.preview), so that the screen never waits
for torch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from torchdeck.core.machine.launch import command, environment
from torchdeck.core.session.preview import STALE

#: Seconds without a request after which the process is ended: torch takes hundreds of megabytes.
_IDLE = 60.0
#: Seconds that one look may take.
_LONGEST = 120.0
#: Seconds after which a look that nobody wants any more is broken off.
_PATIENCE = 3.0
#: Bytes in one line of an answer: a deep model's tree, pictures.
_LIMIT = 1 << 26


class Preview:
    """The newest request is the one that counts; answers to older ones are dropped."""

    def __init__(self, answer: Callable[[str, Any], None]) -> None:
        """``answer`` gets (part, value) in the event loop: device, data, model, field, error, done."""
        self._answer = answer
        self._process: asyncio.subprocess.Process | None = None
        self._number = 0
        self._wanted: str | None = None
        self._asked = asyncio.Event()
        self._since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def ask(self, experiment: str) -> None:
        """Look at this experiment (TOML); nothing happens once it is closed."""
        if self._closed:
            return
        self._number += 1
        self._wanted = experiment
        self._asked.set()
        if self._process is not None and self._since is not None and time.monotonic() - self._since > _PATIENCE:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End the process, for good."""
        self._closed = True
        try:
            if self._task is not None:
                self._task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._task
        finally:
            await self._end()

    async def _work(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._asked.wait(), _IDLE)
            except TimeoutError:
                await self._end()
                await self._asked.wait()
            self._asked.clear()
            if self._wanted is not None:
                self._since = time.monotonic()
                await self._look(self._number, self._wanted)
                self._since = None

    async def _look(self, number: int, experiment: str) -> None:
        for _ in range(3):  # when the user's files have changed, the process asks to be started anew
            process = await self._start()
            assert process.stdin is not None and process.stdout is not None
            request = json.dumps({"id": number, "experiment": experiment}).encode() + b"\n"
            try:
                process.stdin.write(request)
                await process.stdin.drain()
                async with asyncio.timeout(_LONGEST):
                    if await self._read(process, number):
                        return
                    code = await process.wait()
            except (ConnectionError, TimeoutError) as error:
                await self._end()
                self._tell(
                    number,
                    "error",
                    f"Reading the data for the preview took longer than {_LONGEST:.0f} s."
                    if isinstance(error, TimeoutError)
                    else "The preview's process has ended.",
                )
                return
            self._process = None
            if number != self._number:
                return
            if code != STALE:
                self._tell(number, "error", f"The preview's process ended (exit code {code}).")
                return

    async def _read(self, process: asyncio.subprocess.Process, number: int) -> bool:
        """Hand on all answers; False when the process ended before it was done, or a newer request waits."""
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            if message.pop("id") != number:
                continue
            for part, value in message.items():
                self._tell(number, part, value)
                if part == "done":
                    return True
        return False

    def _tell(self, number: int, part: str, value: Any) -> None:
        if number == self._number:
            self._answer(part, value)

    async def _start(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *command("torchdeck.core.session.preview"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment(),
                limit=_LIMIT,
            )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
