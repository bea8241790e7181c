"""Steps of the user's own that make their own backward passes and optimizer steps, against plain loops."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from conftest import Train
from torch import nn

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.control import Control
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.export import export_model
from torchdeck.core.evaluation.trained import first_part, load_trained
from torchdeck.core.events import EpochEnded, LogLine, StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.training.build import build_trainer

GAN = """
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

class Generator(nn.Module):
    def __init__(self, noise=8):
        super().__init__()
        self.noise = noise
        self.body = nn.Sequential(nn.Linear(noise, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, z):
        return self.body(z).view(-1, 1, 8, 8)

class Discriminator(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(32, 1))

def losses(generator, discriminator, real):
    fake = generator(torch.randn(len(real), generator.noise))
    on_real, on_fake = discriminator(real), discriminator(fake.detach())
    yield bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake))
    out = discriminator(fake)
    yield bce(out, torch.ones_like(out))

def step(models, optimizers, batch):
    told = {}
    makers = losses(models.generator, models.discriminator, batch[0])
    for name in ("discriminator", "generator"):
        loss = next(makers)
        optimizers[name].zero_grad()
        optimizers[name].backward(loss)
        optimizers[name].step()
        told[f"{name}_loss"] = loss
    return told | {"steps": optimizers.generator.steps}

def forgets(models, optimizers, batch):
    return {"loss": next(losses(models["generator"], models["discriminator"], batch[0]))}

def returns_nothing(models, optimizers, batch):
    pass

def no_loss(models, optimizers, batch):
    return {"quality": 1.0}

def wrong_part(models, optimizers, batch):
    return {"loss": models["critic"](batch[0])}

def wrong_optimizer(models, optimizers, batch):
    optimizers.critic.step()

def becomes_nan(models, optimizers, batch):
    told = step(models, optimizers, batch)
    return told | {"quality": float("nan") if optimizers.generator.steps == 12 else 1.0}

def single(model, optimizer, batch):
    x, y = batch
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = Generator(), Discriminator()
"""

PARTS = ("model.parts.generator.name={0}:Generator", "model.parts.discriminator.name={0}:Discriminator")
QUICK = ("trainer.epochs=2", "tracking.tensorboard=false", "trainer.batch_size=128")


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    """A file with a GAN."""
    file = tmp_path / "gan.py"
    file.write_text(GAN)
    return file


def settings(file: Path, step: str, *more: str, parts: tuple[str, ...] = PARTS) -> tuple[str, ...]:
    chosen = [part.format(file) for part in parts]
    return ("data.name=digits", f"task.step={file}:{step}", *chosen, *QUICK, *more)


def test_a_gan_trains_as_in_a_plain_loop(gan: Path) -> None:
    experiment = toml.load(
        None,
        settings(
            gan,
            "step",
            "optimizer.name=Adam",
            "optimizer.lr=1e-3",
            "optimizer.parts.generator.lr=5e-4",
            "optimizer.parts.discriminator.name=SGD",
            "optimizer.parts.discriminator.lr=0.1",
            "schedule.name=linear",
            "trainer.clip_norm=0.5",
            "trainer.ema=0.9",
        ),
    )
    told: list[str] = []
    built = build_trainer(experiment, Control(), lambda event: None, told.append)
    assert any("can't be evaluated" in text and "generator_loss" in text for text in told)
    trainer, before = built.trainer, torch.get_rng_state()
    reference = copy.deepcopy(trainer.net)
    assert trainer.run() == "done"

    torch.set_rng_state(before)
    from gan import losses  # the module that the run has loaded

    generator, discriminator = reference.generator, reference.discriminator
    optimizers = {
        "discriminator": torch.optim.SGD(discriminator.parameters(), lr=0.1, momentum=0.9),
        "generator": torch.optim.Adam(generator.parameters(), lr=5e-4),
    }
    modules = {"discriminator": discriminator, "generator": generator}
    averaged = {name: value.clone() for name, value in reference.state_dict().items()}
    rates = {name: one.param_groups[0]["lr"] for name, one in optimizers.items()}
    done, total = 0, trainer.total_steps
    reference.train()
    for epoch in range(2):
        for batch in built.data.train.epoch(epoch):
            makers = losses(generator, discriminator, batch.x)
            for name, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[name] * trainer.scheduler.factor(done)
                optimizer.zero_grad()
                next(makers).backward()
                nn.utils.clip_grad_norm_(modules[name].parameters(), 0.5)
                optimizer.step()
            share = 1.0 if done == 0 else 1 - min(0.9, (1 + done) / (10 + done))
            for name, value in reference.state_dict().items():
                averaged[name] = torch.lerp(averaged[name], value, share) if value.is_floating_point() else value
            done += 1
    assert done == total == 30
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(trainer.net.state_dict()[name], value, msg=name)
        torch.testing.assert_close(trainer.trained_net.state_dict()[name], averaged[name], msg=name)


def test_its_figures_are_curves_and_choose_the_best(gan: Path, train: Train) -> None:
    run = train(*settings(gan, "step", "trainer.monitor=generator_loss", "trainer.steps=40"), source=None)
    assert run.status == "done", run.failure
    epochs = run.of(EpochEnded)
    assert all(set(e.train) == {"loss", "generator_loss", "discriminator_loss", "steps"} and not e.val for e in epochs)
    assert all(
        e.train["loss"] == pytest.approx(e.train["generator_loss"] + e.train["discriminator_loss"]) for e in epochs
    )
    assert run.of(StepSummary)[-1].step == 40
    best = min(epochs, key=lambda e: e.train["generator_loss"])
    assert [e.best for e in epochs].index(True, epochs.index(best)) == epochs.index(best)
    assert run.session.built is not None and len(run.session.built.data.train) * 128 >= 1797  # nothing is held out
    stopped = train(
        *settings(gan, "step", "trainer.monitor=minimize steps", "trainer.early_stopping=1", "trainer.epochs=9"),
        source=None,
    )
    assert len(stopped.of(EpochEnded)) == 2  # the number of steps only rises


def test_resume_in_mid_epoch_is_bit_identical(gan: Path, train: Train) -> None:
    words = settings(gan, "step", "trainer.ema=0.9", "schedule.name=cosine", "optimizer.parts.discriminator.name=SGD")
    whole = train(*words, source=None)
    part = train(*words, source=None, stop_at=20)
    assert part.status == "stopped"
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    a, b = (load_checkpoint(run.path / "checkpoints" / "last.pt", "t") for run in (whole, rest))
    assert set(a["optimizer"]) == {"generator", "discriminator"}
    for name in ("model", "ema", "optimizer"):
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)
    assert torch.equal(a["random"]["torch"], b["random"]["torch"])


def test_one_model_with_one_optimizer(gan: Path, train: Train) -> None:
    run = train(*settings(gan, "single", "model.name=mlp", parts=()), source=None)
    first, last = run.of(EpochEnded)
    assert last.train["loss"] < first.train["loss"]


def test_the_parts_of_a_module_of_the_users(gan: Path, train: Train) -> None:
    words = settings(gan, "step", f"model.name={gan}:Both", "optimizer.parts.generator.lr=1e-4", parts=())
    run = train(*words, source=None)
    assert run.status == "done", run.failure


@pytest.mark.parametrize(
    ("step", "more", "sentence"),
    [
        ("step", ("trainer.accumulate=2",), "step once in so many batches"),
        ("returns_nothing", (), "returned nothing; the loss is needed"),
        ("no_loss", (), "'loss' is needed"),
        ("wrong_part", (), "no part 'critic'"),
        ("wrong_optimizer", (), "no optimizer of 'critic'"),
        ("step", ("trainer.monitor=generator_los",), "did you mean 'generator_loss'"),
        ("step", ("optimizer.parts.critic.lr=1",), "there is no model.parts.critic"),
        ("step", ("model.parts.train.name=mlp",), "call the part something else"),
        ("step", ("model.parts.generator.args.nois=1",), "model.parts.generator: model.args.nois is not a parameter"),
        ("step", ("model.freeze=['generator','discriminator']",), "nothing to train"),
    ],
)
def test_wrong_steps_are_told_before_training(gan: Path, step: str, more: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        build_trainer(toml.load(None, settings(gan, step, *more)), Control(), lambda event: None)


def test_a_figure_that_becomes_no_number_ends_the_run(gan: Path, train: Train) -> None:
    run = train(*settings(gan, "becomes_nan"), source=None)
    assert run.status == "failed" and run.failure is not None
    assert "The figure 'quality' became nan at step 12" in run.failure.message
    assert "the last checkpoint before is kept" in run.failure.message
    forgotten = train(*settings(gan, "forgets"), source=None)
    assert any("made no optimizer step" in line.message for line in forgotten.of(LogLine))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The Fréchet distance of two sets of points, as if they were normally distributed."""
    of_a, of_b = torch.cov(a.T), torch.cov(b.T)
    roots = torch.linalg.eigvals(of_a @ of_b).real.clamp(min=0).sqrt().sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + of_a.trace() + of_b.trace() - 2 * roots)


def test_the_preset_learns_to_draw_digits(train: Train, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    run = train("trainer.epochs=12", source="digits-gan")
    assert run.status == "done", run.failure
    trained = load_trained(run.path / "checkpoints" / "last.pt", trust_code=False)
    assert set(trained.experiment.model.parts) == {"generator", "discriminator"}
    with torch.no_grad():
        drawn = trained.net["generator"].sample(1797, torch.Generator().manual_seed(1)).flatten(1).double()
    part, noise = first_part(trained)
    export_model(part, "torch_export", tmp_path / "generator.pt2", noise, classes=False)
    again = torch.export.load(tmp_path / "generator.pt2").module()
    torch.testing.assert_close(again(noise[:5]), part(noise[:5]))
    pixels, classes = load_digits(return_X_y=True)
    real = torch.from_numpy(pixels / 16)
    noise = torch.rand(real.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert distance(drawn, real) < 4 < 9 < distance(noise, real)  # after 200 epochs 0.11
    seen = LogisticRegression(max_iter=300).fit(real, classes).predict(drawn)
    assert len(set(seen)) == 10
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.path), size_guidance={"images": 0}).Reload()
    assert "samples" in board.Tags()["images"]


OWN = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def logits(self, x):
        return self.body(x)

def step(model, batch):
    x, y = batch
    out = model.logits(x)
    loss = {"entropy_loss": cross_entropy(out, y), "size_loss": 1e-2 * out.square().mean()}
    return loss | {"mode": float(model.training), "grad": float(torch.is_grad_enabled()), "outputs": out, "targets": y}

def right(out, y):
    return float((out.argmax(1) == y).float().mean())

def detached(model, batch):
    return model.logits(batch[0]).mean().detach()

def of_no_parameter(model, batch):
    return (batch[0].requires_grad_() ** 2).mean()

def steps_itself(model, batch):
    loss = model.logits(batch[0]).mean()
    loss.backward()
    return loss

def leaves_gradients(model, batch):
    loss = model.logits(batch[0]).mean()
    if model.training:
        loss.backward(retain_graph=True)
    return loss

def spectrum(model, batch):
    return model.logits(batch[0]).mean().to(torch.complex64)

def each(model, batch):
    return {"loss": model.logits(batch[0]).mean(1)}

def nothing(model, batch):
    return {}

def only_the_loss(model, batch):
    return model.logits(batch[0]).mean()

def a_list(model, batch):
    return [model.logits(batch[0]).mean()]

def too_few(batch):
    return batch

def nan(model, batch):
    return model.logits(batch[0]).mean() * float("nan")
"""


def own(tmp_path: Path, step: str, *more: str) -> tuple[str, ...]:
    (tmp_path / "own.py").write_text(OWN)
    file = tmp_path / "own.py"
    return ("data.name=digits", f"model.name={file}:Net", f"task.step={file}:{step}", *QUICK, *more)


def test_a_step_that_returns_losses_and_outputs(tmp_path: Path, train: Train) -> None:
    more = (f"tracking.metrics=['{tmp_path}/own.py:right']", "trainer.monitor=maximize right", "trainer.ema=0.9")
    run = train(*own(tmp_path, "step", *more, "trainer.clip_norm=1", "trainer.accumulate=3"), source=None)
    assert run.status == "done", run.failure
    last = run.of(EpochEnded)[-1]
    assert (last.train["mode"], last.train["grad"], last.val["mode"], last.val["grad"]) == (1, 1, 0, 0)
    for figures in (last.train, last.val):
        assert figures["loss"] == pytest.approx(figures["entropy_loss"] + figures["size_loss"], rel=1e-5)
    built = run.session.built
    assert built is not None and built.data.val is not None
    net = built.trainer.trained_net.eval()
    found = [(net.logits(b.x), b.y) for b in built.data.val.epoch(0)]  # type: ignore[operator]
    out, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    if last.best:  # else the weights of another epoch were loaded for the test set
        assert last.val["right"] == pytest.approx(float((out.argmax(1) == y).float().mean()))
        assert last.val["entropy_loss"] == pytest.approx(float(nn.functional.cross_entropy(out, y)), rel=1e-5)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ("detached", "task.step = .*:detached': the loss has no graph"),
        ("of_no_parameter", "the loss does not depend on any parameter that is trained"),
        ("steps_itself", "calls backward.. itself: a step of"),
        ("leaves_gradients", "it called backward.. itself and left gradients"),
        ("spectrum", "returned a complex number"),
        ("each", "whose 'loss' is a tensor of the shape .25.; a tensor of one number"),
        ("nothing", "an empty dict; 'loss' is needed"),
        ("only_the_loss", "own.py:right' is of outputs and targets, and the step gives no outputs; return a dict"),
        ("a_list", "returned a list; the loss is needed"),
        ("too_few", "can't be called with .model, batch."),
        ("nan", "The loss became nan at step 1"),
    ],
)
def test_wrong_steps_in_a_sentence(tmp_path: Path, train: Train, step: str, sentence: str) -> None:
    metric = (f"tracking.metrics=['{tmp_path}/own.py:right']",) if step == "only_the_loss" else ()
    run = train(*own(tmp_path, step, *metric), source=None)
    assert run.status == "failed" and run.failure is not None
    assert re.search(sentence, run.failure.message) and "\n" not in run.failure.message
