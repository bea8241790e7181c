"""Transforms that can be picked by name: torchvision's names and parameters.

``facts``: *batch*, it runs on a whole batch on the training device (each sample with its own random draw); *random*,
it is used in training only; others run sample by sample in the DataLoader.
"""

from __future__ import annotations

from torchdeck.core.catalog.entries import Entry, Param


def _entry(name: str, summary: str, *params: Param, batch: bool = False, random: bool = False) -> Entry:
    return Entry("transform", name, summary, params, {"batch": batch, "random": random})


def _share(name: str, default: float | None, help: str) -> Param:
    return Param(name, "float", default, help, low=0, high=1)


_P = _share("p", 0.5, "probability")
_SIZE = Param("size", "size", help="side, or height and width, in pixels", low=1, required=True)

TRANSFORMS: tuple[Entry, ...] = (
    _entry("ToTensor", "pixels 0..255 to numbers 0..1", batch=True),
    _entry(
        "Normalize",
        "subtract mean, divide by std; measured on the training set where they are not given",
        Param("mean", "floats", None, "per channel or feature"),
        Param("std", "floats", None, "per channel or feature", low=1e-12),
        batch=True,
    ),
    _entry("Resize", "bilinear, antialiased, to size", _SIZE, batch=True),
    _entry("CenterCrop", "cut the middle out", _SIZE, batch=True),
    _entry(
        "RandomCrop",
        "cut a random place out, after padding",
        _SIZE,
        Param("padding", "int", 0, "pixels added on each side", low=0),
        Param("padding_mode", "str", "constant", "what is added", choices=("constant", "reflect", "edge")),
        batch=True,
        random=True,
    ),
    _entry("RandomHorizontalFlip", "mirror left and right", _P, batch=True, random=True),
    _entry("RandomVerticalFlip", "mirror top and bottom", _P, batch=True, random=True),
    _entry(
        "RandomErasing",
        "blank a random rectangle (Zhong et al. 2017)",
        _P,
        Param("scale", "floats", (0.02, 0.33), "smallest and largest share of the area", low=0, high=1),
        Param("ratio", "floats", (0.3, 3.3), "smallest and largest height over width", low=1e-3),
        Param("value", "float", 0.0, "what is put there"),
        batch=True,
        random=True,
    ),
    _entry(
        "RandomResizedCrop",
        "a random part, resized",
        _SIZE,
        Param("scale", "floats", (0.08, 1.0), "smallest and largest share of the area", low=0, high=1),
        random=True,
    ),
    _entry(
        "RandomRotation",
        "turn by up to degrees",
        Param("degrees", "float", 10.0, "largest angle", low=0, high=180),
        random=True,
    ),
    _entry(
        "RandomAffine",
        "turn, shift, scale",
        Param("degrees", "float", 0.0, "largest angle", low=0, high=180),
        Param("translate", "floats", None, "largest shift, as shares of width and height", low=0, high=1),
        Param("scale", "floats", None, "smallest and largest factor", low=1e-3),
        random=True,
    ),
    _entry(
        "ColorJitter",
        "change brightness, contrast, saturation, hue",
        Param("brightness", "float", 0.0, "largest change", low=0),
        Param("contrast", "float", 0.0, "largest change", low=0),
        Param("saturation", "float", 0.0, "largest change", low=0),
        Param("hue", "float", 0.0, "largest change", low=0, high=0.5),
        random=True,
    ),
    _entry(
        "RandAugment",
        "num_ops random operations (Cubuk et al. 2019)",
        Param("num_ops", "int", 2, "operations per image", low=1),
        Param("magnitude", "int", 9, "strength", low=0, high=30),
        random=True,
    ),
    _entry("TrivialAugmentWide", "one random operation of random strength (Müller and Hutter 2021)", random=True),
    _entry("AutoAugment", "the policy learned on ImageNet (Cubuk et al. 2018)", random=True),
    _entry(
        "GaussianBlur",
        "blur",
        Param("kernel_size", "int", 3, "odd number of pixels", low=1),
        Param("sigma", "floats", (0.1, 2.0), "smallest and largest width", low=1e-6),
        random=True,
    ),
    _entry("Grayscale", "to grey", Param("num_output_channels", "int", 1, "1 or 3", low=1, high=3)),
    _entry("Pad", "add pixels on each side", Param("padding", "size", help="pixels", low=0, required=True)),
    _entry(
        "Lambda",
        "your own function of one sample",
        Param("function", "str", help="path/to/file.py:name", required=True),
    ),
)

TARGET_TRANSFORMS: tuple[Entry, ...] = (
    Entry(
        "target_transform",
        "OneHot",
        "class number to a vector with a one there: Lambda(lambda y: zeros(n).scatter_(0, tensor(y), 1))",
        facts={"batch": True},
    ),
    Entry(
        "target_transform",
        "Lambda",
        "your own function of one target",
        (Param("function", "str", help="path/to/file.py:name", required=True),),
        facts={"batch": False},
    ),
)
