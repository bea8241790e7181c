"""From an experiment to everything that training needs, in the order in which random numbers are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from core import devices, distributed
from core.control import Control
from core.data.load import LoadedData, load
from core.data.seeds import derive
from core.errors import UserError
from core.events import Event
from core.experiment import Experiment
from core.models.build import build as build_model
from core.models.build import wants_channels_last
from core.training import losses
from core.training.random import seed_everything
from core.training.state import restore
from core.training.trainer import Trainer


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


def build(
    experiment: Experiment,
    control: Control,
    publish: Callable[[Event], None],
    warn: Callable[[str], None] = lambda text: None,
    state: dict[str, Any] | None = None,
) -> Built:
    """Build it all, and go to where ``state`` (a checkpoint) was.

    Raises UserError or UserCodeError for what the user gave wrongly.
    """
    options = experiment.trainer
    device = devices.choose(options.device)
    distributed.join(device)
    _set_switches(experiment, device)
    data = load(experiment, device, warn)
    seed_everything(options.seed)
    loss_kind = experiment.loss.name or ""
    net = build_model(experiment.model, data.info, loss_kind, warn).to(device)
    channels_last = experiment.model.channels_last
    if len(data.info.input_shape) == 3 and (wants_channels_last(net) if channels_last is None else channels_last):
        net = net.to(memory_format=torch.channels_last)
    loss = losses.build_loss(experiment, data.info, device, data.train_targets)
    trainer = Trainer(experiment, data, net, loss, device, control, publish)
    _check_loss(trainer)
    state = distributed.share(state)
    if state is not None:
        restore(trainer, state)
    if not distributed.world().first:
        # Weights and order are the same everywhere; what dropout draws must not be.
        seed_everything(derive(options.seed, "rank", distributed.world().rank, trainer.step))
        if trainer.step > trainer.total_steps:
            raise UserError(
                f"--resume: the run is at step {trainer.step:,}, beyond the {trainer.total_steps:,} that are asked for."
            )
    return Built(
        experiment=experiment,
        device=device,
        data=data,
        trainer=trainer,
        parameters=sum(p.numel() for p in net.parameters()),
        activation_bytes=_activation_bytes(net, data) if device.type != "cpu" else 0,
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
    torch.use_deterministic_algorithms(experiment.trainer.deterministic, warn_only=False)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = precision.tf32
        torch.backends.cudnn.benchmark = not experiment.trainer.deterministic
        torch.cuda.set_device(device)


def _check_loss(trainer: Trainer) -> None:
    """Try the loss on two samples, so that a misfit is told before training."""
    from core.models.build import first_line
    from core.usercode import user_errors

    info = trainer.data.info
    outputs = torch.zeros(2, info.outputs, device=trainer.device)
    one_hot = any(t.name == "OneHot" for t in trainer.experiment.data.target_transforms)
    if info.classes and not one_hot:
        y = torch.zeros(2, dtype=torch.long, device=trainer.device)
    else:
        y = torch.zeros(2, info.outputs, device=trainer.device)
        y = y if info.outputs > 1 or one_hot else y[:, 0]
    try:
        with user_errors():
            value = trainer.loss(outputs, y)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"loss.name = {trainer.experiment.loss.name!r} can't take the model's outputs: {first_line(error)}."
        ) from None
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UserError(
            f"loss.name = {trainer.experiment.loss.name!r} must return one number as a tensor, not {value!r}."
        )


def _activation_bytes(net: torch.nn.Module, data: LoadedData) -> int:
    from core.models.summary import summarize

    try:
        return summarize(net, data.info.input_shape, 1, integer=data.info.integer).activations
    except Exception:
        return 0  # only used to advise; what can't be traced is advised on by halving
