"""Which data are evaluated, and that classes are names: held against plain torch and scikit-learn over the same
rows."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import QUICK, Train
from PIL import Image
from sklearn.metrics import confusion_matrix, r2_score

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.fingerprint import fingerprint
from torchdeck.core.data.load import load_data
from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.evaluation import trained as trained_models
from torchdeck.core.evaluation.evaluate import EvaluationResult, evaluate_model
from torchdeck.core.evaluation.predict import predict_paths
from torchdeck.core.evaluation.trained import Trained
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.session.session import Session
from torchdeck.tui.__main__ import main

FEATURES = ["a", "b", "c"]
SHORT = (*QUICK, "trainer.epochs=1", "trainer.batch_size=32", "tracking.tensorboard=false", "data.workers=0")
MLP = ("model.name=mlp", "model.args.widths=[6]")


def run(folder: Path, *overrides: str) -> Session:
    """A run that is over, in ``folder``."""
    session = Session(toml.load(None, [*SHORT, *overrides]), folder / "runs", None)
    session.start()
    assert session.join(60)
    assert session.status == "done", session.failure
    return session


def model_of(session: Session) -> Trained:
    assert session.run is not None
    return trained_models.load_trained(session.run.path / "checkpoints" / "last.pt", True)


def rows_of(rng: np.random.Generator, n: int, kinds: list[str]) -> tuple[np.ndarray, list[str]]:
    """Inputs [N, 3] that tell something of their classes."""
    y = [kinds[i] for i in rng.integers(0, len(kinds), n)]
    x = rng.normal(size=(n, 3)) + np.array([[int(k) if k.isdigit() else 0, 0, 1] for k in y]) * [3, 1, 0]
    return x.round(4), y


def write(
    path: Path,
    x: np.ndarray,
    y: list[Any],
    columns: list[str],
    blank: Callable[[int], bool] = lambda i: False,
    notes: list[str] | None = None,
) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        for i, (row, label) in enumerate(zip(x, y, strict=True)):
            if blank(i):
                file.write("\n")
            known = {**dict(zip(FEATURES, row, strict=True)), "kind": label, "note": notes[i] if notes else 0}
            out.writerow([known[name] for name in columns])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("which")


@pytest.fixture(scope="module")
def table(place: Path) -> Session:
    """A run on a table of 150 rows of the classes 1, 2 and 3."""
    x, y = rows_of(np.random.default_rng(0), 150, ["1", "2", "3"])
    path = write(place / "train.csv", x, y, [*FEATURES, "kind"])
    return run(place, "data.name=table", f"data.args.path={path}", "data.args.task=classification", *MLP)


@pytest.fixture(scope="module")
def model(table: Session) -> Trained:
    return model_of(table)


@pytest.fixture(scope="module")
def numbers(place: Path) -> Trained:
    """A model of a table of numbers."""
    x, _ = rows_of(np.random.default_rng(1), 120, ["0"])
    y = (x @ [3.0, -2.0, 0.5] + 0.25).tolist()
    path = write(place / "numbers.csv", x, y, [*FEATURES, "kind"])
    return model_of(run(place, "data.name=table", f"data.args.path={path}", *MLP))


def outputs(model: Trained, x: np.ndarray) -> torch.Tensor:
    """Plain torch: what the network says of rows [N, F] in the trained order of features."""
    (normalize,) = model.transforms
    mean, std = (np.array(normalize.args()[k]) for k in ("mean", "std"))
    with torch.no_grad():
        return model.net.eval()(torch.from_numpy((x - mean) / std).float()).double()


def holds(done: EvaluationResult, model: Trained, x: np.ndarray, y: list[str]) -> None:
    """What was evaluated is what plain torch and scikit-learn say of all of these rows."""
    assert done.samples == done.total == len(y)
    assert done.split == "all"
    names = list(model.info.class_names)
    logits = outputs(model, x)
    expected = confusion_matrix(y, [names[i] for i in logits.argmax(1)], labels=names)
    assert np.array_equal(np.array(done.report.confusion), expected)
    assert done.report.metrics["accuracy"] == pytest.approx(np.trace(expected) / len(y))
    loss = F.cross_entropy(logits, torch.tensor([names.index(k) for k in y])).item()
    assert done.report.metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)


def on_table(path: Path, **args: Any) -> Data:
    return Data(name="table", args={"path": str(path), **args})


def test_all_rows_of_another_table_are_judged_by_the_names_of_their_classes(model: Trained, tmp_path: Path) -> None:
    for seed in range(60):
        rng, draw = np.random.default_rng(seed), random.Random(seed)
        kinds = draw.choice([["1"], ["2"], ["3"], ["3", "1"], ["2", "3"], ["3", "2", "1"]])
        x, y = rows_of(rng, draw.choice([1, 2, 5, 30, 200]), kinds)
        order = np.argsort([-int(k) for k in y]) if draw.random() < 0.3 else np.arange(len(y))
        x, y = x[order], [y[i] for i in order]
        written = [draw.choice([k, f"{k}.0", f"{k}.00"]) if seed % 2 else k for k in y]
        columns = [*FEATURES, "kind", *draw.choice([[], ["note"]])]
        draw.shuffle(columns)
        path = write(tmp_path / f"{seed}.csv", x, written, columns)
        holds(evaluate_model(model, on_table(path), device="cpu"), model, x, y)


@pytest.mark.parametrize("odd", ["4", "01", "1.5", "one", "-1"])
def test_a_label_that_the_model_does_not_know_is_refused_with_its_row(model: Trained, tmp_path: Path, odd: str) -> None:
    for seed in range(4):
        draw = random.Random(f"{odd} {seed}")
        x, y = rows_of(np.random.default_rng(seed), 12, ["1", "2"])
        at = draw.randrange(12)
        y[at] = odd
        notes = [draw.choice(["plain", "two\nlines", "a\n\nb"]) for _ in y]
        blank = {i for i in range(12) if draw.random() < 0.3}
        path = write(tmp_path / "odd.csv", x, y, ["note", *FEATURES, "kind"], blank.__contains__, notes)
        # the line on which its record begins
        row = 2 + at + sum(i <= at for i in blank) + sum(n.count("\n") for n in notes[:at])
        with pytest.raises(UserError) as error:
            evaluate_model(model, on_table(path), device="cpu")
        assert f"'{odd}'" in str(error.value)
        assert f"row {row})" in str(error.value)


def test_whole_numbers_in_another_table_stay_numbers(numbers: Trained, tmp_path: Path) -> None:
    for seed in range(10):
        x, _ = rows_of(np.random.default_rng(seed), 20, ["0"])
        y = np.random.default_rng(seed).integers(-3, 4 + 1000 * (seed % 2), 20)
        path = write(tmp_path / f"{seed}.csv", x, y.tolist(), random.Random(seed).sample([*FEATURES, "kind"], k=4))
        done = evaluate_model(numbers, on_table(path), device="cpu")
        said = outputs(numbers, x)[:, 0].numpy() * numbers.info.target_std[0] + numbers.info.target_mean[0]
        assert done.samples == done.total == 20
        assert done.report.metrics["r2"] == pytest.approx(r2_score(y, said), rel=1e-4)
        assert done.report.metrics["rmse"] == pytest.approx(np.sqrt(((y - said) ** 2).mean()), rel=1e-4)


def test_the_very_data_of_the_run_by_path_and_content(
    table: Session, model: Trained, place: Path, tmp_path: Path
) -> None:
    assert table.finished is not None
    told: list[str] = []
    own = evaluate_model(model, device="cpu", warn=told.append)
    again = evaluate_model(model, on_table(place / "train.csv"), device="cpu", warn=told.append)
    for done in (own, again):
        assert (done.split, done.samples, done.total) == ("test", 30, 150)
        assert done.report.metrics == pytest.approx(table.finished.test)
    other_share = Data(name="table", args={"path": str(place / "train.csv")}, test_share=0.4)
    assert (
        evaluate_model(model, other_share, device="cpu", warn=told.append).samples == 30
    )  # none that it was trained on
    assert "data.test_share = 0.2" in told.pop()
    sizes = [evaluate_model(model, split=part, device="cpu").samples for part in ("train", "val", "test", "all")]
    assert sum(sizes[:3]) == sizes[3] == 150
    assert not any("changed" in text for text in told)

    copied = tmp_path / "copy.csv"
    copied.write_bytes((place / "train.csv").read_bytes())
    lines = list(csv.reader(io.StringIO(copied.read_text())))[1:]
    x, y = np.array([[float(v) for v in line[:3]] for line in lines]), [line[3] for line in lines]
    holds(evaluate_model(model, on_table(copied), device="cpu"), model, x, y)


def test_changed_data_under_the_same_path(tmp_path: Path) -> None:
    x, y = rows_of(np.random.default_rng(3), 60, ["1", "2"])
    path = write(tmp_path / "t.csv", x, y, [*FEATURES, "kind"])
    model = model_of(run(tmp_path, "data.name=table", f"data.args.path={path}", "data.args.task=classification", *MLP))
    for change in ("label", "value", "fewer"):
        x2, y2 = x.copy(), list(y)
        if change == "label":
            y2[7] = "2" if y2[7] == "1" else "1"
        elif change == "value":
            x2[7, 1] += 1
        else:
            x2, y2 = x2[:-1], y2[:-1]
        write(path, x2, y2, [*FEATURES, "kind"])
        told: list[str] = []
        done = evaluate_model(model, device="cpu", warn=told.append)
        assert done.split == "test"
        assert any("have changed since the training" in text for text in told), change
        holds(evaluate_model(model, on_table(path), device="cpu"), model, x2, y2)
        exact = model.experiment.data  # what --data gives may be the run's own table, word for word
        holds(evaluate_model(model, exact, device="cpu"), model, x2, y2)


def test_json_says_how_many_of_how_many(model: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(model.path), "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], said["of"], said["split"]) == (30, 150, "test")


# --- arrays ----------------------------------------------------------------------------------------------------------

LABELS: dict[str, list[Any]] = {
    "gaps": [3, 7],
    "negative": [-1, 1],
    "names": ["no", "yes"],
    "booleans": [False, True],
    "counted": [0, 2],
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_arrays_are_names(kind: str, tmp_path: Path) -> None:
    labels, rng = LABELS[kind], np.random.default_rng(4)
    x = rng.normal(size=(50, 3)).round(3)
    y = np.array(labels)[rng.integers(0, 2, 50)]
    parts = {
        "x_train": x[:30],
        "y_train": y[:30],
        "x_val": x[30:37],
        "y_val": y[30:37],
        "x_test": x[37:],
        "y_test": y[37:],
    }
    np.savez(tmp_path / "own.npz", **parts)
    more = ("data.num_classes=4",) if kind == "counted" else ()
    session = run(tmp_path, "data.name=npz", f"data.args.path={tmp_path}/own.npz", *more, *MLP)
    model = model_of(session)
    names = [str(i) for i in range(4)] if kind == "counted" else [str(v) for v in labels]
    assert list(model.info.class_names) == names
    assert session.built is not None
    assert session.built.data.info.samples == {"train": 30, "val": 7, "test": 13}
    given = Data(name="npz", args={"path": f"{tmp_path}/own.npz"})
    for data in (None, given):
        done = evaluate_model(model, data, device="cpu")
        assert (done.split, done.samples, done.total) == ("test", 13, 50)
    for seed in range(6):
        one = np.random.default_rng(seed)
        n = int(one.integers(1, 20))
        x2 = one.normal(size=(n, 3))
        y2 = np.array(labels)[one.integers(seed % 2, 2, n)]  # each second time one class only
        np.savez(tmp_path / "other.npz", x=x2, y=y2 if seed % 3 or kind == "booleans" else y2.astype(str))
        done = evaluate_model(model, Data(name="npz", args={"path": f"{tmp_path}/other.npz"}), device="cpu")
        holds(done, model, x2, [str(v) for v in y2])
    odd = np.array([labels[0], "other"])
    np.savez(tmp_path / "odd.npz", x=x[:2], y=odd)
    with pytest.raises(UserError, match=r"'other'.*sample 1"):
        evaluate_model(model, Data(name="npz", args={"path": f"{tmp_path}/odd.npz"}), device="cpu")


# --- folders of images -----------------------------------------------------------------------------------------------


def test_parts_of_a_folder_are_used_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"train": (9, 7), "val": (3, 4), "test": (5, 0)}
    for part, each in sizes.items():
        for name, count in zip(("cat", "dog"), each, strict=True):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(count):
                made = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
                made.save(tmp_path / "pets" / part / name / f"{i}.png")
    session = run(tmp_path, "data.name=ImageFolder", f"data.args.path={tmp_path}/pets", *MLP)
    model = model_of(session)
    assert session.built is not None
    assert session.built.data.info.samples == {part: sum(each) for part, each in sizes.items()}
    expected = {**sizes, "all": tuple(map(sum, zip(*sizes.values(), strict=True)))}
    for data in (None, Data(name="ImageFolder", args={"path": f"{tmp_path}/pets"}, workers=0)):
        for part, each in expected.items():
            done = evaluate_model(model, data, part, device="cpu")
            assert (done.samples, done.total) == (sum(each), 28)
            assert done.report.confusion is not None
            assert tuple(map(sum, done.report.confusion)) == each
    # a class that the model does not know is named with a file; one without images is no matter
    elsewhere = tmp_path / "more"
    for name in ("ant", "cat", "dog"):
        (elsewhere / name).mkdir(parents=True)
    made.save(elsewhere / "dog" / "0.png")
    made.save(elsewhere / "cat" / "0.png")
    made.save(elsewhere / "ant" / "5.png")
    with pytest.raises(UserError, match=r"'ant'.*5\.png"):
        evaluate_model(model, Data(name="ImageFolder", args={"path": str(elsewhere)}, workers=0), device="cpu")


# --- the user's own data sets ----------------------------------------------------------------------------------------

OWN = '''
import random
import torch
from torch.utils.data import Dataset

class Base(Dataset):
    def __init__(self, n, start, noise=0.0, odd=None):
        self.n, self.start, self.noise, self.odd = n, start, noise, odd
    def __len__(self): return self.n
    def __getitem__(self, i):
        x = torch.tensor([self.start + i, float(i % 2), 1.0])
        if self.noise: x = x + self.noise * random.random()
        if self.odd is not None and i == 11: return eval(self.odd)
        return x, i % 2

def two(): return Base(20, 0), Base(6, 1000)
def three(): return Base(20, 0), Base(6, 1000), Base(8, 2000)

class Train(Base):
    def __init__(self, train=True):
        super().__init__(*((20, 0) if train else (8, 2000)))

PARTS = {"train": (20, 0), "val": (6, 1000), "test": (8, 2000)}

class Val(Base):
    def __init__(self, split): super().__init__(*PARTS[split])

class Valid(Base):
    def __init__(self, split="train"):
        if split not in ("train", "valid", "test"): raise ValueError(f"unknown split {split!r}")
        super().__init__(*PARTS[split.replace("valid", "val")])

class Asserts(Base):
    def __init__(self, split):
        assert split in ("train", "test")
        super().__init__(*PARTS[split])

class Leaks(Base):
    def __init__(self, split): super().__init__(*PARTS["train" if split == "train" else "test"])

class LeaksTrain(Base):
    def __init__(self, split): super().__init__(*PARTS["test" if split == "test" else "train"], noise=1.0)

class Broken(Base):
    def __init__(self, split):
        super().__init__(*PARTS[split])
        if split == "val": float("3,5")

class BrokenKey(Base):
    def __init__(self, split):
        super().__init__(*PARTS[split])
        if split == "test": {"a": 1}["b"]

class Odd(Base):
    def __init__(self, odd): super().__init__(40, 0, odd=odd)

class Text(Dataset):
    def __len__(self): return 30
    def __getitem__(self, i): return "word " * (i % 3 + 1), i % 2

def counted(text): return torch.tensor([float(len(text)), 1.0])

class Few(Dataset):
    """Names beforehand, targets one by one."""
    def __init__(self, classes, labels): self.classes, self.labels_ = classes, labels
    def __len__(self): return len(self.labels_)
    def __getitem__(self, i): return torch.tensor([float(i), 1.0, 2.0]), self.labels_[i]
'''


@pytest.fixture(scope="module")
def own(place: Path) -> str:
    (place / "own.py").write_text(OWN)
    return str(place / "own.py")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("two", (20, 6, 0)),
        ("three", (20, 6, 8)),
        ("Train", (16, 4, 8)),
        ("Val", (20, 6, 8)),
        ("Valid", (20, 6, 8)),
        ("Asserts", (16, 4, 8)),
        ("Leaks", (16, 4, 8)),
        ("LeaksTrain", (16, 4, 8)),
    ],
)
def test_own_parts_of_a_users_data_set(own: str, tmp_path: Path, name: str, parts: tuple[int, ...]) -> None:
    session = run(tmp_path, f"data.name={own}:{name}", "trainer.validation_share=0.2", "trainer.steps=1", *MLP)
    assert session.built is not None
    assert tuple(session.built.data.info.samples.values()) == parts
    seen = {}
    for part in ("train", "val", "test"):
        feed = getattr(session.built.data, part)
        seen[part] = set() if feed is None else {int(v) for x, *_ in feed.epoch(0) for v in x[:, 0]}
    assert not seen["val"] & (seen["train"] | seen["test"])
    assert len(seen["train"]) == parts[0]
    done = evaluate_model(model_of(session), device="cpu")
    assert (done.split, done.samples) == (("test", parts[2]) if parts[2] else ("val", parts[1]))


@pytest.mark.parametrize(("name", "what"), [("Broken", "3,5"), ("BrokenKey", "'b'")])
def test_an_error_in_the_users_code_for_a_split_is_not_taken_for_its_lack(own: str, name: str, what: str) -> None:
    with pytest.raises(UserCodeError, match=what):
        load_data(toml.load(None, [*SHORT, f"data.name={own}:{name}"]), torch.device("cpu"))


def test_texts_are_taken_where_a_transform_of_the_users_makes_numbers_of_them(own: str, tmp_path: Path) -> None:
    name = f"data.name={own}:Text"
    model = model_of(run(tmp_path, name, f"data.transforms=[{{name='Lambda',function='{own}:counted'}}]", *MLP))
    assert model.info.input_shape == (2,)
    assert evaluate_model(model, device="cpu").samples == 6
    with pytest.raises(UserError, match=r"sample \d+ of .*own\.py:Text' is a str"):
        load_data(toml.load(None, [*SHORT, name]), torch.device("cpu"))


@pytest.mark.parametrize(
    "odd", ["(None, 1)", "('text', 1)", "({'a': 1}, 1)", "(torch.ones(2), 1)", "(torch.ones(3, 3), 1)"]
)
def test_inputs_of_another_kind_are_told_by_data_set_and_index(own: str, odd: str) -> None:
    experiment = toml.load(None, [*SHORT, f"data.name={own}:Odd", f"data.args.odd={odd!r}", "data.num_classes=2"])
    with pytest.raises(UserError, match=r"11\b.*own\.py:Odd"):
        loaded = load_data(experiment, torch.device("cpu"))
        for feed in (loaded.train, loaded.val, loaded.test):
            assert feed is not None
            list(feed.epoch(0))


def test_classes_of_a_users_data_set_whose_targets_are_read_one_by_one(own: str, tmp_path: Path) -> None:
    def data(classes: list[str], labels: list[int]) -> Data:
        return Data(name=f"{own}:Few", args={"classes": classes, "labels": labels}, workers=0)

    labels = [0, 1, 2] * 8
    model = model_of(
        run(
            tmp_path,
            f"data.name={own}:Few",
            "data.args.classes=['cat','dog','eel']",
            f"data.args.labels={labels}",
            "data.transforms=[{name='Normalize'}]",
            *MLP,
        )
    )
    for seed in range(8):
        draw = random.Random(seed)
        names = draw.sample(["cat", "dog", "eel", "ant", "bee"], k=5)
        known = [i for i, n in enumerate(names) if n in ("cat", "dog", "eel")]
        at = [draw.choice(known) for _ in range(9)]
        x = np.array([[i, 1.0, 2.0] for i in range(9)])
        holds(evaluate_model(model, data(names, at), device="cpu"), model, x, [names[i] for i in at])
        at[5] = names.index("bee")
        with pytest.raises(UserError, match=r"(?i)sample 5 .*'bee'"):
            evaluate_model(model, data(names, at), device="cpu")


def test_names_that_are_alike_are_other_classes(own: str, tmp_path: Path) -> None:
    names = ["1", "1.0", "01"]
    model = model_of(
        run(
            tmp_path,
            f"data.name={own}:Few",
            f"data.args.classes={names}",
            f"data.args.labels={[0, 1, 2] * 8}",
            "data.transforms=[{name='Normalize'}]",
            *MLP,
        )
    )
    x = np.array([[i, 1.0, 2.0] for i in range(9)])
    for seed in range(4):
        draw = random.Random(seed)
        mixed, at = draw.sample(names, k=3), draw.choices([0, 1, 2], k=9)
        done = evaluate_model(
            model, Data(name=f"{own}:Few", args={"classes": mixed, "labels": at}, workers=0), device="cpu"
        )
        holds(done, model, x, [mixed[i] for i in at])


def test_every_row_of_a_long_table_tells_it_from_another() -> None:
    x, y = torch.zeros(20_000, 3), torch.zeros(20_000, dtype=torch.long)
    found = {fingerprint(Source(Arrays(x, y), None, "classification", False))}
    for at in (0, 7, 4_097, 19_999):
        other = x.clone()
        other[at, 1] = 1
        found.add(fingerprint(Source(Arrays(other, y), None, "classification", False)))
    assert len(found) == 5


def test_the_content_of_a_users_data_set_tells_it_from_another(place: Path) -> None:
    found = {}
    for text in ("0.0", "0.5", "0.0", "random.random()", "random.random()"):
        code = OWN.replace("self.start + i, float", f"self.start + i + {text}, float")
        name = f"own_{len(found)}_{text[:3].replace('.', '_')}"
        (place / f"{name}.py").write_text(code)
        experiment = toml.load(None, [*SHORT, f"data.name={place}/{name}.py:three"])
        found.setdefault(text, set()).add(load_data(experiment, torch.device("cpu")).info.fingerprint)
    assert all(len(prints) == 1 for prints in found.values())
    assert len(set.union(*found.values())) == 3


# --- order, resume, and checkpoints of before ------------------------------------------------------------------------


def test_unshuffled_samples_come_as_they_lie_and_resume_in_mid_epoch_is_exact(own: str, train: Train) -> None:
    options = (*SHORT, f"data.name={own}:three", "data.shuffle=false", "trainer.batch_size=3", "trainer.epochs=3", *MLP)
    whole = train(*options, source=None)
    assert whole.status == "done", whole.failure
    for epoch in (0, 1, 2):
        order = [int(v) for x, *_ in whole.session.built.data.train.epoch(epoch) for v in x[:, 0]]
        assert order == list(range(20))
    part = train(*options, source=None, stop_at=10)
    assert part.status == "stopped"
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    a, b = (load_checkpoint(r.path / "checkpoints" / "last.pt", "test") for r in (whole, part))
    assert a["step"] == b["step"] == 21
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name])
    assert whole.session.finished.test == rest.session.finished.test


def test_checkpoints_that_lack_what_was_added_since_still_serve(
    train: Train, table: Session, model: Trained, tmp_path: Path
) -> None:
    added = ("fingerprint", "raw_shape", "integer", "target_names", "class_weights", "channels_last", "loss_kind")
    experiment = model.experiment
    path = experiment.data.args["path"]
    options = (
        *SHORT,
        "data.name=table",
        f"data.args.path={path}",
        "data.args.task=classification",
        "trainer.batch_size=8",
        *MLP,
    )
    part = train(*options, source=None, stop_at=5)
    assert part.status == "stopped"
    for file in (part.path / "checkpoints").glob("*.pt"):
        state = load_checkpoint(file, "test")
        lost = [state["data"].pop(key, None) for key in added]
        assert lost[0] is not None or file.name != "last.pt"
        for key in ("folder", "loss"):
            state.pop(key, None)
        torch.save(state, file)
    old = trained_models.load_trained(part.path / "checkpoints" / "last.pt", True)
    told: list[str] = []
    done = evaluate_model(old, device="cpu", warn=told.append)
    assert (done.split, done.samples, done.total) == ("test", 30, 150)
    assert any("does not tell the content" in text for text in told)
    x, y = rows_of(np.random.default_rng(8), 9, ["3", "1"])
    other = write(tmp_path / "new.csv", x, y, [*FEATURES, "kind"])
    holds(evaluate_model(old, on_table(other, target="kind"), device="cpu"), old, x, y)
    said = list(predict_paths(old, [str(other)], io.BytesIO(), device="cpu"))
    names = old.info.class_names
    assert [one.top[0][0] for one in said] == [names[i] for i in outputs(old, x).argmax(1)]
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    whole = train(*options, source=None)
    assert whole.session.finished.test == rest.session.finished.test
