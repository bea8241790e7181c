"""Files of weights on this machine: of runs, below given folders, and where torch, timm and Hugging Face keep them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchdeck.core.checkpoints.names import BEST, LAST

#: Suffixes that mean weights; of others (.bin, .pkl, .npz) most files are something else, and they are opened by name.
_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".pt2")
_DEPTH = 6


@dataclass(frozen=True)
class FoundCheckpoint:
    """A file; ``names`` are all that it has in its folder (best.pt and step-*.pt are often one)."""

    path: Path
    names: tuple[str, ...]
    #: The run that it is of; None for others.
    run: Path | None
    size: int
    #: Seconds since 1970.
    modified: float

    @property
    def title(self) -> str:
        """Its name, and what else it is."""
        kinds = [name.removesuffix(".pt") for name in self.names if name in (BEST, LAST)]
        own = next((name for name in self.names if name not in (BEST, LAST)), self.names[0])
        return f"{own} ({', '.join(kinds)})" if kinds and own not in (BEST, LAST) else own


def caches() -> list[Path]:
    """Where torch.hub (torchvision too) and huggingface_hub (timm too) keep what they have downloaded."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    torch_home = Path(os.environ.get("TORCH_HOME", home / "torch")).expanduser()
    hf_home = Path(os.environ.get("HF_HOME", home / "huggingface")).expanduser()
    return [torch_home / "hub" / "checkpoints", hf_home / "hub"]


def find_checkpoints(
    runs: Iterable[Path], folders: Iterable[Path], stop: Callable[[], bool] = lambda: False
) -> list[FoundCheckpoint]:
    """The checkpoints of these runs, then every file of weights below these folders, the newest first in each.

    What can't be read is passed over; links to folders are not followed.
    """
    found: dict[tuple[int, int], FoundCheckpoint] = {}
    for run in runs:
        if stop():
            break
        for one in sorted(_in_folder(run / "checkpoints", run), key=lambda f: -f.modified):
            found.setdefault(_key(one), one)
    others: list[FoundCheckpoint] = []
    for folder in folders:
        for inner in _below(folder, stop):
            others += _in_folder(inner, None)
    for one in sorted(others, key=lambda f: -f.modified):
        found.setdefault(_key(one), one)
    return list(found.values())


def _key(found: FoundCheckpoint) -> tuple[int, int]:
    try:
        stat = found.path.stat()
    except OSError:
        return (0, hash(found.path))
    return (stat.st_dev, stat.st_ino)


def _in_folder(folder: Path, run: Path | None) -> list[FoundCheckpoint]:
    by_inode: dict[tuple[int, int], list[tuple[str, os.stat_result]]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIXES) or entry.name.endswith(".index.json"):
                    try:
                        stat = entry.stat()
                        if entry.is_file():
                            by_inode.setdefault((stat.st_dev, stat.st_ino), []).append((entry.name, stat))
                    except OSError:
                        continue
    except OSError:
        return []
    made = []
    for listed in by_inode.values():
        names = tuple(sorted((name for name, _ in listed), key=lambda n: (n in (BEST, LAST), n)))
        stat = listed[0][1]
        made.append(FoundCheckpoint(folder / names[0], names, run, stat.st_size, stat.st_mtime))
    return made


def _below(folder: Path, stop: Callable[[], bool]) -> Iterator[Path]:
    waiting = [(folder, 0)]
    while waiting and not stop():
        one, depth = waiting.pop()
        yield one
        if depth >= _DEPTH:
            continue
        try:
            with os.scandir(one) as entries:
                inner = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        skipped = {"node_modules", "__pycache__", "site-packages", "checkpoints" if (one / "run.json").exists() else ""}
        waiting += [
            (one / name, depth + 1)
            for name in sorted(inner, reverse=True)
            if name not in skipped and not name.startswith(".")
        ]
