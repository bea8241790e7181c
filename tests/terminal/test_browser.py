"""The workbench in a browser: textual-serve, and a headless Chromium that looks and presses keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from terminals import COMMAND, environment

aiohttp = pytest.importorskip("aiohttp", reason="textual-serve is not installed")
pytest.importorskip("textual_serve", reason="textual-serve is not installed")

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A page in Chromium, over its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._number = connection, 0

    async def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        await self._connection.send_json({"id": self._number, "method": method, "params": parameters})
        async for message in self._connection:
            answer = message.json()
            if answer.get("id") == self._number:
                return answer["result"]
        raise AssertionError("the browser has closed the connection")

    async def picture(self) -> Any:
        from PIL import Image

        shot = await self.call("Page.captureScreenshot")
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    async def press(self, key: str) -> None:
        code = {"text": key, "key": key, "windowsVirtualKeyCode": ord(key.upper())}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **code)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **code)


async def eventually(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await what()):
            await asyncio.sleep(0.3)
    return found


@contextlib.asynccontextmanager
async def browser(tmp_path: Path, url: str) -> AsyncIterator[Page]:
    assert _CHROMIUM is not None
    process = subprocess.Popen(
        [
            _CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,800",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        file = tmp_path / "profile" / "DevToolsActivePort"

        async def port() -> str:
            return file.read_text().split()[0] if file.exists() and file.read_text().split() else ""

        number = await eventually(port)
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{number}/json/new?{url}") as answer:
                address = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=1 << 26) as connection:
                page = Page(connection)
                await page.call("Page.bringToFront")
                yield page
    finally:
        process.kill()
        process.wait()


def share_of(picture: Any, wanted: tuple[int, int, int]) -> float:
    """Share of the pixels that have nearly this colour."""
    import numpy as np

    pixels = np.asarray(picture).astype(int)
    return float((abs(pixels - np.array(wanted)).sum(axis=2) < 24).mean())


@pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed")
async def test_it_opens_in_a_browser_and_obeys_keys(tmp_path: Path, runs_end: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = " ".join([*COMMAND, "digits", "--runs", str(tmp_path / "runs")])
    code = f"from textual_serve.server import Server; Server({command!r}, host='127.0.0.1', port={port}).serve()"
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:

        async def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await eventually(listens)
        async with browser(tmp_path, f"http://127.0.0.1:{port}") as page:
            blue = (1, 120, 212)  # the primary colour: the frame of the pane that has the focus, its cursor

            async def shown() -> Any:
                picture = await page.picture()
                return picture if share_of(picture, blue) > 0.002 else None

            before = await eventually(shown)
            await page.call("Runtime.evaluate", expression="document.querySelector('textarea').focus()")
            await page.press("s")
            runs = tmp_path / "runs"

            async def done() -> bool:
                return any('"status": "done"' in file.read_text() for file in runs.glob("*/run.json"))

            await eventually(done, 120)

            async def drawn() -> bool:
                return share_of(await page.picture(), (255, 166, 43)) > 0.0005  # the curve of the validation

            await eventually(drawn)
            assert before.size == (await page.picture()).size
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    assert re.search(r"digits-mlp", " ".join(p.name for p in (tmp_path / "runs").iterdir()))
