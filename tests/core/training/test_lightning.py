"""LightningModules as they are, against Lightning's own Trainer on the same batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from by_lightning import PLAIN, by_lightning, weights
from conftest import Train

from torchdeck.core.events import EpochEnded

CODE = """
import torch, torch.nn.functional as F, torchmetrics
import lightning.pytorch as pl
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Digits(TensorDataset):
    def __init__(self):
        d = load_digits()
        super().__init__(torch.tensor(d.data[:400] / 16).float(), torch.tensor(d.target[:400]))

class Lit(pl.LightningModule):
    def __init__(self, hidden=16, lr=0.05, how="step"):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.acc = torchmetrics.Accuracy("multiclass", num_classes=10)
        self.calls = []
    def forward(self, x): return self.net(x)
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_size", float(len(x)), on_step=False, on_epoch=True, reduce_fx="max")
        return {"loss": loss}
    def validation_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.acc(out, y)
        self.log_dict({"val_loss": F.cross_entropy(out, y), "val_acc": self.acc}, on_epoch=True)
    def test_step(self, batch):
        self.log("test_loss", F.cross_entropy(self(batch[0]), batch[1]))
    def configure_optimizers(self):
        o = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        S = torch.optim.lr_scheduler
        if self.hparams.how == "plain":
            return o
        if self.hparams.how == "epoch":
            return [o], [S.ExponentialLR(o, 0.5)]
        if self.hparams.how == "plateau":
            plateau = S.ReduceLROnPlateau(o, patience=0, threshold=10.0)
            return {"optimizer": o, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        return {"optimizer": o, "lr_scheduler": {"scheduler": S.CosineAnnealingLR(o, 30), "interval": "step"}}

class Hooked(Lit):
    def __init__(self):
        super().__init__()
        self.calls = []
    def on_fit_start(self): self.calls.append("fit_start")
    def on_train_start(self): self.calls.append("train_start")
    def on_train_epoch_start(self): self.calls.append(f"epoch {self.current_epoch}")
    def on_train_batch_start(self, batch, batch_idx): self.calls.append(f"batch {batch_idx}")
    def on_before_zero_grad(self, optimizer): self.calls.append("zero_grad")
    def on_before_backward(self, loss): self.calls.append("backward")
    def on_after_backward(self): self.calls.append("backward done")
    def on_before_optimizer_step(self, optimizer): self.calls.append(f"step {self.global_step}")
    def on_train_batch_end(self, outputs, batch, batch_idx): self.calls.append(f"batch end {batch_idx}")
    def on_validation_start(self): self.calls.append("validation")
    def on_validation_epoch_end(self): self.calls.append("validated")
    def on_train_epoch_end(self): self.calls.append("epoch end")
    def on_train_end(self): self.calls.append("train_end")

class ByHand(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 10)
    def training_step(self, batch, batch_idx):
        x, y = batch
        first, second = self.optimizers()
        for optimizer in (first, second):
            self.toggle_optimizer(optimizer)
            loss = F.cross_entropy(self.b(self.a(x)), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        self.log("d_loss", loss)
        if batch_idx % 5 == 4:
            self.lr_schedulers().step()
    def configure_optimizers(self):
        a = torch.optim.SGD(self.a.parameters(), lr=0.1)
        return [a, torch.optim.Adam(self.b.parameters(), lr=0.01)], [torch.optim.lr_scheduler.StepLR(a, 1, 0.5)]

class Module(pl.LightningDataModule):
    def __init__(self, size=32):
        super().__init__()
        self.size = size
    def setup(self, stage): self.data = Digits()
    def train_dataloader(self): return DataLoader(self.data, self.size, collate_fn=together)
    def val_dataloader(self): return DataLoader(self.data, self.size, collate_fn=together)

def together(items): return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])
def loaders(): return DataLoader(Digits(), 8), DataLoader(Digits(), 8)

class OwnData(Lit):
    def train_dataloader(self): return DataLoader(Digits(), 16)

class NoLoss(Lit):
    def training_step(self, batch, batch_idx): return None
class NeedsTrainer(Lit):
    def on_train_start(self): print(self.trainer.fit_loop.epoch_loop)
class Several(Lit):
    def configure_optimizers(self): return [torch.optim.SGD(self.parameters(), 0.1) for _ in range(2)]
class Transfers(Lit):
    def transfer_batch_to_device(self, batch, device, dataloader_idx): return batch
class Detached(Lit):
    def training_step(self, batch, batch_idx): return super().training_step(batch, batch_idx)["loss"].detach()
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("lit") / "lit_code.py"
    file.write_text(CODE)
    return str(file)


def options(code: str, name: str = "Lit", *more: str) -> list[str]:
    return [*PLAIN, f"data.name={code}:Digits", f"model.name={code}:{name}", *more]


@pytest.mark.parametrize("how", ["step", "plain", "epoch", "plateau"])
def test_weights_and_figures_are_lightnings(train: Train, code: str, how: str) -> None:
    run = train(*options(code, "Lit", f"model.args.how={how}", "trainer.eval_batch_size=32"), source=None)
    assert run.status == "done", run.failure
    module, trainer = by_lightning(code, run, "Lit", how=how)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-5, atol=1e-6)
    told = run.of(EpochEnded)[-1]
    assert told.val["accuracy"] == pytest.approx(float(trainer.callback_metrics["val_acc"]))
    assert told.val["loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-5)
    assert "loss" in run.session.finished.test


def test_manual_optimisation_is_lightnings_and_resumes_bit_identically(train: Train, code: str) -> None:
    run = train(*options(code, "ByHand"), source=None)
    assert run.status == "done", run.failure
    module, _ = by_lightning(code, run, "ByHand")
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-5, atol=1e-6)
    rest = train(resume=train(*options(code, "ByHand"), stop_at=13, source=None).path)
    assert rest.status == "done", rest.failure
    assert all(torch.equal(weights(run)[name], value) for name, value in weights(rest).items())


def test_a_module_resumes_bit_identically_in_mid_epoch(train: Train, code: str) -> None:
    chosen = options(code, "Lit", "trainer.ema=0.9", "trainer.clip_norm=0.5", "trainer.accumulate=2")
    whole = train(*chosen, source=None)
    rest = train(resume=train(*chosen, stop_at=7, source=None).path)
    assert whole.status == rest.status == "done", rest.failure
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(rest).items())


def test_hooks_are_called_in_lightnings_order(train: Train, code: str) -> None:
    run = train(*options(code, "Hooked", "trainer.epochs=2"), source=None)
    assert run.status == "done", run.failure
    module, _ = by_lightning(code, run, "Hooked")
    ours = run.session.built.trainer.net.calls
    ours = ours[: ours.index("train_end") + 1]  # the best epoch is evaluated once more after it
    assert ours == module.calls


def test_a_data_module_and_loaders_are_taken_for_their_data_sets(train: Train, code: str) -> None:
    run = train(*options(code, "Lit"), f"data.name={code}:Module", "data.args.size=8", source=None)
    assert run.status == "done", run.failure
    assert run.session.built.data.info.samples == {"train": 400, "val": 400, "test": 0}
    assert any("of the DataLoader is used" in getattr(e, "message", "") for e in run.events)
    run = train(*PLAIN, f"data.name={code}:loaders", "model.name=linear", source=None)
    assert run.status == "done", run.failure
    assert run.session.built.data.info.task == "classification"
    assert run.session.built.data.info.samples["val"] == 400


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("NoLoss", [], "returned no loss"),
        ("NeedsTrainer", [], "needs its trainer: it reads self.trainer.fit_loop"),
        ("Several", [], "gave 2 optimizers; several need manual optimisation"),
        ("Transfers", [], "its transfer_batch_to_device would not be called"),
        ("Detached", [], "the loss has no graph"),
        ("ByHand", ["trainer.accumulate=2"], "optimises by hand"),
        ("Lit", ["loss.name=cross_entropy"], "would not be used: the LightningModule makes its loss"),
    ],
)
def test_what_can_not_be_is_told_before_the_training(
    train: Train, code: str, name: str, more: list[str], sentence: str
) -> None:
    run = train(*options(code, name, *more), source=None)
    assert run.status == "failed" and not Path(run.session._root / "x").exists()
    assert sentence in run.failure.message


def test_a_module_that_brings_its_data_is_named_as_the_data_too(train: Train, code: str) -> None:
    name = f"{code}:OwnData"
    run = train(*PLAIN, f"model.name={name}", source=None)
    assert run.failure is not None
    assert f"brings its own data; name it as the data, too: data.name = '{name}'" in run.failure.message
    run = train(*PLAIN, f"model.name={name}", f"data.name={name}", source=None)
    assert run.status == "done", run.failure
    assert run.session.built.data.info.samples["train"] > 280


def test_a_module_of_an_installed_package_is_told_by_its_name(train: Train, code: str, tmp_path: Path) -> None:
    demo = "lightning.pytorch.demos.boring_classes:BoringModel"
    run = train(*PLAIN, f"model.name={demo}", source=None)
    assert (
        run.failure is not None
        and f"brings its own data; name it as the data, too: data.name = '{demo}'" in run.failure.message
    )
    run = train(*PLAIN, f"model.name={demo}", f"data.name={code}:Digits", source=None)
    assert run.failure is not None and run.failure.message.startswith(
        f"model.name = '{demo}' raised in its step, given a batch of the shape "
    )
    assert len(run.failure.message.splitlines()) == 1
