"""What comes from the terminal: bytes that are no UTF-8 are dropped.

Textual decodes its input strictly, in a thread: one byte of another encoding, pasted or sent by a terminal that is set
to Latin-1, ended the workbench (Textualize/textual#6456).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import partial


def lenient(encoding: str) -> Callable[..., codecs.IncrementalDecoder]:
    """What ``codecs.getincrementaldecoder`` gives, but for decoders that leave out what they can't decode."""
    return partial(codecs.getincrementaldecoder(encoding), errors="ignore")


def drop_undecodable() -> None:
    """Have Textual's drivers, of a terminal and of a browser, read so."""
    from textual.drivers import linux_driver, web_driver

    for driver in (linux_driver, web_driver):
        driver.getincrementaldecoder = lenient  # type: ignore[attr-defined]
