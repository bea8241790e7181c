"""A small GAN of images (Goodfellow et al. 2014): its two modules, and the step that trains them.

It is also an example: a step of your own is such a function, and its models are such modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

#: Steps between two pictures of samples, and how many samples each has.
_EVERY, _SHOWN = 200, 64


class Generator(nn.Module):
    """Noise [N, noise] to images [N, *input_shape] with values of 0 to 1."""

    def __init__(self, input_shape: Sequence[int], noise: int = 32, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.noise, self.shape = noise, tuple(input_shape)
        layers: list[nn.Module] = []
        for before, after in zip((noise, *widths), widths, strict=False):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear((noise, *widths)[-1], math.prod(self.shape)), nn.Sigmoid())

    def forward(self, noise: Tensor) -> Tensor:
        """Images of standard normal noise."""
        return self.body(noise).unflatten(1, self.shape)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """That many images, on the device of the weights."""
        device = next(self.parameters()).device
        return self(torch.randn(count, self.noise, generator=generator).to(device))


class Discriminator(nn.Module):
    """Images [N, *input_shape] to the logit of each being real, [N]."""

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int] = (256, 128), dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        sizes = (math.prod(input_shape), *widths)
        for before, after in zip(sizes, widths, strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.body(images).squeeze(1)


def step(models: Any, optimizers: Any, batch: Any, writer: Any) -> dict[str, Tensor]:
    """One step of the discriminator and one of the generator, with the non-saturating loss, and labels of real images
    smoothed to 0.9 (Salimans et al. 2016)."""
    real = batch[0]
    generator, discriminator = models["generator"], models["discriminator"]
    fake = generator.sample(len(real))

    on_real, on_fake = discriminator(real), discriminator(fake.detach())
    smooth = torch.full_like(on_real, 0.9)
    discriminator_loss = binary_cross_entropy_with_logits(on_real, smooth) + softplus(on_fake).mean()
    optimizers["discriminator"].zero_grad()
    optimizers["discriminator"].backward(discriminator_loss)
    optimizers["discriminator"].step()

    generator_loss = softplus(-discriminator(fake)).mean()
    optimizers["generator"].zero_grad()
    optimizers["generator"].backward(generator_loss)
    optimizers["generator"].step()

    if optimizers["generator"].steps % _EVERY == 0:
        _show(generator, writer)
    return {
        "discriminator_loss": discriminator_loss,
        "generator_loss": generator_loss,
        "real_is_real": on_real.sigmoid().mean(),
        "fake_is_real": on_fake.sigmoid().mean(),
    }


@torch.no_grad()
def _show(generator: Generator, writer: Any) -> None:
    """Images of always the same noise, which takes nothing from the training's random numbers."""
    if generator.shape[0] not in (1, 3):
        return
    generator.eval()
    images = generator.sample(_SHOWN, torch.Generator().manual_seed(0))
    generator.train()
    writer.add_images("samples", images.float().cpu())
