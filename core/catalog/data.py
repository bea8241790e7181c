"""Data sets that can be picked by name."""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param


def _embedded(name: str, summary: str, task: str = "classification") -> Entry:
    return Entry("data", name, summary, facts={"task": task, "family": "sklearn"})


def _vision(name: str, summary: str, family: str, params: tuple[Param, ...] = ()) -> Entry:
    return Entry("data", name, summary, params, facts={"task": "classification", "family": family})


_TASK = Param(
    "task",
    "str",
    "auto",
    "what the target is; auto: whole numbers and texts are classes",
    choices=("auto", "classification", "regression"),
)

DATA: tuple[Entry, ...] = (
    _embedded("digits", "1,797 grey images of 8x8, 10 classes (scikit-learn; embedded)"),
    _embedded("iris", "150 flowers, 4 features, 3 classes (scikit-learn; embedded)"),
    _embedded("wine", "178 wines, 13 features, 3 classes (scikit-learn; embedded)"),
    _embedded("breast_cancer", "569 tumours, 30 features, 2 classes (scikit-learn; embedded)"),
    _embedded("diabetes", "442 patients, 10 features, progression of disease (scikit-learn; embedded)", "regression"),
    _vision("FashionMNIST", "60,000 + 10,000 grey images of 28x28, 10 classes", "idx"),
    _vision("MNIST", "60,000 + 10,000 handwritten digits of 28x28, 10 classes", "idx"),
    _vision("KMNIST", "60,000 + 10,000 Japanese letters of 28x28, 10 classes", "idx"),
    _vision(
        "EMNIST",
        "handwritten letters and digits of 28x28",
        "idx",
        (
            Param(
                "split",
                "str",
                "balanced",
                "which of the six splits",
                choices=("byclass", "bymerge", "balanced", "letters", "digits", "mnist"),
            ),
        ),
    ),
    _vision("CIFAR10", "50,000 + 10,000 colour images of 32x32, 10 classes", "torchvision"),
    _vision("CIFAR100", "50,000 + 10,000 colour images of 32x32, 100 classes", "torchvision"),
    _vision("SVHN", "73,257 + 26,032 house numbers of 32x32, 10 classes", "torchvision"),
    Entry(
        "data",
        "ImageFolder",
        "one folder per class; train/ and test/ (or val/) above them where there are such",
        (Param("path", "str", help="the folder", required=True),),
        facts={"task": "classification", "family": "folder"},
    ),
    Entry(
        "data",
        "table",
        "a CSV or Parquet file with a header",
        (
            Param("path", "str", help="the file (.csv, .tsv, .parquet)", required=True),
            Param("target", "str", help="name of the target column; default: the last one"),
            Param("features", "strs", help="names of the feature columns; default: all others"),
            Param("test_path", "str", help="a second file with the test set"),
            _TASK,
        ),
        facts={"family": "table"},
    ),
    Entry(
        "data",
        "npz",
        "a NumPy .npz file with x and y (or x_train, y_train, x_test, y_test)",
        (
            Param("path", "str", help="the file", required=True),
            Param("x", "str", help="name of the array of inputs"),
            Param("y", "str", help="name of the array of targets"),
            _TASK,
        ),
        facts={"family": "npz"},
    ),
    Entry(
        "data",
        "FakeData",
        "random images, to try out a pipeline (torchvision)",
        (
            Param("size", "int", 1000, "how many images", low=1),
            Param("image_size", "ints", (3, 32, 32), "channels, height, width", low=1),
            Param("num_classes", "int", 10, "how many classes", low=2),
        ),
        facts={"task": "classification", "family": "fake"},
    ),
)
