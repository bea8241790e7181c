"""The presets of tasks beyond classes and numbers learn, and a run that was interrupted in mid-epoch ends with the
very same weights as one that was not."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.evaluation.export import export_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.evaluation.trained import Trained, load_trained
from torchdeck.core.events import EpochEnded, TextWritten
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.runs.directory import read_metrics
from torchdeck.core.search.figures import curves
from torchdeck.core.search.objectives import objectives

#: Preset, what makes it short, where it is interrupted, and what its test figures are at least or at most.
SHORT: dict[str, tuple[tuple[str, ...], int, dict[str, tuple[float, float]]]] = {
    "char-lm": (
        ("data.args.characters=40000", "data.args.length=32", "trainer.epochs=1", "trainer.batch_size=8"),
        20,
        {
            "perplexity": (2, 17),
            "accuracy": (0.2, 1),
            "bits_per_byte": (1, 4.1),
        },  # 95 characters, 4.5 bits if unlearned
    ),
    "digits-autoencoder": (("trainer.epochs=12",), 31, {"psnr": (17, 60), "rmse": (0, 0.14)}),
    "digits-vae": (("trainer.epochs=8",), 31, {"loss": (15, 26), "kl": (0.5, 20), "reconstruction": (10, 26)}),
    "digits-contrastive": (
        ("trainer.epochs=5", "model.args.channels=[16,32]", "trainer.batch_size=128"),
        17,
        {"top1": (0.01, 1), "neighbour_accuracy": (0.5, 1)},  # by chance 0.0014 and 0.1
    ),
    "forecast": (("trainer.epochs=2", "data.args.samples=1000", "data.args.past=24"), 18, {"rmse": (0.05, 0.62)}),
    "two-inputs": (("trainer.epochs=2", "model.args.channels=[16,32]"), 100, {"accuracy": (0.85, 1)}),
    "shapes-segmentation": (
        ("trainer.epochs=6", "data.args.samples=300", "model.args.channels=[8,16]", "trainer.batch_size=16"),
        20,
        {"miou": (0.3, 1), "dice": (0.35, 1), "iou_ground": (0.7, 1)},  # of the ground alone miou would be 0.2
    ),
    "shapes-detection": (
        ("trainer.epochs=4", "data.args={samples=120,size=32}", "model.args.channels=[16,32]", "trainer.batch_size=8"),
        20,
        {"map50": (0.02, 1), "map": (0.005, 1)},
    ),
    "multilabel": (("trainer.epochs=4",), 50, {"f1": (0.55, 1), "map": (0.7, 1), "exact_match": (0.2, 1)}),
}


def test_a_search_seeks_what_the_task_measures() -> None:
    sought = {}
    for preset in (*SHORT, "digits"):
        [objective] = objectives(toml.load(preset))
        sought[preset] = (objective.name, objective.higher)
    counted = ("accuracy", True)
    others = {"two-inputs": counted, "digits": counted, "shapes-detection": ("map", True)}
    assert sought == dict.fromkeys(SHORT, ("loss", False)) | others


def weights(run: Any) -> dict[str, Any]:
    return load_checkpoint(run.path / "checkpoints" / "last.pt", "test")["model"]


@pytest.mark.parametrize("preset", SHORT)
def test_a_preset_learns_and_is_resumed_exactly(train: Train, preset: str) -> None:
    short, stop_at, limits = SHORT[preset]
    options = (*short, "tracking.tensorboard=false", "task.name=language" if preset == "char-lm" else "trainer.seed=0")
    whole = train(*options, source=preset)
    assert whole.status == "done", whole.failure
    figures = whole.session.finished.test
    for name, (low, high) in limits.items():
        assert low < figures[name] <= high, (name, figures)

    part = train(*options, source=preset, stop_at=stop_at)
    assert part.status == "stopped"
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    one, other = weights(whole), weights(part)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rest.session.finished.test == figures
    told, again = (
        [(e["train"], e["val"]) for e in read_metrics(run.path) if e["event"] == "epoch"] for run in (whole, part)
    )
    assert told == again
    best = load_trained(whole.path / "checkpoints" / "best.pt", True)
    assert evaluate_model(best, device="cpu").report.metrics == pytest.approx(dict(figures), rel=1e-5)
    texts = [[e["text"] for e in read_metrics(run.path) if e["event"] == "text"] for run in (whole, part)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(whole.of(TextWritten)) == (len(whole.of(EpochEnded)) if preset == "char-lm" else 0)
    assert curves(whole.path, whole.path / "curves.png")  # which a study draws of its best trial
    if preset in ("shapes-segmentation", "multilabel"):
        predictions_are_the_models(best, whole)
    elif preset != "digits-gan":
        other_predictions_are_the_models(preset, best, whole)


def predictions_are_the_models(model: Trained, run: Any) -> None:
    """What predict tells of raw inputs is what the network makes of them, prepared by hand."""
    raw = load_data(model.experiment.model_copy(update={"data": as_they_are(model)}), torch.device("cpu")).sample.x
    file = run.path / "inputs.npy"
    np.save(file, (raw.byte() if raw.ndim == 4 else raw).numpy())
    found = list(predict_paths(model, [str(file)], io.BytesIO(), "cpu"))
    x = raw.float()
    for transform in model.transforms:
        args = transform.args()
        shape = [1, -1, *[1] * (x.ndim - 2)]
        if transform.name == "ToTensor":
            x = x / 255
        elif transform.name == "Normalize":
            x = (x - torch.tensor(args["mean"]).reshape(shape)) / torch.tensor(args["std"]).reshape(shape)
    with torch.no_grad():
        out = model.net.eval()(x)
    assert len(found) == len(raw)
    for one, logits in zip(found, out, strict=True):
        if model.info.task == "multilabel":
            names = [n for n, p in zip(model.info.class_names, logits.sigmoid(), strict=True) if p >= 0.5]
            assert one.predicted == names
            assert dict(one.top) == pytest.approx(
                dict(zip(model.info.class_names, logits.sigmoid().tolist(), strict=True)), abs=1e-5
            )
        else:
            shares = torch.bincount(logits.argmax(0).flatten(), minlength=model.info.classes) / logits[0].numel()
            named = dict(zip(model.info.class_names, shares.tolist(), strict=True))
            assert one.predicted == pytest.approx({name: share for name, share in named.items() if share})


def other_predictions_are_the_models(preset: str, model: Trained, run: Any) -> None:
    """The same of tasks whose inputs or outputs are of another form, on inputs that are drawn."""
    generator, net, info = torch.Generator().manual_seed(0), model.net.eval(), model.info
    file = run.path / ("drawn.npz" if preset == "two-inputs" else "drawn.npy")
    if preset == "char-lm":
        return the_text_follows(model, run.path / "prompt.txt")
    if preset == "two-inputs":
        image, table = torch.rand(3, 1, 8, 8, generator=generator), torch.rand(3, 10, generator=generator)
        np.savez(file, table=table.numpy(), image=image.numpy())
        inputs: Any = (image, table)
    else:
        shape = (3, 64, 64) if preset == "shapes-detection" else info.input_shape
        drawn = torch.rand(3, *shape, generator=generator)
        np.save(file, drawn.numpy())
        norm = next((t.args() for t in model.transforms if t.name == "Normalize"), {"mean": [0.0], "std": [1.0]})
        middle, spread = (torch.tensor(norm[key]).reshape(1, -1, *[1] * (len(shape) - 1)) for key in ("mean", "std"))
        inputs = ((drawn - middle) / spread,)
    found = list(predict_paths(model, [str(file)], io.BytesIO(), "cpu"))
    assert len(found) == 3
    with torch.no_grad():
        out = net(list(inputs[0])) if preset == "shapes-detection" else net(*inputs)
    if preset == "shapes-detection":
        images = [*drawn, torch.rand(3, 40, 50)]  # of any sizes
        assert export_model(net, "model", run.path / "net.pth", images, classes=False).difference == 0
        with pytest.raises(UserError, match="--format onnx does not hold; use --format model"):
            export_model(net, "onnx", run.path / "net.onnx", images, classes=False)
    for i, one in enumerate(found):
        told: Any = one.predicted
        if preset == "shapes-detection":
            assert np.array([b["box"] for b in told]) == pytest.approx(out[i]["boxes"].numpy(), abs=1e-2)
            assert [b["score"] for b in told] == pytest.approx(out[i]["scores"].tolist(), abs=1e-4)
            assert [b["label"] for b in told] == [info.class_names[n] for n in out[i]["labels"].tolist()]
        elif preset in ("digits-autoencoder", "digits-vae"):
            made = out[0] if isinstance(out, tuple) else out
            made = made.sigmoid() if preset == "digits-vae" else made
            error = (made[i].reshape(inputs[0][i].shape) - inputs[0][i]).double()
            assert told == pytest.approx({"mae": float(error.abs().mean()), "rmse": float((error**2).mean().sqrt())})
        elif preset == "two-inputs":
            assert told == info.class_names[int(out[i].argmax())]
            assert one.probability == pytest.approx(float(out[i].softmax(0).max()), abs=1e-5)
        else:
            row = out[i].flatten().double()
            if info.target_mean:
                row = row * torch.tensor(info.target_std).double() + torch.tensor(info.target_mean).double()
            assert told == pytest.approx(row.tolist(), rel=1e-4, abs=1e-5)


def the_text_follows(model: Trained, file: Path) -> None:
    """At a temperature of 0 each character of a continuation is the most likely one."""
    names = model.info.vocabulary
    cold = model.experiment.task.model_copy(update={"args": {"temperature": 0.0, "sample_tokens": 12}})
    model = replace(model, experiment=model.experiment.model_copy(update={"task": cold}))
    file.write_text("def the")
    [one] = predict_paths(model, [str(file)], io.BytesIO(), "cpu")
    tokens = [names.index(c) for c in "def the"]
    for _ in range(12):
        with torch.no_grad():
            tokens.append(int(model.net(torch.tensor([tokens[-model.info.input_shape[0] :]]))[0, -1].argmax()))
    assert one.predicted == "".join(names[t] for t in tokens[7:])


def as_they_are(model: Trained) -> Data:
    return model.experiment.data.model_copy(update={"transforms": ()})
