"""Going further from a checkpoint: evaluate, predict, export, fine-tune, and whose code may run."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Train, command, verb
from PIL import Image
from sklearn.datasets import load_digits, load_iris

from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.evaluation.export import FORMATS, export_model, quantised
from torchdeck.core.evaluation.finetune import experiment_from, fitted_to
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.evaluation.trained import Trained, load_trained
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data

MODEL = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))
    def forward(self, x):
        return self.layers(x)
"""


def best(run: Path) -> Trained:
    return load_trained(run / "checkpoints" / "best.pt", trust_code=False)


@pytest.fixture
def digits(train: Train) -> Path:
    return train("trainer.epochs=4", "model.name=cnn").path


def data(**values: Any) -> Data:
    return toml.build({"data": values}).data


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["digits", "diabetes", "iris"])
def test_its_own_test_set_gives_the_runs_own_metrics(train: Train, source: str) -> None:
    run = train("trainer.epochs=4", source=source).path
    told = json.loads((run / "run.json").read_text())["test"]
    assert evaluate_model(best(run)).report.metrics == pytest.approx(told, rel=1e-5)


def test_other_data_are_prepared_like_those_of_the_training(digits: Path, tmp_path: Path) -> None:
    real = load_digits()
    for number, (image, target) in enumerate(zip(real.images, real.target, strict=True)):
        folder = tmp_path / "photos" / str(target)
        folder.mkdir(parents=True, exist_ok=True)
        if number < 200:
            Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    said: list[str] = []
    done = evaluate_model(
        best(digits), data(name="ImageFolder", args={"path": str(tmp_path / "photos")}), warn=said.append
    )
    assert (done.split, done.samples) == ("all", 200)
    assert done.report.metrics["accuracy"] > 0.93
    assert not any("put first" in text for text in said)  # grey in three channels, of the right size: nothing changes
    (tmp_path / "large" / "3").mkdir(parents=True)
    Image.effect_noise((20, 20), 60).convert("RGB").save(tmp_path / "large" / "3" / "a.png")
    evaluate_model(best(digits), data(name="ImageFolder", args={"path": str(tmp_path / "large")}), warn=said.append)
    assert any("Grayscale and Resize are put first" in text for text in said)


def test_labels_are_matched_by_name(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=20", source="iris").path
    iris = load_iris()
    with (tmp_path / "flowers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*iris.feature_names, "species"])
        for row, target in zip(iris.data, iris.target, strict=True):
            if target > 0:  # without setosa the numbers of the others move
                writer.writerow([*row, iris.target_names[target]])
    done = evaluate_model(best(run), data(name="table", args={"path": str(tmp_path / "flowers.csv")}))
    assert done.report.metrics["accuracy"] > 0.75  # matched by number it would be near 0
    assert sum(done.report.confusion[0]) == 0


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"name": "diabetes"}, "is regression, but the model was trained for classification"),
        ({"name": "iris"}, "has the class 'setosa', which the model was not trained on"),
    ],
)
def test_data_that_do_not_fit_are_told(digits: Path, other: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluate_model(best(digits), data(**other))


# --- predict ---------------------------------------------------------------------------------------------------------


def test_images_folders_arrays_and_stdin(digits: Path, tmp_path: Path) -> None:
    real = load_digits()
    trained = best(digits)
    folder = tmp_path / "folder" / "deeper"
    folder.mkdir(parents=True)
    small = [np.round(image * 255 / 16).astype(np.uint8) for image in real.images[:20]]
    for number, image in enumerate(small):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    np.save(tmp_path / "x.npy", np.stack(small))
    by_folder = list(predict_paths(trained, [str(tmp_path / "folder")], io.BytesIO()))
    by_array = list(predict_paths(trained, [str(tmp_path / "x.npy")], io.BytesIO()))
    assert [p.predicted for p in by_folder] == [p.predicted for p in by_array]
    assert sum(p.predicted == str(t) for p, t in zip(by_folder, real.target, strict=False)) >= 18
    assert by_folder[0].input.endswith("00.png")
    assert sum(
        dict(predict_paths(trained, [str(tmp_path / "x.npy")], io.BytesIO(), top=10).__next__().top).values()
    ) == pytest.approx(1, abs=1e-5)
    [one] = predict_paths(trained, ["-"], io.BytesIO((folder / "03.png").read_bytes()))
    assert one.predicted == by_folder[3].predicted
    big = Image.fromarray(small[0]).resize((64, 64), Image.Resampling.NEAREST).convert("RGBA")
    big.save(tmp_path / "big.webp", lossless=True)
    told: list[str] = []
    found = list(
        predict_paths(trained, [str(tmp_path / "x.npy"), str(tmp_path / "folder")], io.BytesIO(), tell=told.append)
    )
    assert len(found) == 40 and not any("Resize" in text for text in told)
    [one, again] = predict_paths(trained, [str(tmp_path / "big.webp")] * 2, io.BytesIO(), tell=told.append)
    assert one.predicted == again.predicted == by_folder[0].predicted
    assert sum("made like those of the training" in text and "Resize" in text for text in told) == 1


def test_tables_by_column_names_or_without(train: Train, tmp_path: Path) -> None:
    trained = best(train("trainer.epochs=20", source="iris").path)
    iris = load_iris()
    names = list(iris.feature_names)
    shuffled = "\n".join(
        [
            ",".join([names[2], "id", names[0], names[3], names[1]]),
            *(f"{r[2]},7,{r[0]},{r[3]},{r[1]}" for r in iris.data),
        ]
    )
    bare = "\n".join(",".join(map(str, r)) for r in iris.data)
    first = [p.predicted for p in predict_paths(trained, ["-"], io.BytesIO(shuffled.encode()))]
    assert first == [p.predicted for p in predict_paths(trained, ["-"], io.BytesIO(bare.encode()))]
    assert sum(p == iris.target_names[t] for p, t in zip(first, iris.target, strict=True)) > 130

    # Of a folder what is hidden, or left by tools, is no input: nor with images.
    for place in (".", ".cache", "__MACOSX", "more"):
        (tmp_path / "tables" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tables" / place / "t.csv").write_text(shuffled)
    found = [p.input for p in predict_paths(trained, [str(tmp_path / "tables")], io.BytesIO())]
    assert {Path(text.partition(" row ")[0]).parent.name for text in found} == {"tables", "more"}
    assert len(found) == 2 * len(iris.data)


def test_regression_is_told_in_the_targets_own_unit(train: Train) -> None:
    trained = best(train("trainer.epochs=20", source="diabetes").path)
    from sklearn.datasets import load_diabetes

    real = load_diabetes()
    rows = "\n".join([",".join(real.feature_names), *(",".join(map(str, r)) for r in real.data)])
    found = [p.predicted[0] for p in predict_paths(trained, ["-"], io.BytesIO(rows.encode()))]
    assert np.corrcoef(found, real.target)[0, 1] > 0.6
    assert abs(np.mean(found) - real.target.mean()) < 30


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.png", b"no image", "is no image"),
        ("x.png", b"", "is no image"),
        ("x.csv", b"a,b\n1,2\n", "has 2 columns; the model takes 64"),
        ("x.csv", b"\xff\xfe", "can't be read as a table"),
        ("x.npy", b"\x93NUMPY", "can't be read as an array"),
        ("x.csv", b"", "is empty"),
    ],
)
def test_inputs_that_can_not_be_read(digits: Path, tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence) as error:
        list(predict_paths(best(digits), [str(tmp_path / name)], io.BytesIO()))
    assert "\n" not in str(error.value)


def test_an_array_of_objects_is_not_unpickled(digits: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="can't be read as an array"):
        list(predict_paths(best(digits), [str(tmp_path / "x.npy")], io.BytesIO()))


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_exports_give_the_same_numbers(digits: Path, tmp_path: Path, format: str) -> None:
    trained = best(digits)
    samples = torch.randn(16, *trained.info.input_shape)
    output = tmp_path / f"model.{FORMATS[format]}"
    found = export_model(trained.net, format, output, samples)
    assert output.stat().st_size > 1000
    assert found.samples == 16
    assert found.agreement >= (0.9 if format == "int8" else 1.0)
    assert found.relative < (0.05 if format == "int8" else 1e-5)
    with torch.inference_mode():
        expected = trained.net(samples)
        if format == "torch_export":
            assert torch.allclose(torch.export.load(output).module()(samples), expected, atol=1e-5)
        elif format == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
            assert np.allclose(session.run(None, {"input": samples[:3].numpy()})[0], expected[:3], atol=1e-4)


def test_int8_tells_the_accuracy_before_and_after(digits: Path, tmp_path: Path) -> None:
    done = verb("export", str(digits), "--format", "int8", "--json", "-o", "q.pt2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    before = json.loads((digits / "run.json").read_text())["test"]["accuracy"]
    assert told["before"]["accuracy"] == pytest.approx(before)
    assert told["after"]["accuracy"] == pytest.approx(before, abs=0.05)
    with pytest.raises(UserError, match="no linear layer"):
        quantised(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_a_model_that_can_not_be_exported_is_one_sentence(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum().item() > 0 else x

    for format in ("torch_export", "model"):
        with pytest.raises(UserError, match=r"can't be (exported|pickled)") as error:
            export_model(Odd(), format, tmp_path / "x", torch.randn(4, 2))
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# --- fine-tune -------------------------------------------------------------------------------------------------------


def test_a_new_head_frozen_layers_and_a_slow_body(digits: Path, train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            image = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
            image[:, : 10 if name == "left" else 20] = 200
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    path = digits / "checkpoints" / "best.pt"
    raw = experiment_from(
        path, {"name": "ImageFolder", "args": {"path": str(tmp_path / "photos")}}, ["stages.0.*"], 0.01
    )
    experiment = fitted_to(path, toml.build(raw))
    (tmp_path / "ft.toml").write_text(toml.dumps(experiment))
    tuned = train("trainer.epochs=3", "data.workers=0", source=str(tmp_path / "ft.toml"))
    assert tuned.status == "done", tuned.failure
    before, after = best(digits).weights, torch.load(tuned.path / "checkpoints" / "last.pt", weights_only=True)
    frozen = [n for n in before if n.startswith("stages.0.") and "running" not in n and "num_batches" not in n]
    assert frozen and all(torch.equal(before[n], after["model"][n]) for n in frozen)
    assert after["model"]["head.2.weight"].shape[0] == 2
    rates = [
        group["initial_lr"] if "initial_lr" in group else group["lr"] for group in after["optimizer"]["param_groups"]
    ]
    assert min(rates) == pytest.approx(max(rates) * 0.01, rel=1e-6)


def test_dangerous_weights_are_not_taken(tmp_path: Path) -> None:
    import os

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    torch.save({"w": torch.ones(1), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"would run .*system"):
        experiment_from(tmp_path / "evil.pth", None)


# --- whose code ------------------------------------------------------------------------------------------------------


def test_code_of_others_runs_only_when_the_user_says_so(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    run = train("trainer.epochs=1", "model.name=net.py:Net").path
    assert best(run).step > 0  # one's own runs ask nothing
    theirs = tmp_path / "downloads" / "theirs"
    shutil.copytree(run, theirs)
    told = json.loads((theirs / "run.json").read_text())
    (theirs / "run.json").write_text(json.dumps(told | {"id": "0" * 32}))
    canary = tmp_path / "canary"
    (tmp_path / "net.py").write_text(MODEL + f"\nopen({str(canary)!r}, 'w')\n")
    alone = shutil.copy(run / "checkpoints" / "best.pt", tmp_path / "alone.pt")
    for path in (theirs / "checkpoints" / "best.pt", Path(alone)):
        with pytest.raises(UserError, match=r"was not made here and would run the code 'net.py:Net'"):
            load_trained(path, trust_code=False)
    assert verb("export", "alone.pt", "--format", "safetensors", cwd=tmp_path).returncode == 0  # weights need no code
    done = verb("export", "alone.pt", "--format", "onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert "say --trust-code" in done.stderr
    done = verb("finetune", str(theirs), "--data", "digits", "-o", "ft.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "say --trust-code" in done.stderr
    assert not canary.exists()
    assert command("evaluate", str(theirs), "--trust-code", cwd=tmp_path).returncode == 0
    assert canary.exists()
