"""Checkpoints and weights read without executing anything in them."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.checkpoints import load
from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.names import LAST, generations, step_of
from torchdeck.core.checkpoints.stored import PREFIXES
from torchdeck.core.errors import UserError, ran_out_of_memory

#: Version of the checkpoint's layout; a reader refuses a later one.
VERSION = 1


def load_file(path: Path, where: str) -> Any:
    """What is in a file that torch.save wrote, tensors on the CPU; ``weights_only=True``, so nothing in it runs.

    Raises UserError when the file is missing, damaged, not torch's, or wants to run code, MemoryError when it does not
    fit.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no file {str(path)!r}.") from None
    except IsADirectoryError:
        raise UserError(f"{where}: {str(path)!r} is a folder, not a checkpoint.") from None
    except PermissionError as error:
        raise UserError(f"{where}: {str(path)!r} can't be read: {error.strerror}.") from None
    except pickle.UnpicklingError as error:
        called = _refused_call(error)
        if called is not None:
            raise UserError(
                f"{where}: {str(path)!r} would run {called} when loaded; it holds more than tensors and was not opened."
            ) from None
        raise UserError(f"{where}: {str(path)!r} is damaged or was not written by torch.save.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if ran_out_of_memory(error):
            raise MemoryError(str(error)) from None  # the file is whole: it must not be set aside as damaged
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: {str(path)!r} is damaged or was not written by torch.save ({reason}).") from None


def _refused_call(error: pickle.UnpicklingError) -> str | None:
    """What ``weights_only=True`` refused to call; None where something else is wrong. torch has one class for both."""
    text = str(error)
    if not any(words in text for words in ("Unsupported global", "Unsupported operand", "Trying to")):
        return None
    return text.partition("GLOBAL ")[2].split(" ")[0] or "code"


def load_checkpoint(path: Path, where: str) -> dict[str, Any]:
    """A checkpoint of ours, every byte of it checked.

    Raises UserError when it is damaged, foreign, or of a later version.
    """
    _refuse_other_formats(path, where)
    state = load_file(path, where)
    if not isinstance(state, dict) or "torchdeck" not in state:
        raise UserError(
            f"{where}: {str(path)!r} is not a torchdeck checkpoint; as plain weights it can be model.weights."
        )
    if broken := _broken_part(path):
        raise UserError(f"{where}: {str(path)!r} is damaged: the checksum of {broken} is wrong.")
    if not isinstance(state["torchdeck"], int) or state["torchdeck"] > VERSION:
        raise UserError(f"{where}: {str(path)!r} was written by a later torchdeck (layout {state['torchdeck']}).")
    return state


def _refuse_other_formats(path: Path, where: str) -> None:
    """Files of weights that are whole, but can't be checkpoints of ours."""
    try:
        kind = inspect_file(path).format
    except UserError:
        return  # torch.load tells what is wrong
    if not kind.startswith(("torch zip", "torch legacy", "pickle")):
        raise UserError(
            f"{where}: {str(path)!r} is {kind}, which holds no experiment and so is no torchdeck checkpoint; "
            "evaluate, predict and resume need one, as plain weights it can be model.weights."
        )


def _broken_part(path: Path) -> str | None:
    """The first part of the zip archive whose CRC-32 is wrong; torch.load doesn't look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return "the archive"


def load_weights(path: Path, where: str) -> dict[str, Tensor]:
    """The state_dict in a file of any kind (``torchdeck.core.checkpoints.archive``), prefixes of wrappers taken off.

    The pickle in it is read and not run, so that files that ``weights_only=True`` rejects can be used, too.

    Raises UserError when there is none, it is damaged, or it would reach beyond itself when unpickled.
    """
    found = load.weights(path, where)
    if zipfile.is_zipfile(path) and (broken := _broken_part(path)):
        raise UserError(f"{where}: {str(path)!r} is damaged: the checksum of {broken} is wrong.")
    return found


def weights_in(state: Any, path: Path, where: str) -> dict[str, Tensor]:
    """The state_dict in what a file held.

    Raises UserError when there is none.
    """
    if isinstance(state, dict) and "torchdeck" in state:
        state = (state.get("ema") or {}).get("model") or state["model"]
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{where}: {str(path)!r} holds no state_dict (names and tensors).")
    return strip_prefixes(state)


def strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict without the prefixes that wrappers add to every name."""
    stripping = True
    while stripping:
        stripping = False
        for prefix in PREFIXES:
            if state and all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
                stripping = True
    return state


def newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None when there is none at all.

    A damaged one is told of and set aside (``*.damaged``), and the generation before is taken.

    Raises UserError when there are some and none is whole.
    """
    # A kill may have fallen between the newest generation and its second name; a copied run may have last.pt alone.
    candidates = [*generations(folder), folder / LAST]
    errors: list[str] = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path, "--resume")
        except UserError as error:
            errors.append(str(error))
            continue
        _set_aside_after(folder, state["step"])
        if errors:
            warn(f"{errors[0]} Going on from {path.name}, step {state['step']}.")
        return state
    if errors:
        raise UserError(errors[0])
    return None


def _set_aside_after(folder: Path, step: int) -> None:
    """Later generations than the one that is gone on from are damaged; they must not count as the newest ones."""
    for path in generations(folder):
        if step_of(path) > step:
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{path.name}.damaged"))
