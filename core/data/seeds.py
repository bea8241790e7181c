"""Seeds made from one seed; without torch, for those who only plan."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: int | str) -> int:
    """A seed of its own for each use: 63 bits of a hash of the run's seed and what it is for."""
    text = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
