"""What LightningModules do beyond the plain steps (own hooks of the loop, schedulers by figure and frequency, manual
optimisation, logs of all kinds), against Lightning's own Trainer on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from by_lightning import PLAIN, by_lightning, weights
from conftest import Train

from torchdeck.core.evaluation.export import export_model
from torchdeck.core.evaluation.trained import load_trained
from torchdeck.core.events import EpochEnded

CODE = """
import threading
import torch, torch.nn.functional as F, torchmetrics
import lightning.pytorch as pl
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from lightning.pytorch.utilities import CombinedLoader
S = torch.optim.lr_scheduler

class Digits(TensorDataset):
    def __init__(self):
        d = load_digits()
        super().__init__(torch.tensor(d.data[:200] / 16).float(), torch.tensor(d.target[:200]))

class Base(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        self.seen = []
    def forward(self, x): return self.net(x)
    def loss(self, batch): return F.cross_entropy(self(batch[0]), batch[1])
    def training_step(self, batch, batch_idx): return self.loss(batch)
    def validation_step(self, batch, batch_idx): self.log("val_loss", self.loss(batch))
    def sgd(self): return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
    def configure_optimizers(self): return self.sgd()

class Loop(Base):
    "Everything of the loop that a module may take into its own hands."
    def __init__(self):
        super().__init__()
        self.net[1].eval()
        self.validation_step_outputs = []
    def setup(self, stage): self.total = self.trainer.estimated_stepping_batches
    def on_train_start(self):
        self.print("begins")
        t = self.trainer
        self.seen += [t.max_epochs, t.num_training_batches, t.num_val_batches]
        self.seen.append(float(self.all_gather(torch.tensor(3.0))))
    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            return None
        loss = self.loss(batch)
        self.log("train_max", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("train_sum", 1.0, on_step=False, on_epoch=True, reduce_fx=torch.sum)
        self.log("train_sized", loss, on_step=False, on_epoch=True, batch_size=batch_idx + 1)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss
    def on_after_batch_transfer(self, batch, dataloader_idx): return batch[0] * 2, batch[1]
    def on_before_optimizer_step(self, optimizer): self.log("norm", self.net[0].bias.norm(), on_epoch=True)
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer): optimizer.zero_grad(set_to_none=False)
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / self.total) * 0.05
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("ended", float(batch_idx), on_step=False, on_epoch=True)
        self.seen.append((self.global_step, self.optimizers().param_groups[0]["lr"]))
        if self.global_step == 8:
            self.trainer.should_stop = True
    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("val_best", loss, reduce_fx="min")
        self.validation_step_outputs.append(loss)
        return torch.tensor(7.0)
    def on_validation_epoch_end(self):
        self.seen.append(float(self.trainer.callback_metrics["val_best"]))
        self.log("val_loss", torch.stack(self.validation_step_outputs).mean())
        self.validation_step_outputs.clear()
    def on_train_epoch_end(self): self.seen.append(float(self.trainer.callback_metrics["train_sum"]))

class Scheduled(Base):
    "Two schedulers of one optimizer, each in its own rhythm; figures of the epoch's end alone."
    def __init__(self):
        super().__init__()
        acc, f1 = (m("multiclass", num_classes=10) for m in (torchmetrics.Accuracy, torchmetrics.F1Score))
        self.acc = torchmetrics.MetricCollection({"acc": acc, "f1": f1}, prefix="val/")
        self.train_acc = torchmetrics.Accuracy("multiclass", num_classes=10)
    def on_train_epoch_start(self): self.losses = []
    def training_step(self, batch, batch_idx):
        out = self(batch[0])
        self.train_acc(out, batch[1])
        loss = F.cross_entropy(out, batch[1])
        self.losses.append(loss.detach())
        return {"loss": loss, "right": out.argmax(1) == batch[1]}
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append((float(outputs["loss"]), float(outputs["right"].sum())))
    def on_train_epoch_end(self):
        self.log("train_acc", self.train_acc.compute())
        self.train_acc.reset()
        self.log("train_mean", torch.stack(self.losses).mean())
        self.seen.append([s.state_dict()["last_epoch"] for s in self.lr_schedulers()])
        self.seen.append(self.optimizers().param_groups[0]["lr"])
    def validation_step(self, batch, batch_idx): self.acc.update(self(batch[0]), batch[1])
    def on_validation_epoch_end(self):
        self.log_dict(self.acc.compute())
        self.acc.reset()
    def configure_optimizers(self):
        o = self.sgd()
        plateau = S.ReduceLROnPlateau(o, "max", patience=0, threshold=9.0, factor=0.1)
        return [o], [{"scheduler": S.LinearLR(o, 0.1, 1.0, 3), "interval": "step", "frequency": 2},
                     {"scheduler": plateau, "monitor": "val/acc", "frequency": 2}]

class ByHand(Base):
    "Two optimizers by hand, a hook around each part."
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
    def on_before_backward(self, loss): self.seen.append("backward")
    def on_after_backward(self): self.seen.append("gradients")
    def on_before_optimizer_step(self, optimizer): self.seen.append(self.global_step)
    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        with first.toggle_model():
            loss = self.loss(batch) / 2
            self.manual_backward(loss)
            if batch_idx % 2:
                self.clip_gradients(first, gradient_clip_val=0.1, gradient_clip_algorithm="value")
                first.step()
                first.zero_grad()
        def closure():
            second.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss
        second.step(closure=closure)
        self.lr_schedulers()[1].step()
        if self.trainer.is_last_batch:
            self.lr_schedulers()[0].step()
        self.log("train_loss", loss)
    def configure_optimizers(self):
        a, b = torch.optim.SGD(self.net[0].parameters(), 0.1), torch.optim.AdamW(self.net[3].parameters(), 0.01)
        cycle = S.OneCycleLR(b, 0.02, total_steps=self.trainer.estimated_stepping_batches + 1)
        return ({"optimizer": a, "lr_scheduler": S.ExponentialLR(a, 0.5)},
                {"optimizer": b, "lr_scheduler": {"scheduler": cycle, "interval": "step"}})

class Lbfgs(Base):
    def __init__(self):
        super().__init__()
        self.net, self.lock = nn.Linear(64, 10), threading.Lock()  # no module with a lock can be copied
    def configure_optimizers(self): return torch.optim.LBFGS(self.parameters(), lr=0.02, max_iter=3)

class Unfreezes(Base):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)
        self.factor = 1.0
    def training_step(self, batch, batch_idx):
        self.factor *= 0.9
        return self.loss(batch) * self.factor
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.net[0].requires_grad_(True)
    def configure_model(self):
        if not hasattr(self, "head"):
            self.head = nn.Linear(10, 10)
    def forward(self, x): return self.head(self.net(x))

class Module(pl.LightningDataModule):
    def setup(self, stage): self.data, self.world = Digits(), self.trainer.world_size
    def train_dataloader(self): return DataLoader(self.data, 32)
class Hooked(Module):
    def on_after_batch_transfer(self, batch, dataloader_idx): return batch
class Needy(Module):
    def setup(self, stage): self.trainer.fit_loop
class Combined(Module):
    def train_dataloader(self): return CombinedLoader([DataLoader(Digits(), 32) for _ in range(2)], "min_size")

class NoMonitor(Base):
    def configure_optimizers(self):
        o = self.sgd()
        return {"optimizer": o, "lr_scheduler": S.ReduceLROnPlateau(o)}
class NeverLogged(Base):
    def configure_optimizers(self):
        o = self.sgd()
        return {"optimizer": o, "lr_scheduler": S.ReduceLROnPlateau(o), "monitor": "val_acc"}
class TooShort(Base):
    def configure_optimizers(self):
        o = self.sgd()
        return [o], [{"scheduler": S.OneCycleLR(o, 0.1, total_steps=4), "interval": "step"}]
class Leaves(Base):
    def on_train_batch_start(self, batch, batch_idx): return -1
class Iterates(Base):
    def training_step(self, dataloader_iter): return self.loss(next(dataloader_iter)[0])
class Wandb(Base):
    def on_train_epoch_end(self): self.logger.log_image(key="x", images=[])
class Reduces(Base):
    def validation_step(self, batch, batch_idx): self.log("val_loss", self.loss(batch), reduce_fx=lambda v: v[0])
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("forms") / "lit_forms.py"
    file.write_text(CODE)
    return str(file)


def options(code: str, name: str, *more: str) -> list[str]:
    names = (f"data.name={code}:Digits", f"model.name={code}:{name}")
    return [*PLAIN, "trainer.eval_batch_size=32", *names, *more]


def assert_same(run: Any, module: Any) -> None:
    assert run.status == "done", run.failure
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-5, atol=1e-6)
    ours = run.session.built.trainer.net.seen[: len(module.seen)]  # the best epoch is evaluated once more after it
    for one, theirs in zip(ours, module.seen, strict=True):
        assert one == (pytest.approx(theirs) if isinstance(theirs, float | tuple) else theirs)


def test_what_a_module_does_with_the_loop_is_what_lightning_lets_it(train: Train, code: str) -> None:
    run = train(*options(code, "Loop"), source=None)
    module, trainer = by_lightning(code, run, "Loop")
    assert_same(run, module)
    told, metrics = run.of(EpochEnded)[-1], {k: float(v) for k, v in trainer.callback_metrics.items()}
    for figure, name in (("max", "train_max"), ("sum", "train_sum"), ("sized", "train_sized"), ("ended", "ended")):
        assert told.train[figure] == pytest.approx(metrics[name], rel=1e-5), figure
    assert told.train["norm"] == pytest.approx(metrics["norm_epoch"], rel=1e-5)
    assert told.train["loss"] == pytest.approx(metrics["train_loss_epoch"], rel=1e-5)
    assert told.val == pytest.approx({"loss": metrics["val_loss"], "best": metrics["val_best"]}, rel=1e-5)
    assert any("training_step returned None" in getattr(event, "message", "") for event in run.events)


@pytest.mark.parametrize("name", ["Scheduled", "ByHand", "Unfreezes"])
def test_it_is_lightnings_and_goes_on_bit_identically_in_mid_epoch(train: Train, code: str, name: str) -> None:
    run = train(*options(code, name), source=None)
    module, trainer = by_lightning(code, run, name)
    assert_same(run, module)
    rest = train(resume=train(*options(code, name), stop_at=7, source=None).path)
    assert rest.status == "done", rest.failure
    assert all(torch.equal(weights(run)[key], value) for key, value in weights(rest).items())
    whole, again = run.of(EpochEnded)[-1], rest.of(EpochEnded)[-1]
    assert (again.train, again.val) == (whole.train, whole.val)
    if name == "Scheduled":
        assert whole.val["accuracy"] == pytest.approx(float(trainer.callback_metrics["val/acc"]))
        assert whole.train["accuracy"] == pytest.approx(float(trainer.callback_metrics["train_acc"]))
        assert whole.train["mean"] == pytest.approx(float(trainer.callback_metrics["train_mean"]))


def test_a_line_search_asks_for_the_loss_as_often_as_with_lightning(train: Train, code: str) -> None:
    run = train(*options(code, "Lbfgs", "trainer.epochs=1"), source=None)
    assert_same(run, by_lightning(code, run, "Lbfgs", epochs=1)[0])
    assert any("can't be copied (TypeError" in getattr(event, "message", "") for event in run.events)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoMonitor", "gave a ReduceLROnPlateau without 'monitor'"),
        ("NeverLogged", "goes by 'val_acc', which is not logged; there are val_loss"),
        ("TooShort", "gave a OneCycleLR of 4 steps, which is stepped 10 times"),
        ("Leaves", "returns -1 to leave out the rest of an epoch"),
        ("Iterates", "its training_step takes dataloader_iter"),
        ("Wandb", "it reads self.logger.log_image, which torchdeck has not"),
        ("Reduces", "is not known; choose mean, sum, max or min"),
    ],
)
def test_what_is_not_followed_is_told_before_the_training(train: Train, code: str, name: str, sentence: str) -> None:
    run = train(*options(code, name), source=None)
    assert run.status == "failed" and not Path(run.session._root / "x").exists()
    assert sentence in run.failure.message and len(run.failure.message.splitlines()) == 1
    assert run.session.step == 0


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("Hooked", "its on_after_batch_transfer would not be called"),
        ("Needy", "needs its trainer: it reads self.trainer.fit_loop"),
        ("Combined", "gives 2 DataLoaders for train; give one"),
    ],
)
def test_a_data_module_that_does_more_is_told(train: Train, code: str, data: str, sentence: str) -> None:
    run = train(*options(code, "Base", f"data.name={code}:{data}"), source=None)
    assert sentence in run.failure.message and len(run.failure.message.splitlines()) == 1


def test_layers_that_configure_model_makes_are_there_when_a_run_is_evaluated(train: Train, code: str) -> None:
    run = train(*options(code, "Unfreezes", f"data.name={code}:Module", "trainer.epochs=1"), source=None)
    assert run.status == "done", run.failure
    best = run.of(EpochEnded)[-1]
    trained = load_trained(run.path / "checkpoints" / "last.pt", True)
    assert all(torch.equal(weights(run)[name], value) for name, value in trained.net.state_dict().items())
    assert trained.net(torch.zeros(2, 64)).shape == (2, 10) and "loss" in best.train
    # Tracing reads all properties of a module, and its trainer is one.
    assert export_model(trained.net, "torchscript", run.path / "net.ts", torch.rand(4, 64)).difference == 0
