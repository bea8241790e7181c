"""The loops that are compared, all on Fashion-MNIST with the same model and batch size.

All use the same optimizer, but for the tutorial's, which is left as it is written (SGD without momentum).
"""

from __future__ import annotations

import gzip
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchdeck.core.data.vision import load_idx
from torchdeck.core.events import StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.models.build import build_model, wants_channels_last
from torchdeck.core.session.session import Session


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a process of its own: OpenMP waits badly in a process in which two threads have computed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def experiment(model: str, batch_size: int, steps: int, *more: str) -> Experiment:
    """One of ours: SGD with momentum, no augmentation, everything observed."""
    args = {"mlp": "model.args.widths=[512,512]", "cnn": "model.args.channels=[32,64]"}[model]
    return toml.load(
        None,
        [
            "data.name=FashionMNIST",
            f"model.name={model}",
            args,
            f"trainer.batch_size={batch_size}",
            f"trainer.steps={steps}",
            "optimizer.name=SGD",
            "optimizer.lr=0.01",
            *more,
        ],
    )


def net_for(model: str) -> nn.Module:
    """The same model, bare."""
    from torchdeck.core.data.source import DataInfo

    info = DataInfo("FashionMNIST", "classification", (1, 28, 28), 10, tuple("0123456789"))
    return build_model(experiment(model, 1, 1).model, info)


def optimizer_for(net: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer, bare."""
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)


def torchdeck(model: str, batch_size: int, steps: int, *more: str) -> float:
    """Samples per second of a session, from its first summary to its last."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(experiment(model, batch_size, steps, *more), Path(folder))
        subscription = session.subscribe(10**6)
        session.start()
        summaries = [e for e in subscription if isinstance(e, StepSummary)]
        session.join()
        if session.failure:
            raise RuntimeError(session.failure.message)
    first, last = summaries[1], summaries[-1]
    return (last.step - first.step) * batch_size / (last.time - first.time)


def fixed_batch(model: str, batch_size: int, steps: int) -> float:
    """The physical limit: the same batch again and again, nothing read, nothing told."""
    net = net_for(model)
    x, y = torch.randn(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))
    if wants_channels_last(net):
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, loss_function = optimizer_for(net), nn.CrossEntropyLoss()

    def step() -> None:
        loss_function(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(10):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * batch_size / (time.perf_counter() - began)


def torchvision_folder() -> Path:
    """Fashion-MNIST as torchvision wants to find it."""
    place = Path(load_idx("FashionMNIST", None, True).place)
    folder = Path(tempfile.mkdtemp())
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in place.glob("*-ubyte.gz"):
        with gzip.open(file) as source, (raw / file.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    for file in place.glob("*-ubyte"):
        shutil.copy(file, raw)
    return folder


def tutorial(model: str, batch_size: int, steps: int, root: Path) -> float:
    """The loop of the PyTorch quickstart (pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html)."""
    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    loader = DataLoader(datasets.FashionMNIST(root=str(root), train=True, transform=ToTensor()), batch_size=batch_size)
    net, loss_function = net_for(model), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    net.train()
    done, began = 0, 0.0
    while True:
        for batch, (x, y) in enumerate(loader):
            if done == 5:
                began = time.perf_counter()
            loss = loss_function(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if batch % 100 == 0:
                loss.item()
            done += 1
            if done == steps + 5:
                return steps * batch_size / (time.perf_counter() - began)


def lightning(model: str, batch_size: int, steps: int, root: Path) -> float | None:
    """Lightning's Trainer as its documentation has it; None where it is not installed."""
    try:
        import lightning
    except ImportError:
        return None
    import logging
    import warnings

    from torch.utils.data import DataLoader
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = net_for(model), nn.CrossEntropyLoss()
            self.times: list[float] = []

        def training_step(self, batch, number):  # type: ignore[no-untyped-def]
            x, y = batch
            loss = self.loss(self.net(x), y)
            self.log("train_loss", loss)
            self.times.append(time.perf_counter())
            return loss

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return optimizer_for(self.net)

    module = Module()
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(
            datasets.FashionMNIST(root=str(root), train=True, transform=ToTensor()), batch_size=batch_size, shuffle=True
        )
        trainer = lightning.Trainer(
            max_steps=steps + 5,
            accelerator="cpu",
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
    return steps * batch_size / (module.times[-1] - module.times[4])
