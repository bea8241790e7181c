"""Autoencoders of fully connected layers, plain and variational."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchdeck.core.models.nets import activation


def _layers(widths: Sequence[int], act: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation(act)]
    return layers


class Autoencoder(nn.Module):
    """Inputs to a few numbers and back; the decoder is the encoder turned round."""

    def __init__(self, shape: Sequence[int], outputs: int, widths: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        sizes = [math.prod(shape), *widths]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers(sizes, activation), nn.Linear(sizes[-1], latent))
        self.decoder = nn.Sequential(*_layers([latent, *sizes[:0:-1]], activation), nn.Linear(sizes[1], sizes[0]))
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """[N, *shape] to the same."""
        return self.decoder(self.encoder(x)).unflatten(1, self.shape)


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014): the mean and the logarithm of the variance of a few numbers,
    which are drawn in training and are their mean in evaluation."""

    def __init__(self, shape: Sequence[int], outputs: int, widths: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        sizes = [math.prod(shape), *widths]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers(sizes, activation), nn.Linear(sizes[-1], 2 * latent))
        self.decoder = nn.Sequential(*_layers([latent, *sizes[:0:-1]], activation), nn.Linear(sizes[1], sizes[0]))
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, *shape] to (logits of the reconstruction [N, *shape], mean [N, latent], log variance [N, latent])."""
        mean, logvar = self.encoder(x).chunk(2, 1)
        drawn = mean + torch.randn_like(mean) * (logvar / 2).exp() if self.training else mean
        return self.decoder(drawn).unflatten(1, self.shape), mean, logvar
