"""Data sets that can be picked by name.

A factory returns a ``torchdeck.core.data.source.Source``. It is called with the entry's parameters by name, and with
those of these that it takes: ``name``, ``root``, ``download``, ``num_classes`` (data.num_classes), ``mode`` (PIL's
mode of image files).
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param


def _embedded(name: str, summary: str, task: str = "classification") -> Entry:
    return Entry("data", name, summary, facts={"task": task}, factory="torchdeck.core.data.tables:load_sklearn")


def _vision(name: str, summary: str, loader: str, params: tuple[Param, ...] = ()) -> Entry:
    facts = {"task": "classification", "download": True}
    return Entry("data", name, summary, params, facts, factory=f"torchdeck.core.data.vision:{loader}")


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
    Entry(
        "data",
        "python_docs",
        "the text of Python's own documentation, character by character (comes with Python)",
        (
            Param("length", "int", 64, "characters of a piece", low=2),
            Param("characters", "int", 300_000, "how much of the text is used; 0: all", low=0),
        ),
        facts={"task": "language"},
        factory="torchdeck.core.data.texts:load_python_docs",
    ),
    Entry(
        "data",
        "sines",
        "sums of two sines with noise, and how they go on (made)",
        (
            Param("samples", "int", 4000, "how many series", low=10),
            Param("past", "int", 48, "steps that are seen", low=2),
            Param("future", "int", 12, "steps to be foretold", low=1),
            Param("noise", "float", 0.1, "standard deviation of the noise on what is seen", low=0),
            Param("seed", "int", 0, "of what is drawn", low=0),
        ),
        facts={"task": "regression"},
        factory="torchdeck.core.data.sines:load_sines",
    ),
    Entry(
        "data",
        "digit_and_number",
        "scikit-learn's digits, each with a number in a table: less, same or more, 3 classes (embedded)",
        (Param("seed", "int", 0, "of the numbers that are drawn", low=0),),
        facts={"task": "classification"},
        factory="torchdeck.core.data.two_inputs:load_digit_and_number",
    ),
    Entry(
        "data",
        "shapes_masks",
        "circles, squares and triangles with masks, 4 classes with the ground (drawn)",
        (
            Param("samples", "int", 1500, "how many images", low=10),
            Param("size", "int", 32, "height and width in pixels", low=16),
            Param("seed", "int", 0, "of what is drawn", low=0),
        ),
        facts={"task": "segmentation"},
        factory="torchdeck.core.data.shapes:load_masks",
    ),
    Entry(
        "data",
        "shapes_boxes",
        "circles, squares and triangles with boxes, 3 classes and the background (drawn)",
        (
            Param("samples", "int", 800, "how many images", low=10),
            Param("size", "int", 48, "height and width in pixels", low=16),
            Param("seed", "int", 0, "of what is drawn", low=0),
        ),
        facts={"task": "detection"},
        factory="torchdeck.core.data.shapes:load_boxes",
    ),
    Entry(
        "data",
        "multilabel",
        "bags of words, each of several topics (scikit-learn's make_multilabel_classification)",
        (
            Param("samples", "int", 3000, "how many", low=10),
            Param("features", "int", 20, "words", low=2),
            Param("labels", "int", 5, "topics", low=2),
            Param("seed", "int", 0, "of what is drawn", low=0),
        ),
        facts={"task": "multilabel"},
        factory="torchdeck.core.data.shapes:load_multilabel",
    ),
    _vision("FashionMNIST", "60,000 + 10,000 grey images of 28x28, 10 classes", "load_idx"),
    _vision("MNIST", "60,000 + 10,000 handwritten digits of 28x28, 10 classes", "load_idx"),
    _vision("KMNIST", "60,000 + 10,000 Japanese letters of 28x28, 10 classes", "load_idx"),
    _vision(
        "EMNIST",
        "handwritten letters and digits of 28x28",
        "load_idx",
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
    _vision("CIFAR10", "50,000 + 10,000 colour images of 32x32, 10 classes", "load_torchvision"),
    _vision("CIFAR100", "50,000 + 10,000 colour images of 32x32, 100 classes", "load_torchvision"),
    _vision("SVHN", "73,257 + 26,032 house numbers of 32x32, 10 classes", "load_torchvision"),
    Entry(
        "data",
        "ImageFolder",
        "one folder per class; train/ and test/ (or val/) above them where there are such",
        (Param("path", "str", help="the folder", required=True),),
        facts={"task": "classification"},
        factory="torchdeck.core.data.images:load_folder",
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
        factory="torchdeck.core.data.tables:load_table",
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
        factory="torchdeck.core.data.arrays:load_npz",
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
        facts={"task": "classification"},
        factory="torchdeck.core.data.samples:load_fake",
    ),
)
