"""What an experiment would train on and what it would train, computed in a process of its own.

The workbench must never wait for torch, for a data set that is read, or for the user's own code; and code that was
edited must be read anew. So this runs as ``python -m torchdeck.core.session.preview``: each line of stdin is a request
``{"id": 1, "experiment": "TOML"}``; answers are lines of JSON with the same id, one part each: ``device``, ``data``,
``model``, ``error`` with the ``field`` that it is about, before data and model the ``stage`` that begins, ``files`` of
the user's that were imported, with the time at which each had been changed before, and ``done`` at last. Of several
requests that wait only the newest is answered. When the user's files have changed since they were imported, or another
project's modules stand in the way of a request's, the process ends with exit code 75 and wants to be started again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core.machine import children
from torchdeck.core.usercode import NameTaken, is_users
from torchdeck.core.usercode.files import changed_at

if TYPE_CHECKING:
    import torch

    from torchdeck.core.data.batches import Batch
    from torchdeck.core.data.source import DataInfo
    from torchdeck.core.experiment.schema import Experiment

#: sysexits.h EX_TEMPFAIL: ask again.
STALE = 75

#: Pictures, and the greatest side of each in pixels.
_PICTURES = 25
_SIDE = 32


@dataclass(frozen=True)
class _Loaded:
    info: DataInfo
    facts: dict[str, Any]
    sample: Batch


class Previewer:
    """Answers requests; data are kept from one to the next as long as they are the same."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._key = ""
        self._loaded: _Loaded | None = None
        #: Whether a request before may have left modules of its project.
        self._used = False

    def answer(self, number: int, text: str) -> None:
        """Send all parts for one experiment but the last, which tells that it is done.

        Raises NameTaken where only a fresh process can answer.
        """
        from torchdeck.core.errors import UserError
        from torchdeck.core.experiment import toml
        from torchdeck.core.models.build import GivesLoss
        from torchdeck.core.training.fitting import of_its_own_loss

        def send(part: str, value: Any) -> None:
            self._send({"id": number, part: value})

        try:
            experiment = toml.loads(text, "the experiment")
            send("device", _device(experiment))
            try:
                self._tell(experiment, send)
            except GivesLoss as error:
                self._tell(of_its_own_loss(experiment, error), send)
        except UserError as error:
            if isinstance(error, NameTaken) and self._used:
                raise
            self._send({"id": number, "field": error.field, "error": str(error)})
        except Exception as error:
            first = str(error).strip().splitlines()
            send("error", f"{type(error).__name__}: {first[0] if first else 'no message'}")
        self._used = True

    def _tell(self, experiment: Experiment, send: Callable[[str, Any], None]) -> None:
        send("stage", "data")
        loaded = self._load(experiment)
        send("data", loaded.facts)
        send("stage", "model")
        send("model", _model(experiment, loaded.info, loaded.sample))

    def _load(self, experiment: Experiment) -> _Loaded:
        import torch

        from torchdeck.core.data.load import load_data
        from torchdeck.core.session.samples import told

        options = experiment.trainer
        # The data's preparation depends on what takes them: a loss or model of the user's gets them as they are.
        key = repr(
            (
                experiment.data,
                options.seed,
                options.validation_share,
                options.validate_on,
                experiment.model.name,
                experiment.loss.name,
                experiment.task,
            )
        )
        if self._loaded is None or key != self._key:
            self._loaded = None
            warnings: list[str] = []
            data = load_data(experiment, torch.device("cpu"), warnings.append)
            data.close()
            facts = {
                "name": data.info.name,
                "place": data.info.place,
                "task": data.info.task,
                "samples": data.info.samples,
                "input_shape": data.info.input_shape,
                "outputs": data.info.outputs,
                "classes": data.info.class_names,
                "counts": _counts(data.train_targets, data.info.outputs),
                "warnings": warnings,
                "transforms": [t.name for t in data.transforms],
                **_pictures(data.sample, data.info),
                "labels": _labels(data.sample.y, data.info),
                **told(data.sample, data.info),
            }
            self._key, self._loaded = key, _Loaded(data.info, facts, data.sample.first(2))
        return self._loaded


def _device(experiment: Experiment) -> dict[str, Any]:
    """The device that would be trained on, and why."""
    import torch

    from torchdeck.core.machine import devices

    chosen = devices.choose_device(experiment.trainer.device)
    there = devices.available()
    name = next(d.name for d in there if d.device.startswith(chosen.type))
    if experiment.trainer.device != "auto":
        why = "asked for in trainer.device"
    elif chosen.type == "cuda":
        why = "the first of cuda, mps, cpu that is there"
    elif torch.version.cuda is None:
        why = "this torch was built without CUDA"
    else:
        why = "no usable NVIDIA driver"
    if chosen.type == "mps":
        why = "no CUDA here, and mps comes before cpu"
    return {
        "device": str(chosen),
        "name": name,
        "why": why,
        "precision": devices.precision(experiment.trainer.precision, chosen).name,
    }


def _model(experiment: Experiment, info: DataInfo, sample: Batch) -> dict[str, Any]:
    import torch

    from torchdeck.core.models.build import build_model
    from torchdeck.core.models.summary import summarize
    from torchdeck.core.tasks.build import build_task
    from torchdeck.core.training.evaluation import evaluating

    bare = experiment.model.model_copy(update={"weights": None})  # nothing is downloaded for a look
    net = build_model(bare, info, sample=sample if experiment.task.step is None else None)
    task = build_task(experiment, info, net, torch.device("cpu"))
    if not task.makes_own_steps:
        with evaluating(net), torch.no_grad():
            task.check(task.forward(net, sample))
    x = task.one_call(sample.first(1))
    summary = summarize(net, x, experiment.trainer.batch_size, experiment.optimizer.name, task.caller)
    return asdict(summary)


def _counts(targets: torch.Tensor | None, outputs: int) -> list[int] | None:
    return None if targets is None else targets.long().bincount(minlength=outputs).tolist()


def _labels(targets: Any, info: DataInfo) -> list[str]:
    from torchdeck.core.session.annotated import words

    if info.task not in ("classification", "regression"):
        return words(targets, info)
    if not info.classes:
        return [_numbers(y.reshape(-1).tolist()) for y in targets]
    numbers = targets.argmax(-1) if targets.ndim > 1 else targets
    return [info.class_names[int(y)] for y in numbers]


def _numbers(values: list[float]) -> str:
    """The first of them."""
    return " ".join([*[f"{value:.4g}" for value in values[:3]], *(["..."] if len(values) > 3 else [])])


def _pictures(batch: Batch, info: DataInfo) -> dict[str, Any]:
    """The first images as bytes, red, green, blue, each stretched to its own range, with their masks and boxes; nothing
    for tables."""
    from torchdeck.core.session.annotated import pictures

    images = pictures(batch.first(_PICTURES), info, _SIDE)
    if images is None:
        return {"pictures": None}
    images = (images * 255).byte().permute(0, 2, 3, 1)
    n, height, width, _ = images.shape
    pixels = base64.b64encode(images.contiguous().numpy().tobytes()).decode()
    return {"pictures": {"count": n, "height": height, "width": width, "rgb": pixels}}


def _imported() -> list[Path]:
    """The user's files that are imported."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [Path(file) for file in files if file and is_users(file)]


def main() -> int:
    """Answer requests until stdin ends."""
    with contextlib.suppress(OSError):
        os.nice(5)  # a look must not slow a training
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    children.end_with(os.getppid())  # a look that hangs does not read that stdin has ended
    # What the user's code prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message, allow_nan=False, default=str).encode() + b"\n")

    files: dict[Path, float] = {}

    def note() -> None:
        files.update(changed_at(path for path in _imported() if path not in files))

    def tell(message: dict[str, Any]) -> None:
        note()  # before what was made of them is told: they may be edited the moment it is
        send(message)

    previewer = Previewer(tell)
    rest = b""
    while True:
        data = os.read(0, 1 << 16)
        if not data:
            return 0
        rest += data
        while select.select([0], [], [], 0)[0] and (more := os.read(0, 1 << 16)):
            rest += more
        *lines, rest = rest.split(b"\n")
        if not lines:
            continue
        if changed_at(files) != files:
            return STALE
        request = json.loads(lines[-1])
        try:
            previewer.answer(request["id"], request["experiment"])
        except NameTaken:
            return STALE
        note()
        send({"id": request["id"], "files": {str(path): at for path, at in files.items()}})
        send({"id": request["id"], "done": True})


if __name__ == "__main__":
    # Taking torch down in good order takes seconds; there is nothing to put in order here.
    os._exit(main())
