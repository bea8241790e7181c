"""What tokens stand for: texts to tokens and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Subset

from torchdeck.core.errors import UserError

#: The vocabulary of texts that are taken byte by byte: each token is one byte.
BYTES = tuple(map(chr, range(256)))


@dataclass(frozen=True)
class Codec:
    """What a data set of the user's makes of tokens, and of a text."""

    decode: Callable[[list[int]], Any]
    encode: Callable[[str], Any] | None = None


def decoded(tokens: Sequence[int], vocabulary: Sequence[str], codec: Codec | None = None) -> str:
    """The text that tokens stand for: characters one after the other, words with spaces between them."""
    if vocabulary == BYTES:
        return bytes(tokens).decode("utf-8", "replace")
    if vocabulary:
        between = "" if all(len(name) == 1 for name in vocabulary) else " "
        return between.join(vocabulary[token] for token in tokens)
    return str(codec.decode(list(tokens))) if codec is not None else ""


def encoded(text: str, vocabulary: Sequence[str], codec: Codec | None = None, where: str | None = None) -> list[int]:
    """The tokens of a text; ``where`` it stands, for messages (default: in task.args.prompt).

    Raises UserError for one that the vocabulary has not.
    """
    if vocabulary == BYTES:
        return list(text.encode())
    if not vocabulary:
        if codec is None or codec.encode is None:
            return []
        made = codec.encode(text)
        return [int(token) for token in getattr(made, "ids", made)]
    number = {name: i for i, name in enumerate(vocabulary)}
    parts = list(text) if all(len(name) == 1 for name in vocabulary) else text.split()
    unknown = next((part for part in parts if part not in number), None)
    if unknown is not None:
        raise UserError(
            f"{where or f'task.args.prompt = {text!r}'} holds {unknown!r}, none of the {len(vocabulary)} tokens of the "
            "data.",
            field=None if where else "task.args.prompt",
        )
    return [number[part] for part in parts]


def bytes_of_tokens(vocabulary: Sequence[str]) -> list[int] | None:
    """How many bytes each token stands for, in UTF-8; None where that is not known: of parts of words and of words,
    between which there are spaces or none."""
    if vocabulary == BYTES:
        return [1] * len(vocabulary)
    if not vocabulary or any(len(name) != 1 for name in vocabulary):
        return None
    return [len(name.encode("utf-8", "surrogatepass")) for name in vocabulary]


def vocabulary_of(dataset: Any) -> tuple[tuple[str, ...], Codec | None]:
    """The vocabulary that a data set of the user's keeps (``itos``, ``stoi``, ``vocabulary`` or ``vocab``), and how
    it decodes tokens (``decode`` or a ``tokenizer`` that does)."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    for holder in (dataset, getattr(dataset, "vocab", None)):
        for kept in (getattr(holder, name, None) for name in ("itos", "stoi", "vocabulary", "vocab")):
            if names := _listed(kept) or _inverted(kept):
                return names, None
    for holder in (dataset, getattr(dataset, "tokenizer", None)):
        decode, encode = getattr(holder, "decode", None), getattr(holder, "encode", None)
        if callable(decode):
            return (), Codec(decode, encode if callable(encode) else None)
    return (), None


def _listed(itos: Any) -> tuple[str, ...]:
    if isinstance(itos, dict) and sorted(map(str, itos)) == sorted(map(str, range(len(itos)))):
        itos = [itos[i] for i in range(len(itos))] if 0 in itos else []
    if isinstance(itos, list | tuple) and all(isinstance(name, str) for name in itos):
        return tuple(itos)
    return ()


def _inverted(stoi: Any) -> tuple[str, ...]:
    if not isinstance(stoi, dict) or sorted(map(str, stoi.values())) != sorted(map(str, range(len(stoi)))):
        return ()
    return _listed({int(number): name for name, number in stoi.items()})
