"""TensorBoard: everything of a run in the run's own directory.

The hparams summaries go through the same writer as the scalars (``SummaryWriter.add_hparams`` would make a sub-run
named after the time, pytorch#32651), and a run that goes on writes with ``purge_step``, so that no curve runs
backwards (tensorboard#3732).
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from torchdeck.core.events import EpochEnded, Evaluated, Event, Failed, Finished, StepSummary, Subscription, TextWritten
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.hyperparameters import flat
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.session.annotated import pictures
from torchdeck.core.session.pictures import confusion_matrix, grid
from torchdeck.core.session.recorder import Listener
from torchdeck.core.training.build import Built
from torchdeck.core.training.evaluation import evaluating
from torchdeck.core.training.random import unchanged_random_states


class TensorBoard(Listener):
    """Writes scalars for every step summary and epoch, hparams, text, and where asked for graph, images, histograms."""

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        built: Built,
        step: int,
        subscription: Subscription,
        on_failure: Callable[[str], None],
    ) -> None:
        super().__init__("tensorboard", subscription, on_failure)
        self._experiment = experiment
        self._built = built
        # TensorBoard's Python reader takes the first start of a run for no restart: it must be there from the
        # beginning.
        purge = step + 1 if step else 0
        self._writer = SummaryWriter(str(folder), purge_step=purge, max_queue=1000, flush_secs=1)
        self._file = self._writer._get_file_writer()
        self._names = _metric_names(built)
        self._laid_out = False
        if step == 0:
            self._begin()

    @property
    def writer(self) -> SummaryWriter:
        """The writer of the run's file."""
        return self._writer

    def _begin(self) -> None:
        """What is written once. It runs in the training thread before the first step: a trace of the model must not
        meet a training step."""
        self._hparams()
        text = toml.dumps(self._experiment)
        self._writer.add_text("experiment", "    " + text.replace("\n", "\n    "), 0)
        if self._experiment.trainer.validate_on == "test":
            self._writer.add_text(
                "validation",
                "val is the test set (trainer.validate_on = 'test'): it has chosen the best "
                "checkpoint, and its figures are not those of unseen data.",
                0,
            )
        sample = self._built.data.sample
        images = pictures(sample, self._built.data.info, written=True) if self._experiment.tracking.images else None
        if images is not None:
            self._writer.add_image("data/train", grid(images), 0)
        # What a step that makes its own optimizer steps calls the model with, only it knows.
        trainer = self._built.trainer
        # A model that is shared out runs in all processes together, or not at all.
        graph = self._experiment.tracking.graph and not (trainer.task.makes_own_steps or trainer.sharded)
        if graph and isinstance(sample.x, torch.Tensor):
            self._graph(sample.x[:1])

    def _hparams(self) -> None:
        metrics = {name: 0.0 for name in self._names}
        experiment, start, _ = hparams(flat(self._experiment), metrics)
        self._file.add_summary(experiment)
        self._file.add_summary(start)

    def _graph(self, sample: torch.Tensor) -> None:
        net, device = self._built.trainer.net, self._built.device
        try:
            with (
                warnings.catch_warnings(),
                evaluating(net),
                torch.no_grad(),
                unchanged_random_states(device),
                _quiet_tracer(),
            ):
                warnings.simplefilter("ignore")
                self._writer.add_graph(net, sample.to(device))
        except Exception as error:  # a model that can't be traced trains just as well
            self._trouble_free(f"the model's graph could not be traced for TensorBoard: {type(error).__name__}")

    def _trouble_free(self, text: str) -> None:
        from torchdeck.core.events import LogLine

        self._built.trainer.publish(LogLine(level="warning", message=text))

    def handle(self, event: Event) -> None:
        """Write one event."""
        match event:
            case StepSummary():
                values = {f"{name}/train": v for name, v in event.train.items()}
                values |= {
                    "learning_rate": event.learning_rate,
                    "samples_per_second": event.samples_per_second,
                    "data_wait": event.data_wait,
                    "memory": float(event.memory),
                    "epoch": float(event.epoch),
                }
                if event.gradient_norm is not None:
                    values["gradient_norm"] = event.gradient_norm
                self._scalars(values, event.step, event.time)
            case EpochEnded():
                values = {f"{name}/train_epoch": v for name, v in event.train.items()}
                self._scalars(values | {f"{name}/val": v for name, v in event.val.items()}, event.step, event.time)
                self._lay_out(list(event.val or event.train))
                if self._experiment.tracking.histograms and not self._built.trainer.sharded:
                    self._histograms(event.step)
            case TextWritten():
                self._writer.add_text("text", "    " + event.text.replace("\n", "\n    "), event.step)
            case Evaluated():
                self._scalars({f"{name}/val": v for name, v in event.val.items()}, event.step, event.time)
            case Finished():
                self._finish(event)
            case Failed():
                self._file.add_summary(_session_end(api_pb2.STATUS_FAILURE))

    def _scalars(self, values: Mapping[str, float], step: int, when: float) -> None:
        """All of them in one record: a tenth of the work of one record each."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._file.add_summary(summary, step, walltime=when)

    def _lay_out(self, names: list[str]) -> None:
        """One chart a metric for training, validation and test, among TensorBoard's custom scalars."""
        if self._laid_out:
            return
        self._laid_out = True
        charts = {name: ["Multiline", [f"^{re.escape(name)}/(train|train_epoch|val|test)$"]] for name in names}
        self._writer.add_custom_scalars({"training, validation and test": charts})

    def _histograms(self, step: int) -> None:
        # Weights that are read here may be in the middle of a step: a histogram bears that. NumPy does the work, for a
        # second thread with parallel torch operations makes OpenMP yield in both, which halves the training speed.
        for name, parameter in self._built.trainer.net.named_parameters():
            values = parameter.detach().to("cpu", torch.float32).numpy()
            if np.isfinite(values).all():
                self._writer.add_histogram(f"weights/{name}", values, step)

    def _finish(self, event: Finished) -> None:
        self._scalars({f"{name}/test": v for name, v in event.test.items()}, event.step, event.time)
        self._lay_out(list(event.test))
        if event.confusion and self._experiment.tracking.images and len(event.class_names) <= 100:
            self._writer.add_image("confusion_matrix", confusion_matrix(event.confusion, event.class_names), event.step)
        if event.status in ("done", "pruned"):
            self._file.add_summary(_session_end(api_pb2.STATUS_SUCCESS))

    def end(self) -> None:
        """Flush and close."""
        try:
            self._writer.close()
        except OSError as error:
            self._on_failure(f"The run can't be written any more: {error.strerror}.")


def _session_end(status: int) -> Summary:
    """The hparams plug-in's record of how a run ended; the plug-in's own function for it needs TensorFlow."""
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=status), version=metadata.PLUGIN_DATA_VERSION)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def _metric_names(built: Built) -> list[str]:
    names = [name for name in built.trainer.task.figures if name not in ("top5", "iou")]
    return [f"{name}/{part}" for part in ("val", "test") for name in names]


class _quiet_tracer:
    """torch's tracer prints what it raises; the one warning of ours is enough."""

    def __enter__(self) -> None:
        import contextlib
        import io

        self._stack = contextlib.ExitStack()
        self._level = logging.root.manager.disable
        logging.disable(logging.ERROR)
        self._stack.enter_context(contextlib.redirect_stdout(io.StringIO()))

    def __exit__(self, *error: object) -> None:
        logging.disable(self._level)
        self._stack.close()
