"""Texts made tokens by the tokenizer that lies in the folder of a model of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from torchdeck.core import catalog
from torchdeck.core.data.items import Layout, Taken
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.model_schema import Model

#: Files by which a folder is known to hold a tokenizer.
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def tokenizer_folder(model: Model) -> str | None:
    """The folder of a model of the user's (``model.weights``) that holds a tokenizer; None where there is none."""
    if not model.weights or not catalog.is_user_code(model.name):
        return None
    folder = Path(model.weights).expanduser()
    return str(folder) if any((folder / name).is_file() for name in _FILES) else None


def tokenized(x: Any, folder: str | None, layout: Layout, notes: list[str]) -> Tokenized | None:
    """What makes batches of items whose inputs ``x`` are texts, or tokens of any length; None for others. What is not
    used of them is told.

    Raises UserError for more than two texts, of which is not known what they are.
    """
    if folder is None:
        return None
    found = _texts(x)
    if isinstance(x, Mapping) and "input_ids" in x:
        left = sorted(str(key) for key in found)
        if left:
            notes.append(f"The items are tokens already: {', '.join(left)} of them not used.")
        return Tokenized(folder, layout, ())
    if not found:
        return None
    if len(found) > 2:
        raise UserError(
            f"The items of {layout.where!r} hold several texts ({', '.join(map(str, found))}); name the one or two "
            "that the tokenizer gets in data.inputs.",
            field="data.inputs",
        )
    left = [str(key) for key in x if key not in found] if isinstance(x, Mapping) else []
    made = Tokenized(folder, layout, tuple(found))
    of = f" ({', '.join(map(str, found))})" if isinstance(x, Mapping) else ""
    unused = f"; {', '.join(left)} of the items: not used" if left else ""
    notes.append(f"Texts{of} go through the tokenizer of {folder!r}, cut after {made.most:,} tokens{unused}.")
    return made


def _texts(x: Any) -> list[Any]:
    """The keys or positions of the texts among the inputs; [0] of a single text."""
    if isinstance(x, str):
        return [0]
    parts = x.items() if isinstance(x, Mapping) else enumerate(x if isinstance(x, tuple) else ())
    return [key for key, value in parts if isinstance(value, str)]


class Tokenized:
    """Makes a batch of items: tokens padded to the longest, by the names that the model takes, and the targets."""

    def __init__(self, folder: str, layout: Layout, texts: tuple[Any, ...]) -> None:
        """``texts``: the keys or positions of the texts; none where the items are tokens."""
        self._folder, self._layout, self._texts = folder, layout, texts
        self._tokenizer: Any = None
        config = Path(folder) / "config.json"
        known = json.loads(config.read_text()) if config.is_file() else {}
        longest = known.get("max_position_embeddings") or 512
        #: How many tokens a text has at most.
        self.most = min(int(self._loaded().model_max_length), int(longest))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tokenizer": None}

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                # Code in the folder is not run, and nobody is asked whether it may be.
                self._tokenizer = AutoTokenizer.from_pretrained(
                    self._folder, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, ImportError, KeyError) as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"model.weights = {self._folder!r}: its tokenizer can't be read: {first}", field="model.weights"
                ) from None
        return self._tokenizer

    def __call__(self, items: list[Any]) -> Taken:
        """The batch: inputs a dict of tensors [B, longest]."""
        inputs, targets = zip(*map(self._layout.split, items), strict=True)
        tokenizer = self._loaded()
        if self._texts:
            columns = [[x if isinstance(x, str) else x[key] for x in inputs] for key in self._texts]
            made = tokenizer(*columns, padding=True, truncation=True, max_length=self.most, return_tensors="pt")
        else:
            names = [name for name in tokenizer.model_input_names if name in inputs[0]]
            made = tokenizer.pad([{name: x[name] for name in names} for x in inputs], return_tensors="pt")
        return Taken(dict(made), None if targets[0] is None else self._targets(targets, inputs))

    def _targets(self, targets: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """The targets as a batch; a class for each token padded with one that does not count."""
        of_tokens = not self._texts and np.shape(targets[0]) == np.shape(inputs[0]["input_ids"])
        if not of_tokens:
            return default_collate(list(targets))
        return pad_sequence([torch.as_tensor(target) for target in targets], batch_first=True, padding_value=-100)
