"""The same LightningModule trained by Lightning's own Trainer, for tests to compare with."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Subset

from torchdeck.core import usercode
from torchdeck.core.checkpoints.read import load_checkpoint

PLAIN = (
    "tracking.tensorboard=false",
    "trainer.batch_size=32",
    "trainer.epochs=2",
    "data.shuffle=false",
    "data.workers=0",
)


def weights(run: Any) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.path / "checkpoints" / "last.pt", "t")["model"]


def by_lightning(code: str, run: Any, name: str, epochs: int = 2, **args: Any) -> tuple[Any, Any]:
    """The same module, trained by Lightning on the same samples in the same order."""
    data = usercode.load(f"{code}:Digits", "t")()
    feeds = run.session.built.data
    torch.manual_seed(0)
    module = usercode.load(f"{code}:{name}", "t")(**args)
    train, val = (
        DataLoader(Subset(data, feed.indices.tolist()), 32) if feed else None for feed in (feeds.train, feeds.val)
    )
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, train, val)
    return module, trainer
