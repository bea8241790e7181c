"""An image and a row of a table: neither tells the class alone."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from torchdeck.core.data.source import Arrays, Source

#: Numbers that each image of the training is seen with.
_EACH = 5


def load_digit_and_number(seed: int) -> Source:
    """scikit-learn's digits [N, 1, 8, 8] from 0 to 1, each with a number from 0 to 9 as a row of a table [N, 10] with a
    one in its place. The class: whether the digit is less than the number, the same or more. An image of the training
    is there with several numbers; those of validation and test are others."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    digits = torch.from_numpy(bunch.target).long()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits), generator=generator)
    test, val, train = order[:360], order[360:650], order[650:].repeat(_EACH)

    def paired(at: Tensor) -> Arrays:
        digit = digits[at]
        # Of numbers that are drawn a tenth would be the same.
        same = torch.rand(len(at), generator=generator) < 0.25
        number = torch.where(same, digit, torch.randint(10, (len(at),), generator=generator))
        table = torch.nn.functional.one_hot(number, 10).float()
        return Arrays((images[at], table), (digit - number).sign() + 1)

    return Source(
        paired(train),
        paired(test),
        "classification",
        False,
        ("less", "same", "more"),
        place="scikit-learn's digits, and numbers that are drawn",
        val=paired(val),
        plain=False,
    )
