"""A model shared out among processes, each of which keeps a part of every weight, its gradient and its optimizer state
(FSDP2, docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).

A checkpoint holds the whole, gathered by torch.distributed.checkpoint, in the form that one process writes: it is
resumed on any number of processes, evaluated and exported as any other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import distributed
from torchdeck.core.tasks.base import Task


def is_asked_for(experiment: Experiment) -> bool:
    """Whether this run shares its model out."""
    return experiment.trainer.parallel == "fsdp" and distributed.world().size > 1


def refuse_unable(experiment: Experiment, task: Task, scales: bool) -> None:
    """Raises UserError for what does not go with a model that is shared out. ``scales``: whether gradients are scaled,
    as with fp16."""
    options = experiment.trainer
    wrong = None
    if options.ema:
        wrong = "trainer.ema averages whole weights"
    elif scales:
        wrong = "trainer.precision = 'fp16' scales whole gradients (bf16 needs no scaling)"
    elif experiment.task.step is not None or task.name == "lightning":
        wrong = "a step of your own, or a LightningModule, may call any part of the model"
    elif experiment.optimizer.name == "Muon":
        wrong = "optimizer.name = 'Muon' needs whole matrices"
    if wrong is not None:
        raise UserError(
            f"trainer.parallel = 'fsdp' keeps a part of each weight in each process, but {wrong}; use 'ddp'.",
            field="trainer.parallel",
        )


def shard(net: nn.Module, device: torch.device) -> None:
    """Share out each direct child that has parameters, and what is left, among all processes, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world().size,))
    for child in net.children():
        # A list of modules has no forward of its own, before which its weights would be gathered.
        for part in child if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]:
            if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)


def whole(norm: Tensor) -> Tensor:
    """A norm of parts as that of all of them."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _local(parameter: Any) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def all_finite(net: nn.Module) -> bool:
    """Whether every weight is a finite number, in every process."""
    parts = [_local(p.detach()) for p in net.parameters()]
    here = all(bool(torch.isfinite(part).all()) for part in parts if part.is_floating_point())
    found = torch.tensor(float(here), device=parts[0].device if parts else "cpu")
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return bool(found)


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def weights(net: nn.Module) -> dict[str, Any]:
    """The whole weights, on the CPU of the first process; nothing in others. Every process has to ask."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    return get_model_state_dict(net, options=_options())


def load_weights(net: nn.Module, state: dict[str, Any]) -> None:
    """Each process takes its part of the whole weights."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(net, state, options=StateDictOptions(full_state_dict=True))


def _names(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The name of each parameter, in the order in which torch numbers them in an optimizer's state."""
    names = {id(p): name for name, p in net.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state, numbered as by an optimizer of one process; nothing but in the first."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    found: Any = get_optimizer_state_dict(net, optimizer, options=_options())
    if not found.get("param_groups"):
        return {}
    number = {name: at for at, name in enumerate(_names(net, optimizer))}
    return {
        "state": {number[name]: value for name, value in found["state"].items()},
        "param_groups": [{**g, "params": [number[n] for n in g["params"]]} for g in found["param_groups"]],
    }


def load_optimizer(net: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Each process takes its part of the whole state; the options stay those of the experiment."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names = _names(net, optimizer)
    chosen = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    named: Any = {
        "state": {names[int(at)]: value for at, value in state["state"].items()},
        "param_groups": [{**g, "params": [names[at] for at in g["params"]]} for g in state["param_groups"]],
    }
    set_optimizer_state_dict(net, optimizer, named, options=StateDictOptions(full_state_dict=True))
    for group, options in zip(optimizer.param_groups, chosen, strict=True):
        group.update(options)
