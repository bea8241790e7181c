"""The user's own data: Datasets, classes and functions that give them, and what their labels say of the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchdeck.core import catalog, usercode
from torchdeck.core.data.adapted import adapted
from torchdeck.core.data.asked import refuse_unfit
from torchdeck.core.data.dataloaders import taken_out
from torchdeck.core.data.infer import FLOATS, NAMES, WHOLE, Hints, as_values, infer, is_yes_or_no
from torchdeck.core.data.items import Layout, layout_of
from torchdeck.core.data.samples import first_sample
from torchdeck.core.data.source import Arrays, Part, Samples, Source, Streamed, class_numbers, targets_of
from torchdeck.core.data.streams import is_stream, opened
from torchdeck.core.data.tables import narrowed
from torchdeck.core.data.tokenizers import tokenized
from torchdeck.core.data.user_labels import with_classes
from torchdeck.core.data.user_parts import parts_of
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.machine import children

#: Attributes under which data sets are used to keep the targets of all samples.
_TARGETS = ("targets", "labels", "y")


def load_user(data: Data, hints: Hints) -> Source:
    """The user's own Dataset, its class, or a function that returns one, or (train, val) or (train, val, test) of them.

    A class with a parameter ``train`` (bool) gives training and test set, as torchvision's do; one with ``split``
    (text) is asked for train, val (valid, validation) and test.

    Raises UserError when it gives no map-style data set, or its task can't be told.
    """
    children.start_tracker()  # user code may start a Pool
    reference, layout = data.name, layout_of(data)
    given, notes = parts_of(reference, data.args)
    made, collates, more = taken_out(given, reference)
    notes += more
    parts = {name: _opened(dataset, given[name], reference, name, layout, notes) for name, dataset in made.items()}
    for name, collate in collates.items():
        part = parts[name]
        parts[name] = replace(part if isinstance(part, Samples) else Samples(made[name]), collate=collate)
    sample, label = first_sample(parts["train"], layout)
    task, reason = infer(sample, label, hints)
    if hints.task != "auto" and not (data.collate or collates):
        refuse_unfit(task, sample, label, reference)
    if hints.task == "auto" and (task, reason) not in (WHOLE, NAMES, FLOATS) and reason:
        notes.append(f"The task is {task}: {reason}. task.name says otherwise.")
    if task == "classification":
        parts = {name: _counted(part, reference) for name, part in parts.items()}
    plain = not (data.collate or collates) and is_plain(sample, label, task, _is_prepared(sample, data, hints))
    if plain:
        parts = {name: _as_plain(part, task, reference) for name, part in parts.items()}
    source = Source(
        parts["train"],
        parts.get("test"),
        task,
        is_image(sample),
        place=reference,
        val=parts.get("val"),
        layout=layout,
        plain=plain,
    )
    count = data.num_classes or (hints.tokens if task == "language" else None)
    if count is None and task == "classification" and is_yes_or_no(label, hints):
        count = 2
    source = with_classes(source, made["train"], label, count, reference, notes, bool(data.collate or collates))
    if not (plain or data.collate or collates):
        source = _with_tokenizer(source, hints, notes)
    if isinstance(parts["train"], Streamed) and not isinstance(source.train, Streamed):
        raise UserError(
            f"data.name = {reference!r}: the targets of a stream are texts; give class numbers, for its classes can't "
            "be counted.",
            field="data.name",
        )
    return replace(source, notes=tuple(notes))


def _with_tokenizer(source: Source, hints: Hints, notes: list[str]) -> Source:
    """The source whose texts the tokenizer in the model's folder makes tokens of, where there are such."""
    by = tokenized(first_sample(source.train, source.layout)[0], hints.tokenizer, source.layout, notes)
    if by is None:
        return source
    parts = {name: replace(part, collate=by) for name, part in source.parts.items() if isinstance(part, Samples)}
    return replace(source, train=parts["train"], val=parts.get("val"), test=parts.get("test"))


def _is_prepared(sample: Any, data: Data, hints: Hints) -> bool:
    """Whether one input is made, or has to be made, of what the items hold: by the user's transforms, or for a model of
    the catalog, which takes no texts (that is told where they are read)."""
    return bool(data.transforms) or (isinstance(sample, str | bytes | None) and not catalog.is_user_code(hints.model))


def is_image(sample: Any) -> bool:
    """Whether an input is a picture, or may be one."""
    known = torch.Tensor | np.ndarray | list | tuple | float | int | str | bytes | Mapping | None
    if not isinstance(sample, known):
        return hasattr(sample, "getbands")
    values = None if isinstance(sample, str | bytes | Mapping) else as_values(sample)
    return values is not None and (values.ndim == 3 or (values.ndim == 2 and values.dtype == torch.uint8))


def is_plain(sample: Any, label: Any, task: str, prepared: bool = False) -> bool:
    """Whether a sample is one input and one target that are stacked to a batch, and prepared as such; ``prepared``:
    whether the user's transforms make one of whatever it is."""
    if task == "contrastive" and np.shape(sample) and np.shape(sample) == np.shape(label):
        return False  # two views
    if catalog.find("task", task).fact("targets") in ("given", "boxes") and task != "contrastive":
        return False
    numbers = not isinstance(sample, str | Mapping | tuple) and as_values(sample) is not None
    one = prepared or numbers or is_image(sample)
    return one and (label is None or isinstance(label, str | bytes) or as_values(label) is not None)


def _opened(dataset: Any, given: Any, reference: str, name: str, layout: Layout, notes: list[str]) -> Part:
    """A part of the data; ``given``: the loader that held it, where it was in one."""
    if not is_stream(dataset):
        return _part(dataset, reference, layout)
    batches = isinstance(given, DataLoader) and given.batch_size is None and given.batch_sampler is None
    convert = given.collate_fn if batches else None
    return opened(adapted(dataset, reference, name, notes, convert), reference, name, notes)


def _part(dataset: Any, reference: str, layout: Layout) -> Part:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"data.name = {reference!r} gave a {type(dataset).__name__}; a Dataset with __len__ and __getitem__ is "
            "needed.",
            field="data.name",
        )
    with usercode.user_errors():
        length = len(dataset)
    if not length:
        raise UserError(f"data.name = {reference!r} is empty: its length is 0.", field="data.name")
    if type(dataset) is TensorDataset:
        return Arrays(*layout.split(dataset.tensors))
    return Samples(dataset, _known_targets(dataset, layout))


def _counted(part: Part, reference: str) -> Part:
    """Samples with the class numbers that are known of them, or with none that they could be counted by."""
    if isinstance(part, Arrays) or part.targets is None:
        return part
    one_each = part.targets.numel() == len(part.targets)
    return replace(part, targets=class_numbers(part.targets, reference) if one_each else None)


def _as_plain(part: Part, task: str, reference: str) -> Part:
    """Tensors as those of the catalog's data sets are: floats of 64 bits smaller where nothing is lost, labels in one
    dimension, numbers exact."""
    if not isinstance(part, Arrays):
        return part
    x, y = part.x, part.y
    x = narrowed(x) if x.dtype == torch.float64 else x
    if y is None:
        return Arrays(x, y)
    if task == "classification" and y.numel() == len(y):
        y = class_numbers(y, reference)
    elif task == "regression" and not y.is_complex():
        y = targets_of(y.double(), reference)[1]
    elif y.is_floating_point() or y.is_complex() or y.ndim == 1 or y.shape[-1] == 1:
        y = targets_of(y, reference)[1]
    return Arrays(x, y)


def _known_targets(dataset: Any, layout: Layout) -> torch.Tensor | None:
    """The targets of all samples, where the data set keeps them under a usual name and they are those it gives."""
    for values in (_column(dataset, layout), *(getattr(dataset, name, None) for name in _TARGETS)):
        if values is None or callable(values):
            continue
        try:
            tensor = torch.as_tensor(np.asarray(values) if isinstance(values, list | tuple) else values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if tensor.ndim and len(tensor) == len(dataset) and _are_given(dataset, tensor, layout):
            return tensor
    return None


def _column(dataset: Any, layout: Layout) -> Any:
    """The target's column of a data set that keeps columns (Hugging Face's ``datasets``), where it is of numbers."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):  # something else of the user's that is called so
        return None
    column = layout.target_of(features)
    kind = str(getattr(features[column], "dtype", "")) if column in features else ""
    given = getattr(dataset, "format", None)
    # By a function of the user's, which need not be run on all of them.
    changed = isinstance(given, Mapping) and given.get("type") == "custom"
    if not kind.startswith(("int", "uint", "float", "bool")) or changed:
        return None
    with usercode.user_errors():
        return dataset[column][:]


def _are_given(dataset: Any, targets: torch.Tensor, layout: Layout) -> bool:
    for index in {0, len(targets) // 2, len(targets) - 1}:
        with usercode.user_errors():
            _, label = layout.split(dataset[index])
        try:
            given = torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError):
            return False
        if given.numel() != targets[index].numel() or not torch.allclose(
            given.double().reshape(-1), targets[index].double().reshape(-1)
        ):
            return False
    return True
