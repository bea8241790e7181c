"""A run that was interrupted ends with the very same weights as one that was not."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.events import EpochEnded, LogLine, Started
from torchdeck.core.runs.directory import read_info, read_metrics

# 1,294 training samples: 21 steps an epoch at batch size 64; two epochs and a bit more before the stop.
CNN = ("model.name=cnn", "model.args.channels=[8,16]", "trainer.epochs=3")
CROPS = (
    "data.transforms=[{name='RandomCrop',size=8,padding=1},{name='RandomHorizontalFlip'},{name='ToTensor'},{name='Normalize'}]",
)
SAMPLEWISE = ("data.transforms=[{name='RandomRotation'},{name='ToTensor'},{name='Normalize'}]",)

EXPERIMENTS = {
    "sgd momentum nesterov": ("optimizer.name=SGD", "optimizer.args.nesterov=true", "trainer.epochs=3"),
    "adam one_cycle dropout": ("optimizer.name=Adam", "model.args.dropout=0.3", "trainer.epochs=3"),
    "adamw ema cosine": ("trainer.ema=0.95", "schedule.name=cosine", "schedule.args.warmup=0.2", "trainer.epochs=3"),
    "cnn batch norm, crops on the device": (*CNN, *CROPS, "model.args.dropout=0.1"),
    "crops through the DataLoader": (*CNN, *SAMPLEWISE, "data.workers=0"),
    "accumulation and clipping": (
        "trainer.accumulate=4",
        "trainer.batch_size=32",
        "trainer.clip_norm=0.5",
        "trainer.epochs=3",
    ),
    "plateau and RMSprop": (
        "optimizer.name=RMSprop",
        "schedule.name=plateau",
        "schedule.args.patience=0",
        "trainer.epochs=4",
    ),
    "muon": ("optimizer.name=Muon", "trainer.epochs=3"),
}


def final(path: Path) -> dict:
    return load_checkpoint(path / "checkpoints" / "last.pt", "test")


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("stop_at", [21, 29], ids=["between epochs", "in mid-epoch"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_resume_is_bit_identical(train: Train, name: str, stop_at: int) -> None:
    options = (*EXPERIMENTS[name], "tracking.tensorboard=false")
    if "accumulate" in " ".join(options):
        stop_at = 11 if stop_at == 21 else 17
    whole = train(*options)
    assert whole.status == "done", whole.failure
    part = train(*options, stop_at=stop_at)
    assert part.status == "stopped"
    assert part.of(EpochEnded)[-1:] != whole.of(EpochEnded)[-1:]
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    assert rest.of(Started)[0].step == stop_at

    a, b = final(whole.path), final(part.path)
    for key in ("model", "ema", "optimizer", "scheduler", "random", "best", "epoch_sums", "step", "epoch"):
        assert same(a[key], b[key]), key
    told = [
        (e["epoch"], e["train"], e["val"], e["learning_rate"])
        for e in read_metrics(whole.path)
        if e["event"] == "epoch"
    ]
    again = [
        (e["epoch"], e["train"], e["val"], e["learning_rate"]) for e in read_metrics(part.path) if e["event"] == "epoch"
    ]
    assert told == again
    assert whole.session.finished.test == rest.session.finished.test


def test_evaluating_pausing_and_checkpointing_on_the_way_change_nothing(train: Train) -> None:
    options = ("model.args.dropout=0.3", "trainer.epochs=2", "tracking.tensorboard=false")
    plain = train(*options)
    for command in ("evaluate", "checkpoint"):
        disturbed = train(*options, stop_at=10, command=command)
        assert same(final(plain.path)["model"], final(disturbed.path)["model"]), command
    observed = train(*options, "trainer.checkpoint_steps=3", "tracking.every_steps=1", "tracking.tensorboard=true")
    assert same(final(plain.path)["model"], final(observed.path)["model"])


def test_a_finished_run_can_be_prolonged(train: Train) -> None:
    run = train("trainer.epochs=2")
    assert read_info(run.path).get("epoch") == 2
    longer = train("trainer.epochs=4", resume=run.path)
    assert longer.status == "done", longer.failure
    assert [e.epoch for e in longer.of(EpochEnded)] == [3, 4]
    info = read_info(run.path)
    assert (info.status, info.get("epoch"), info.get("epochs")) == ("done", 4, 4)
    assert [e["epoch"] for e in read_metrics(run.path) if e["event"] == "epoch"] == [1, 2, 3, 4]


def test_resume_of_a_finished_run_only_tests_again(train: Train) -> None:
    run = train("trainer.epochs=2")
    again = train(resume=run.path)
    assert again.status == "done"
    assert not again.of(EpochEnded)
    assert again.session.finished.test == run.session.finished.test


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(train: Train) -> None:
    options = ("trainer.epochs=1", "trainer.seed=7")
    whole = train(*options)
    part = train(*options, stop_at=5, command="abort")
    assert not list((part.path / "checkpoints").iterdir())
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    assert rest.path == part.path
    [said] = [e.message for e in rest.of(LogLine) if "first checkpoint" in e.message]
    assert "begins anew, with its own experiment and seed" in said
    assert same(final(whole.path)["model"], final(rest.path)["model"])
    assert len(rest.of(EpochEnded)) == 1


def test_a_run_whose_checkpoints_were_taken_away_keeps_its_history(train: Train) -> None:
    done = train("trainer.epochs=1")
    before = (done.path / "metrics.jsonl").read_bytes()
    for file in (done.path / "checkpoints").iterdir():
        file.unlink()
    again = train(resume=done.path)
    assert again.failure is not None and again.failure.user
    assert "are gone; start a new run" in again.failure.message
    assert (done.path / "metrics.jsonl").read_bytes() == before


def test_what_can_not_be_read_or_written_at_a_resume_is_a_sentence(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = train("trainer.epochs=2", stop_at=25)
    files = sorted((part.path / "checkpoints").iterdir())

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a full disk, the system's own error
    try:
        full = train(resume=part.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.failure is not None
    assert full.failure.message == f"The run {str(part.path)!r} can't be written: File too large."

    def load(*args: object, **options: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 4294967296 bytes. Error code 12"
        )

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", load)
        short = train(resume=part.path)
    assert short.failure is not None
    assert short.failure.message.startswith("Out of memory before the training began")
    assert "4.00 GiB was asked for" in short.failure.message
    # Nothing was taken for damaged, and nothing is lost.
    assert sorted((part.path / "checkpoints").iterdir()) == files
    assert train(resume=part.path).status == "done"


def test_fewer_steps_than_the_run_has_are_refused_in_one_sentence(train: Train) -> None:
    part = train("trainer.epochs=3", stop_at=30)
    refused = train("trainer.epochs=1", resume=part.path)
    assert refused.failure is not None and refused.failure.user
    assert refused.failure.message == "--resume: the run is at step 30, beyond the 21 that are asked for."


def test_checkpoints_keep_their_layout_and_those_of_old_go_on(train: Train) -> None:
    options = ("trainer.epochs=2", "trainer.ema=0.9", "tracking.tensorboard=false")
    whole = train(*options)
    part = train(*options, stop_at=30)
    file = part.path / "checkpoints" / "last.pt"
    state = torch.load(file, weights_only=True)
    assert set(state) == {
        *("torchdeck", "experiment", "folder", "data", "epoch", "step", "epoch_length", "model", "loss", "ema"),
        *(
            "optimizer",
            "scheduler",
            "scaler",
            "compiled",
            "processes",
            "feed",
            "random",
            "best",
            "epoch_sums",
            "epoch_parts",
            "epoch_seconds",
        ),
    }
    assert set(state["best"]) == {"value", "loss", "epoch", "bad_epochs"}
    assert set(state["ema"]) == {"model", "averaged"}
    assert set(state["scheduler"]) == {"scale", "best", "bad_epochs"}
    loss, right, samples, weight = state["epoch_sums"]
    assert (samples, weight) == (9 * 64, 9 * 64) and 0 < right < samples and loss > 0

    # The first checkpoints knew no weights of losses and no loss of the best epoch.
    state["epoch_sums"] = [loss, right, samples]
    del state["best"]["loss"]
    for old in file.parent.iterdir():
        old.unlink()
    torch.save(state, file)
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    assert same(final(whole.path)["model"], final(part.path)["model"])
    assert same(final(whole.path)["epoch_sums"], final(part.path)["epoch_sums"])
    assert whole.of(EpochEnded)[-1].train == rest.of(EpochEnded)[-1].train
