"""Text, character by character: Python's own documentation, which comes with Python."""

from __future__ import annotations

import numpy as np
import torch

from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.errors import UserError

#: A new line and the printable characters of ASCII.
CHARACTERS = ("\n", *map(chr, range(0x20, 0x7F)))


def python_docs() -> str:
    """What ``help("topics")`` of this Python has to say, topics in the order of their names, in ASCII.

    Raises UserError where Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "data.name = 'python_docs': this Python has no pydoc_data.topics (Debian has it in libpython3-stdlib).",
            field="data.name",
        ) from None
    return "".join(c for name in sorted(topics) for c in topics[name] if c in _NUMBERS)


_NUMBERS = {character: number for number, character in enumerate(CHARACTERS)}


def load_python_docs(length: int, characters: int) -> Source:
    """Pieces [N, length] of the text, which do not overlap, and for each character the one that follows it [N, length].

    Raises UserError where there is not a single piece.
    """
    text = python_docs()[: characters or None]
    codes = torch.from_numpy(np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64))
    tokens = torch.where(codes == ord("\n"), 0, codes - 0x20 + 1)
    pieces = (len(tokens) - 1) // length
    if pieces < 2:
        raise UserError(
            f"data.args.length = {length}: the text has {len(tokens):,} characters, which is less than two pieces.",
            field="data.args.length",
        )
    x, y = (tokens[start : start + pieces * length].view(pieces, length) for start in (0, 1))
    return Source(
        Arrays(x.clone(), y.clone()),
        None,
        "language",
        False,
        place="Python's documentation (pydoc_data.topics)",
        vocabulary=CHARACTERS,
        tokens=len(CHARACTERS),
    )
