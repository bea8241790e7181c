"""The complete state of a training: what a checkpoint holds, to go on exactly where it was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torchdeck.core.checkpoints.read import VERSION
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.training.random import get_states, set_states

if TYPE_CHECKING:
    from torchdeck.core.training.trainer import Trainer


def capture(trainer: Trainer) -> dict[str, Any]:
    """The state as plain containers and tensors, loadable with ``weights_only=True``. It shares the live tensors."""
    info = trainer.data.info
    return {
        "torchdeck": VERSION,
        "experiment": toml.dumps(trainer.experiment),
        "folder": trainer.folder,
        "data": {
            "task": info.task,
            "input_shape": list(info.input_shape),
            "outputs": info.outputs,
            "class_names": list(info.class_names),
            "feature_names": list(info.feature_names),
            "target_mean": list(info.target_mean),
            "target_std": list(info.target_std),
            "target_names": list(info.target_names),
            "integer": info.integer,
            "loss_kind": trainer.loss.kind,
            "class_weights": None if trainer.loss.weights is None else trainer.loss.weights.tolist(),
            "channels_last": trainer.channels_last,
            "raw_shape": list(info.raw_shape),
            "fingerprint": info.fingerprint,
            "transforms": [_plain(t.record()) for t in trainer.data.transforms],
        },
        "epoch": trainer.epoch,
        "step": trainer.step,
        "epoch_length": trainer.epoch_length,
        "model": trainer.net.state_dict(),
        "loss": trainer.loss.module.state_dict() if trainer.loss.module is not None else None,
        "ema": {"model": trainer.ema.module.state_dict(), "averaged": trainer.ema.n_averaged} if trainer.ema else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "random": get_states(trainer.device),
        "best": {
            "value": trainer.best_value,
            "loss": trainer.best_loss,
            "epoch": trainer.best_epoch,
            "bad_epochs": trainer._bad_epochs,
        },
        "epoch_sums": _sums_so_far(trainer),
        "epoch_seconds": trainer._epoch_seconds_before + time.monotonic() - trainer._epoch_started,
    }


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in args.items()}


def _sums_so_far(trainer: Trainer) -> list[float]:
    """The epoch's sums with the steps since the last summary, which are not in them yet."""
    sums = list(trainer._epoch_sums)
    trainer.window.read(sums)
    return sums


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a freshly built trainer where ``state`` was; the experiment's own settings (say, weight decay) are kept.

    Raises UserError when the state does not fit the experiment.
    """
    try:
        trainer.net.load_state_dict(state["model"])
        if trainer.loss.module is not None and state.get("loss") is not None:
            trainer.loss.module.load_state_dict(state["loss"])
        if trainer.ema is not None:
            if state["ema"] is None:
                raise UserError("--resume: trainer.ema was not used before; it can't begin in mid-run.")
            trainer.ema.module.load_state_dict(state["ema"]["model"])
            trainer.ema.n_averaged.copy_(state["ema"]["averaged"])
        chosen = [{k: v for k, v in g.items() if k != "params"} for g in trainer.optimizer.param_groups]
        trainer.optimizer.load_state_dict(state["optimizer"])
        for group, options in zip(trainer.optimizer.param_groups, chosen, strict=True):
            group.update(options)
        trainer.scheduler.load_state_dict(state["scheduler"])
        if trainer.precision.scaler and state["scaler"]:
            trainer.scaler.load_state_dict(state["scaler"])
        if state["epoch_length"] != trainer.epoch_length:
            raise UserError(
                f"--resume: an epoch had {state['epoch_length']} steps and now has {trainer.epoch_length}; keep the data "
                "and trainer.batch_size as they were, or start a new run from these weights (model.weights)."
            )
        trainer.step = int(state["step"])
        best = state["best"]
        trainer.best_value, trainer.best_epoch, trainer._bad_epochs = best["value"], best["epoch"], best["bad_epochs"]
        trainer.best_loss = best.get("loss")
        if trainer.step % trainer.epoch_length:
            sums = [float(v) for v in state["epoch_sums"]]
            trainer._epoch_sums = sums if len(sums) == 4 else [*sums, sums[2]]  # before losses had weights
            trainer._epoch_seconds_before = float(state["epoch_seconds"])
        set_states(state["random"], trainer.device)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--resume: the checkpoint does not fit the experiment: {reason}") from None


def finite_weights(net: nn.Module) -> bool:
    """Whether every weight is a finite number; one look at the device."""
    norms = [p.detach() for p in net.parameters() if p.is_floating_point()]
    if not norms:
        return True
    return bool(torch.isfinite(torch.stack(torch._foreach_norm(norms, float("inf")))).all())
