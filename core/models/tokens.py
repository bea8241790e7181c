"""Tokens that a model has no embedding of, told in a sentence."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchdeck.core.data.items import tensors_in
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError


def with_greatest_token(x: Any, info: DataInfo) -> Any:
    """Tokens [B, T] with the greatest that the data have in place of the first one: what is tried with these holds for
    all. Other inputs as they are."""
    if info.task != "language" or not isinstance(x, Tensor) or x.is_floating_point() or not x.numel():
        return x
    x = x.clone()
    x.view(-1)[0] = info.outputs - 1
    return x


def is_beyond(error: BaseException | None) -> bool:
    """Whether an error is what an embedding raises for a number that it has no row for (torch's own words)."""
    while error is not None:
        if isinstance(error, IndexError) and "index out of range" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def beyond_embedding(net: nn.Module, x: Any, name: str) -> UserError:
    """What is told of inputs ``x`` with a number that no embedding of the model called ``name`` has a row for: a token
    beyond the vocabulary, or a position beyond the longest sequence."""
    rows = {label: m.num_embeddings for label, m in net.named_modules() if isinstance(m, nn.Embedding)}
    whole = [t for t in tensors_in(x) if t.numel() and not t.is_floating_point()]
    greatest = max((int(t.max()) for t in whole), default=-1)
    least = min((int(t.min()) for t in whole), default=0)
    length = max((t.shape[1] for t in whole if t.ndim > 1), default=0)
    largest = max(rows, key=lambda label: rows[label], default="")
    smallest = min(rows, key=lambda label: rows[label], default="")
    short = smallest if rows and rows[smallest] < length else ""
    if least < 0:
        what = f"the inputs hold the token {least}; tokens begin at 0"
    elif rows and greatest >= rows[largest]:
        what = (
            f"the data hold the token {greatest}, beyond the {rows[largest]} rows of its embedding {largest!r}; give "
            f"it a vocabulary of {greatest + 1} or more"
        )
    elif short:
        what = (
            f"the sequences have {length} tokens, beyond the {rows[short]} positions of its embedding {short!r}; cut "
            "them, or give it a longer context"
        )
    else:
        what = f"an embedding has too few rows for the inputs, whose greatest number is {greatest}"
    return UserError(f"model.name = {name!r}: {what}.", field="model.args")
