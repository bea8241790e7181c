"""Files of weights and checkpoints written: as torch.save does, or as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from torchdeck.core import files
from torchdeck.core.errors import UserError


def to_torch(value: Any, file: IO[bytes]) -> None:
    """torch.save, with the system's own error.

    Raises OSError when the file can't be written; torch turns that into a RuntimeError about its zip archive.
    """
    errors: list[OSError] = []

    class Writer:
        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                errors.append(error)
                raise

        def flush(self) -> None:
            file.flush()

    try:
        torch.save(value, Writer())  # type: ignore[arg-type]
    except RuntimeError:
        if errors:
            raise errors[0] from None
        raise


def save_weights(
    state: dict[str, Tensor], output: Path, safetensors: bool | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state_dict: as safetensors (None: by the suffix), else as torch.save does; whole or not at all.

    ``metadata`` is for the header of safetensors; torch's files have no such place.

    Raises UserError when it can't be written.
    """
    try:
        with files.replacing(output) as file:
            if output.suffix == ".safetensors" if safetensors is None else safetensors:
                from safetensors.torch import save as to_safetensors

                # Names that share their memory (tied weights) are told apart only as copies.
                file.write(
                    to_safetensors(
                        {n: t.contiguous().clone() for n, t in state.items()}, {"format": "pt", **(metadata or {})}
                    )
                )
            else:
                to_torch(state, file)
    except OSError as error:
        raise UserError(f"{str(output)!r} can't be written: {error.strerror or error}.") from None
