"""Pictures for TensorBoard: a grid of samples and the confusion matrix. Pillow comes with torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def grid(images: Tensor, columns: int = 5) -> Tensor:
    """Images [N, C, H, W] side by side as one image [C, ...] with values 0..1, each stretched to its own range."""
    images = images.detach().float().cpu()
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    images = (images - low) / (high - low).clamp(min=1e-6)
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.zeros(c, rows * (h + 1) + 1, columns * (w + 1) + 1)
    for i, image in enumerate(images):
        y, x = divmod(i, columns)
        sheet[:, y * (h + 1) + 1 : (y + 1) * (h + 1), x * (w + 1) + 1 : (x + 1) * (w + 1)] = image
    return sheet


def confusion_matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Tensor:
    """The matrix as an image [3, H, W]: rows are the true classes, columns the predicted ones, shades are shares."""
    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    n = len(table)
    cell = max(14, min(48, 1200 // n))
    font = ImageFont.load_default(size=max(9, cell // 4))
    labels = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    margin = int(max(font.getlength(label) for label in labels)) + 24
    side = n * cell
    picture = Image.new("RGB", (margin + side + 8, margin + side + 8), "white")
    draw = ImageDraw.Draw(picture)
    for i in range(n):
        for j in range(n):
            shade = int(255 * (1 - shares[i, j]))
            box = (margin + j * cell, margin + i * cell, margin + (j + 1) * cell - 1, margin + (i + 1) * cell - 1)
            draw.rectangle(box, fill=(shade, shade, 255), outline=(220, 220, 220))
            if cell >= 28 and table[i, j]:
                ink = "white" if shares[i, j] > 0.5 else "black"
                centre = (margin + j * cell + cell / 2, margin + i * cell + cell / 2)
                draw.text(centre, str(int(table[i, j])), fill=ink, font=font, anchor="mm")
        draw.text((margin - 6, margin + i * cell + cell / 2), labels[i], fill="black", font=font, anchor="rm")
        _sideways(picture, labels[i], font, (margin + i * cell + cell // 2, margin - 6))
    draw.text((6, 6), "true \\ predicted", fill="black", font=font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _sideways(
    picture: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, at: tuple[int, int]
) -> None:
    """Text from ``at`` upwards."""
    box = font.getbbox(text)
    strip = Image.new("RGB", (int(box[2]) + 2, int(box[3]) + 4), "white")
    ImageDraw.Draw(strip).text((0, 0), text, fill="black", font=font)
    turned = strip.rotate(90, expand=True)
    picture.paste(turned, (at[0] - turned.width // 2, at[1] - turned.height))
