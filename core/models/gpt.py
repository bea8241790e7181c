"""A small GPT: a transformer that sees what came before (Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchdeck.core.errors import UserError


class _Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return self.out(seen.transpose(1, 2).reshape(batch, length, width))


class _Block(nn.Module):
    """Attention and a small network, each around a shortcut and after a norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Tokens [B, T] to the logits of those that follow [B, T, V]; T is at most the length that it was made for."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, layers: int, heads: int, dropout: float) -> None:
        """Raises UserError for inputs that are no rows of tokens, and a width that the heads don't share."""
        super().__init__()
        if len(shape) != 1:
            raise UserError(
                f"model.name = 'gpt' takes rows of tokens, not inputs of the shape {list(shape)}.", field="model.name"
            )
        if width % heads:
            raise UserError(
                f"model.args.width = {width} is not a multiple of model.args.heads = {heads}.", field="model.args.width"
            )
        self.tokens = nn.Embedding(outputs, width)
        self.places = nn.Embedding(shape[0], width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # What is added to a shortcut is scaled down by how often that is done (section 2.3).
                added = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if added else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to [B, T, V]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.tokens(tokens) + self.places(places))
        return self.head(self.norm(self.blocks(x)))
