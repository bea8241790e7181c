"""From an experiment to everything that training needs, in the order in which random numbers are drawn."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from torchdeck.core.control import Control
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import to_device
from torchdeck.core.data.load import LoadedData
from torchdeck.core.data.seeds import derive
from torchdeck.core.errors import UserError, count, did_you_mean, first_line
from torchdeck.core.events import Event
from torchdeck.core.experiment.metric_names import OF_EACH, metric, watched
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.models.build import channels_last_of
from torchdeck.core.models.parts import Parts
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.build import build_task
from torchdeck.core.tasks.lightning import LightningTask
from torchdeck.core.tasks.losses import loss_name
from torchdeck.core.tasks.metrics import gathered_bytes
from torchdeck.core.tasks.own import StepsTask
from torchdeck.core.tasks.training_loss import TrainingLoss, find_kind
from torchdeck.core.training import sharding
from torchdeck.core.training.commands import Commands
from torchdeck.core.training.evaluation import Tried, evaluating, loss_module
from torchdeck.core.training.fitting import data_and_model, is_tried_itself
from torchdeck.core.training.layout import takes_channels_last
from torchdeck.core.training.lightning_trial import try_lightning
from torchdeck.core.training.loss_check import tell_broadcast
from torchdeck.core.training.manual import ManualStep, tell
from torchdeck.core.training.random import seed_everything, unchanged_random_states
from torchdeck.core.training.step import NotFinite
from torchdeck.core.training.trainer import Judge, Save, Trainer, goes_on, nothing
from torchdeck.core.training.window import AccumulationWindow
from torchdeck.core.usercode import user_errors, writer


@dataclass(frozen=True)
class Built:
    """An experiment made real."""

    experiment: Experiment
    device: torch.device
    data: LoadedData
    trainer: Trainer
    parameters: int
    #: Bytes that the activations of one sample take, roughly; 0 where it isn't known.
    activation_bytes: int
    #: CPU threads that torch computes with: sums in another number of threads round differently.
    threads: int
    first_step: int


def build_trainer(
    experiment: Experiment,
    control: Control,
    publish: Callable[[Event], None],
    warn: Callable[[str], None] = lambda text: None,
    state: dict[str, Any] | None = None,
    save: Save = nothing,
    judge: Judge = goes_on,
) -> Built:
    """Build it all, and go to where ``state`` (a checkpoint) was. ``save`` and ``judge`` are the Trainer's.

    Raises UserError or UserCodeError for what the user gave wrongly.
    """
    options = experiment.trainer
    device = devices.choose_device(options.device)
    distributed.join_processes(device)
    _set_switches(experiment, device)
    experiment, data, net = data_and_model(experiment, device, warn)
    net = net.to(device)
    own = is_tried_itself(experiment, data)
    if (
        not own
        and channels_last_of(experiment.model, net, data.info)
        and takes_channels_last(net, data.sample.x, experiment.model)
    ):
        net = net.to(memory_format=torch.channels_last)
    task = build_task(experiment, data.info, net, device, data.train_targets, warn=warn)
    if task.loss is not None and task.loss.parameters and distributed.world().size > 1:
        raise UserError(
            f"loss.name = {experiment.loss.name!r} has parameters, which several processes don't train together.",
            field="loss.name",
        )
    if sharding.is_asked_for(experiment):
        warn(
            "trainer.parallel = 'fsdp': each process keeps a part of each weight; TensorBoard gets no graph and no "
            "histograms, and the gradients' norm is measured only where it is clipped."
        )
    commands = Commands(control, experiment.tracking.every_steps)
    trainer = Trainer(experiment, data, net, task, device, publish, obey=commands.obey, save=save, judge=judge)
    with writer.current().muted():
        if isinstance(task, StepsTask):
            _try_own_steps(trainer, task, warn)
        elif isinstance(task, LightningTask):
            _check_sought(trainer, try_lightning(trainer, task, warn))
        else:
            _try_out(trainer, warn)
    state = distributed.share(state)
    if state is not None:
        trainer.load_state_dict(state)
        if state.get("data", {}).get("fingerprint", data.info.fingerprint) != data.info.fingerprint:
            warn(
                "The data are not those that the run began with: samples, or their order, are others. What draws them "
                "when it is made needs a seed of its own."
            )
        if trainer.step > trainer.total_steps:
            raise UserError(
                f"--resume: the run is at step {trainer.step:,}, beyond the {trainer.total_steps:,} that are asked for."
            )
    if not distributed.world().first:
        # Weights and order are the same everywhere; what dropout draws must not be.
        seed_everything(derive(options.seed, "rank", distributed.world().rank, trainer.step))
    return Built(
        experiment=experiment,
        device=device,
        data=data,
        trainer=trainer,
        parameters=sum(p.numel() for p in net.parameters()),
        activation_bytes=_activation_bytes(net, data, task) if device.type != "cpu" else 0,
        threads=torch.get_num_threads(),
        first_step=trainer.step,
    )


def _set_switches(experiment: Experiment, device: torch.device) -> None:
    precision = devices.precision(experiment.trainer.precision, device)
    # Momentum of weights whose gradient stays at zero fades into denormal numbers, which a CPU computes slowly: after
    # five epochs the MLP on Fashion-MNIST took 3.5 s an epoch instead of 2.0. This holds for the calling thread and
    # those it starts.
    torch.set_flush_denormal(True)
    if experiment.trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # docs.pytorch.org/docs/stable/notes/randomness
    wanted = experiment.trainer.deterministic
    if wanted or torch.are_deterministic_algorithms_enabled():  # to switch imports torch's compiler, half a second
        torch.use_deterministic_algorithms(wanted, warn_only=False)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = precision.tf32
        torch.backends.cudnn.benchmark = not experiment.trainer.deterministic
        torch.cuda.set_device(device)


def _try_out(trainer: Trainer, warn: Callable[[str], None]) -> None:
    """Try model, loss and metrics on a few real samples, so that a misfit is told before training.

    Raises UserError for a loss that can't take the outputs or gives no number, and for what is not measured.
    """
    task = trainer.task
    _refuse_unable(task, trainer)
    sample = trainer.data.sample if task.loss_in_evaluation else trainer.data.sample.first(2)  # a detector takes long
    batch = Batch(*(to_device(part, trainer.device) for part in sample))
    module = loss_module(task)
    before = copy.deepcopy(module.state_dict()) if module is not None else {}
    with evaluating(trainer.net, module), torch.no_grad(), unchanged_random_states(trainer.device), user_errors():
        step = trainer.evaluator.step(trainer.net, batch)
        task.check(step)
        if task.loss_in_evaluation:
            _try_loss(task, step, trainer)
            tell_broadcast(task.loss, step, trainer.experiment.loss.name, warn)
    if module is not None:
        module.load_state_dict(before)  # what was only tried leaves no trace in a loss that keeps something
    if task.loss is not None and task.loss.own:
        _keep_within_memory(trainer, task.loss, step)
        _tell_loss(trainer, task.loss, warn)
    # Without a validation set nothing but what is told while training can decide.
    measured = trainer.data.val is not None or task.decides == "accuracy"
    trainer.monitor.auto = task.decides if measured else "loss"
    _check_sought(trainer, trainer.evaluator.try_out(step, warn))


def _try_own_steps(trainer: Trainer, task: StepsTask, warn: Callable[[str], None]) -> None:
    """Try a step that makes its own optimizer steps on a few real samples, with a copy of the model.

    Raises UserError for one that returns no loss, or makes no step though its loss has a graph.
    """
    batch = Batch(*(to_device(part, trainer.device) for part in trainer.data.sample))
    tried = ManualStep(trainer.experiment, copy.deepcopy(trainer.net).train(), task, trainer.device)

    def look(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        if len(given) == 1 and isinstance(given[0], torch.Tensor) and given[0].is_floating_point():
            task.part_input = tuple(given[0].shape[1:])

    if isinstance(tried.net, Parts):
        next(tried.net.children()).register_forward_pre_hook(look)
    with unchanged_random_states(trainer.device), user_errors(), contextlib.suppress(NotFinite):
        tried([batch], AccumulationWindow(task.count_right), 0.0, False)
    if not tried.has_stepped:
        warn(
            f"task.step = {trainer.experiment.task.step!r} made no optimizer step with its first batch; nothing is "
            "learned until one of its optimizers' step() is called."
        )
    tell(trainer.experiment, tried.figures, trainer.monitor.name, warn)
    _check_sought(trainer, Tried(tried.figures, ()))


def _refuse_unable(task: Task, trainer: Trainer) -> None:
    """Raises UserError for what is done to images and would be wrong for their targets."""
    options, images = trainer.experiment.trainer, len(trainer.data.info.input_shape) == 3
    if options.image_sizes and images and not task.resizes:
        raise UserError(
            f"trainer.image_sizes makes images smaller and not what goes with them in {task.name}; put a Resize into "
            "data.transforms, or leave it out.",
            field="trainer.image_sizes",
        )
    if options.flip_test and images and not task.mirrors:
        raise UserError(
            f"trainer.flip_test takes the mean over mirror images, which {task.name} has no use for; leave it out.",
            field="trainer.flip_test",
        )


def _try_loss(task: Task, step: Step, trainer: Trainer) -> None:
    """The loss of a few samples, and how the losses of batches make that of a set.

    Raises UserError for one that can't take the outputs, or gives no number.
    """
    name = loss_name(trainer.experiment, trainer.data.info)
    try:
        task.add_loss(step)
        if task.loss is not None and isinstance(step.loss, torch.Tensor) and step.loss.numel() == 1:
            task.loss.kind = find_kind(task.loss, step.outputs, step.targets, trainer.data.info.classes)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"loss.name = {name!r} can't take the model's outputs: {first_line(error)}.", field="loss.name"
        ) from None
    value = step.loss
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        gave = (
            f"a tensor of the shape {list(value.shape)}"
            if isinstance(value, torch.Tensor)
            else f"a {type(value).__name__}"
        )
        raise UserError(
            f"loss.name = {name!r} must return one number as a tensor (the mean or the sum), not {gave}.",
            field="loss.name",
        )


def _keep_within_memory(trainer: Trainer, loss: TrainingLoss, step: Step) -> None:
    """A loss that needs all outputs at once is told as a mean of batches where these are too many, or no tensors."""
    if loss.kind != "whole":
        return
    out, y = step.outputs, step.targets
    if not (isinstance(out, torch.Tensor) and isinstance(y, torch.Tensor)):
        loss.kind = "batches"
        return
    most = max((feed.samples for feed in (trainer.data.val, trainer.data.test) if feed is not None), default=0)
    if gathered_bytes(out, y, most) > devices.memory_free(torch.device("cpu")) / 2:
        loss.kind = "batches"


def _tell_loss(trainer: Trainer, loss: TrainingLoss, warn: Callable[[str], None]) -> None:
    name = trainer.experiment.loss.name
    numbers = sum(p.numel() for p in loss.parameters)
    if numbers:
        warn(f"loss.name = {name!r} has {count(numbers, 'parameter')} of its own, trained with the model.")
    if loss.kind in ("mean", "weighted"):
        return
    manner = {
        "sum": "sums over the batch; what is told of it is its mean over samples",
        "whole": "is no mean and no sum over samples: validation and test compute it on all their outputs at once",
        "batches": "is no mean and no sum over samples, and all outputs of a set are too many to keep or no tensors: "
        "what is told of it is the mean of its batches, which depends on trainer.eval_batch_size",
    }[loss.kind]
    several = "; with trainer.accumulate its batches count by their samples"
    several = several if trainer.experiment.trainer.accumulate > 1 and loss.kind != "sum" else ""
    warn(f"loss.name = {name!r} {manner}{several}.")


def _check_sought(trainer: Trainer, tried: Tried) -> None:
    """What decides must be among the figures that there will be.

    Raises UserError where it is not, or where it is not known whether more of it is better.
    """
    experiment, task = trainer.experiment, trainer.task
    own = experiment.tracking.metric_names
    taken = next((n for n in own if n in task.figures), None)
    if taken is not None:
        raise UserError(
            f"tracking.metrics: the name {taken!r} is taken in {task.name}; call the metric something else.",
            field="tracking.metrics",
        )
    # The whole set may have classes that the few samples lack.
    each = [n for n in task.figures if n in OF_EACH]
    of_classes = [f"{n}_{c}" for n in (*own, *each) for c in trainer.data.info.class_names]
    tells_itself = task.makes_own_steps or task.name == "lightning"
    if trainer.data.val is None and not tells_itself:  # what is counted while training is all that there is
        tried = Tried(("loss", "accuracy") if task.counts else ("loss",), ())
        of_classes = []
    possible = {"auto", "parameters", "latency", "seconds", *tried.names, *of_classes}
    sought = [("trainer.monitor", trainer.monitor.name)]
    if experiment.search.space and experiment.search.function is None:
        sought += [("search.objectives", metric(watched(text)[0])[1]) for text in experiment.search.objectives]
    for key, name in sought:
        open_ended = any(name == n or name.startswith(f"{n}_") for n in tried.unknown)
        if name not in possible and not open_ended:
            raise UserError(f"{key} = {name!r} is not measured for {task.name} here; {did_you_mean(name, tried.names)}")
    _ = trainer.monitor.higher_is_better  # raises where it is not known


def _activation_bytes(net: torch.nn.Module, data: LoadedData, task: Task) -> int:
    from torchdeck.core.models.summary import summarize

    try:
        return summarize(net, task.one_call(data.sample.first(1)), 1, call=task.caller).activations
    except Exception:
        return 0  # only used to advise; what can't be traced is advised on by halving
