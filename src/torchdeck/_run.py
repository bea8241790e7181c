"""Runs as they lie on the disk, also of last week: figures, curves, checkpoints, evaluation and prediction."""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torchdeck import _objects
from torchdeck.core import usercode
from torchdeck.core.checkpoints.find import find_checkpoints
from torchdeck.core.checkpoints.names import choose_checkpoint
from torchdeck.core.checkpoints.stored import PREFIXES
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.runs.filter import Filter
from torchdeck.core.runs.filter import sort as sorted_rows
from torchdeck.core.runs.listing import RunList, row_at
from torchdeck.core.runs.rows import Row
from torchdeck.core.usercode.objects import is_object

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from torchdeck.core.evaluation.prediction import Prediction
    from torchdeck.core.evaluation.trained import Trained

    Net = TypeVar("Net", bound=nn.Module)


class Figures(dict[str, float]):
    """Metrics by name, such as ``accuracy`` and ``loss``; a name that was not measured is a KeyError that tells the
    nearest."""

    def __missing__(self, name: str) -> float:
        near = did_you_mean(name, self) if self else "the run has no such set, or has not come that far"
        raise KeyError(f"{name!r} was not measured; {near}")


class Metrics(dict[str, "NDArray[np.float64]"]):
    """The values of each metric over a run, float64 [N], by name: ``train/loss`` (every step), ``train/accuracy``,
    ``val/loss`` (every epoch), ``learning_rate``, ...; NaN where one was not finite.

    ``steps`` has the optimizer step of each value (int64 [N], rising), ``times`` the seconds of training (float64 [N]).
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, NDArray[np.int64]] = {}
        self.times: dict[str, NDArray[np.float64]] = {}

    def __missing__(self, name: str) -> NDArray[np.float64]:
        raise KeyError(f"There is no metric {name!r}; {did_you_mean(name, self)}")

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each step and a column for each metric; of several values at one step the last.

        Raises UserError where pandas is not installed.
        """
        pandas = import_pandas()
        columns = {}
        for name, values in self.items():
            column = pandas.Series(values, index=self.steps[name])
            columns[name] = column[~column.index.duplicated(keep="last")]
        return pandas.DataFrame(columns).rename_axis("step").sort_index()


class Checkpoint:
    """A file of a run's checkpoints. Nothing in it is executed."""

    def __init__(self, run: Run, path: Path) -> None:
        self.path = path
        self._run = run
        self._stands: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"torchdeck.Checkpoint({str(self.path)!r})"

    @property
    def step(self) -> int:
        """Optimizer steps done when it was written."""
        return self._where()[0]

    @property
    def epoch(self) -> int:
        """Epochs done when it was written."""
        return self._where()[1]

    def _where(self) -> tuple[int, int]:
        if self._stands is None:
            from torchdeck.core.checkpoints.archive import inspect_file

            contents = dict(inspect_file(self.path).contents)
            try:
                self._stands = int(contents["step"]), int(contents["epoch"])
            except (KeyError, ValueError):
                raise UserError(f"{str(self.path)!r} is not a torchdeck checkpoint: it tells no step.") from None
        return self._stands

    @property
    def metrics(self) -> Figures:
        """The metrics of the validation set at its step; empty where there was no evaluation."""
        found = Figures()
        curves = self._run.metrics()
        for name, values in curves.items():
            part, _, metric = name.partition("/")
            at = (curves.steps[name] == self.step).nonzero()[0]
            if part == "val" and len(at):
                found[metric] = float(values[at[-1]])
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights on the CPU, by name; averaged ones where the run averages (``trainer.ema``).

        Raises UserError when the file is gone or damaged.
        """
        from torchdeck.core.checkpoints.read import load_weights

        return load_weights(self.path, "the checkpoint")

    def load(self, net: Net) -> Net:
        """Put the weights into a model, where it is (also one that is compiled or in parallel), and give it back.

        Raises UserError when they don't fit, name by name and shape by shape.
        """
        names = list(net.state_dict())
        prefix = next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), "")
        try:
            net.load_state_dict({f"{prefix}{name}": tensor for name, tensor in self.state_dict().items()})
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise UserError(f"{str(self.path)!r} does not fit the {type(net).__name__}: {first}") from None
        return net


class Run:
    """A run's directory, read whenever it is asked; it may still be written, or be another tool's (TensorBoard
    events)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UserError when there is no run."""
        self.path = Path(path).expanduser().absolute()
        self._row()

    @classmethod
    def _known(cls, row: Row) -> Run:
        run = cls.__new__(cls)
        run.path = row.path.absolute()
        return run

    def _row(self) -> Row:
        return row_at(self.path)

    def __repr__(self) -> str:
        return f"torchdeck.Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def status(self) -> str:
        """``running``, ``done``, ``pruned``, ``stopped``, ``failed``, ``dead`` (its process is gone), or ``events``:
        another tool's."""
        return self._row().status

    @property
    def message(self) -> str:
        """Why it has failed; empty where it has not."""
        return self._row().message

    @property
    def experiment(self) -> Experiment:
        """What was trained.

        Raises UserError for another tool's run, which has none.
        """
        file = self.path / "experiment.toml"
        return toml.build(toml.read(file), str(file))

    @property
    def step(self) -> int:
        """Optimizer steps done at the last epoch's end."""
        return self._row().step

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._row().epoch

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self._row().seconds

    @property
    def train(self) -> Figures:
        """The last epoch's means over training batches, as they went by."""
        return Figures(self._row().train)

    @property
    def val(self) -> Figures:
        """The metrics of the validation set after the last epoch; ``best.metrics`` are those of the best one."""
        return Figures(self._row().last)

    @property
    def test(self) -> Figures:
        """The metrics of the test set, by the best epoch's weights; empty before the end, and without a test set."""
        return Figures(self._row().test)

    def metrics(self) -> Metrics:
        """Every metric of the run, value by value."""
        import numpy as np

        from torchdeck.core.runs.opened import Opened

        opened = Opened(self.path, limit=2**62)
        try:
            opened.poll()
        finally:
            opened.close()
        found = Metrics()
        for name in opened.history.names():
            series = opened.history.series(name)
            if series is not None and len(series):
                found[name] = series.mean.copy()
                found.steps[name] = series.steps.astype(np.int64)
                found.times[name] = series.times.copy()
        return found

    def to_pandas(self) -> pd.DataFrame:
        """``metrics()`` as a data frame, a row for each step.

        Raises UserError where pandas is not installed.
        """
        return self.metrics().to_pandas()

    @property
    def best(self) -> Checkpoint:
        """The checkpoint of the best epoch; the last one where nothing was validated.

        Raises UserError when the run has none.
        """
        return Checkpoint(self, choose_checkpoint(self.path, "best"))

    @property
    def last(self) -> Checkpoint:
        """The newest checkpoint.

        Raises UserError when the run has none.
        """
        return Checkpoint(self, choose_checkpoint(self.path, "last"))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All that are kept, by step; the best may be one of them."""
        found = [Checkpoint(self, one.path) for one in find_checkpoints([self.path], ())]
        return sorted(found, key=lambda one: one.step)

    def evaluate(
        self,
        data: _objects.Data | None = None,
        *,
        split: str | None = None,
        model: nn.Module | None = None,
        loss: _objects.Loss | None = None,
        checkpoint: str = "best",
        device: str = "auto",
    ) -> Figures:
        """The metrics of a checkpoint's model, by the very code of the training.

        Args:
            data: What ``torchdeck.train`` takes; default: the data that it was trained on.
            split: ``test``, ``val``, ``train`` or ``all``; default: the test set of the run's own data, all of others.
            model: The module, for a run that was given an object; its own weights are left alone.
            loss: The loss, for a run that was given an object.
            checkpoint: ``best``, ``last``, or a file's name.
            device: ``auto``, ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.

        Raises:
            UserError: The data don't fit the model, or an object must be given again.
        """
        from torchdeck.core.evaluation.evaluate import evaluate_model

        objects = self._given(model, data, loss)
        with usercode.giving(objects):
            trained = self._trained(checkpoint)
            result = evaluate_model(trained, self._other_data(data, objects), split, device, _warn)
        return Figures(result.report.metrics)

    def predict(
        self,
        *inputs: str | os.PathLike[str],
        top: int = 3,
        model: nn.Module | None = None,
        checkpoint: str = "best",
        device: str = "auto",
    ) -> list[Prediction]:
        """What a checkpoint's model says of images, folders of them, tables, .npy and .npz files, one by one in order.

        Each prediction has ``input``, ``predicted`` (the class, or numbers in the targets' own unit), ``probability``
        and ``top``, the most likely classes with their probabilities.

        Raises UserError for an input that can't be read or does not fit the model.
        """
        from torchdeck.core.evaluation.predict import predict_paths

        with usercode.giving(self._given(model, None, None)):
            paths = [os.fspath(path) for path in inputs]
            return list(predict_paths(self._trained(checkpoint), paths, io.BytesIO(), device, top, _warn))

    def _trained(self, checkpoint: str) -> Trained:
        from torchdeck.core.evaluation.trained import load_trained

        return load_trained(choose_checkpoint(self.path, checkpoint), False, _warn)

    def _given(self, model: nn.Module | None, data: Any, loss: Any) -> dict[str, Any]:
        """Objects by the references that the run has for them.

        Raises UserError for one in place of what was none.
        """
        experiment = self.experiment
        objects: dict[str, Any] = {}
        for kind, thing, name in (("model", model, experiment.model.name), ("loss", loss, experiment.loss.name)):
            if thing is None:
                continue
            if not is_object(str(name)):
                raise UserError(
                    f"{kind}=: the run {str(self.path)!r} was trained with {kind}.name = {name!r}; leave it out."
                )
            # Weights are loaded into it.
            objects[str(name)] = copy.deepcopy(thing)
        if data is not None and not isinstance(data, str):
            name = experiment.data.name
            objects[name if is_object(name) else "object:data"] = _objects.data_of(data)
        return objects

    def _other_data(self, data: Any, objects: dict[str, Any]) -> Data | None:
        if data is None:
            return None
        if isinstance(data, str):
            return Data(name=data)
        own = self.experiment.data
        return own if own.name in objects else Data(name="object:data")


def runs(
    folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "runs",
    filter: str = "",
    sort: str = "created",
) -> list[Run]:
    """The runs below a folder, or several, those of other tools (TensorBoard events), too.

    >>> for run in torchdeck.runs("runs", "val_acc > 0.9", "-val_acc"):
    ...     print(run.name, run.val["accuracy"])

    Args:
        folder: Where runs are kept; one that does not exist holds none.
        filter: As ``torchdeck runs`` takes it: ``val_acc > 0.9 model:cnn tag:paper -status:failed or lr<=1e-3``.
        sort: A field, metric or hyperparameter; with ``-`` before it the greatest first. Default: the newest last.

    Raises:
        UserError: The filter can't be understood, or a folder can't be read. Runs that can't be read are warned of.
    """
    folders = [folder] if isinstance(folder, str | os.PathLike) else list(folder)
    wanted = Filter(filter)
    listed = RunList([Path(one).expanduser() for one in folders])
    rows = listed.scan()
    for sentence in listed.broken:
        _warn(sentence)
    return [Run._known(row) for row in sorted_rows(wanted.apply(rows), sort)]


def import_pandas() -> Any:
    """pandas.

    Raises UserError where it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("pandas is not installed; install it with: pip install pandas") from None
    return pandas


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)
