"""The step of a LightningModule in automatic optimisation: what Lightning's loop does with the loss of training_step,
hook by hook."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import distributed
from torchdeck.core.tasks.base import Step
from torchdeck.core.tasks.lightning import LightningTask, has, module_hook
from torchdeck.core.training.lightning_configured import configure
from torchdeck.core.training.lightning_memory import Memory
from torchdeck.core.training.lightning_optimizer import LightningOptimizer
from torchdeck.core.training.lightning_schedules import LightningSchedules
from torchdeck.core.training.schedules import Schedules
from torchdeck.core.training.step import NotFinite, OptimizerStep
from torchdeck.core.training.window import AccumulationWindow


class _TrainingStep(nn.Module):
    """Calls a module's training_step as its forward, for DistributedDataParallel, which averages gradients there."""

    def __init__(self, module: nn.Module, task: LightningTask) -> None:
        super().__init__()
        self.lightning_module = module
        self._task = task

    def forward(self, batch: Any, number: int) -> Any:
        return self._task.train_step(self.lightning_module, batch)


class LightningStep(OptimizerStep):
    """Automatic optimisation."""

    task: LightningTask

    def __init__(
        self,
        experiment: Experiment,
        net: nn.Module,
        task: LightningTask,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        """Raises UserError for several optimizers, which need manual optimization, and for options that don't go with
        the module's own steps."""
        name = experiment.model.name
        if experiment.trainer.compile:
            raise UserError(
                "trainer.compile: compile inside the LightningModule (in configure_model, say).",
                field="trainer.compile",
            )
        self._configured = configure(task, name, device)
        for note in self._configured.notes:
            tell(note)
        if len(self._configured.optimizers) > 1:
            raise UserError(
                f"configure_optimizers of {name!r} gave {len(self._configured.optimizers)} "
                "optimizers; several need manual optimisation (self.automatic_optimization = False).",
                field="model.name",
            )
        super().__init__(experiment, net, task, device, tell)
        for hook in ("optimizer_step", "backward"):
            if self.scaler.is_enabled() and has(task.module, hook):
                raise UserError(
                    f"trainer.precision: fp16 needs a gradient scaler, which {hook} of {name!r} does not know of; set "
                    "fp32 or bf16.",
                    field="trainer.precision",
                )
        if self._needs_closure and experiment.trainer.accumulate > 1:
            raise UserError(
                "trainer.accumulate: the optimizer asks for the loss again in each step, which goes with one batch a "
                "step; set it to 1.",
                field="trainer.accumulate",
            )
        task.trainer.optimizers[:] = [self.optimizer]
        self._given = task.given_optimizers = LightningOptimizer(
            self.optimizer, device, task, after_backward=lambda: self._after_backward(self._measures)
        )
        task.trainer.lr_scheduler_configs[:] = self._configured.schedulers
        self._schedules: LightningSchedules | None = None
        self._memory = Memory(task.module)
        self._measures = False
        self._told_none, self._tell = False, tell
        self._last: Tensor | None = None

    def distribute(self, net: nn.Module) -> nn.Module:
        """Gradients are averaged after the forward of a DistributedDataParallel: that is training_step."""
        return net if distributed.world().size == 1 else super().distribute(_TrainingStep(net, self.task))

    def build_optimizer(self, experiment: Experiment, net: nn.Module, own: list[nn.Parameter]) -> torch.optim.Optimizer:
        """That of configure_optimizers; the experiment's where there is none."""
        if self._configured.optimizers:
            return self._configured.optimizers[0]
        return super().build_optimizer(experiment, net, own)

    def build_schedule(
        self, experiment: Experiment, total: int, per_epoch: int, tell: Callable[[str], None]
    ) -> Schedules:
        """Those of configure_optimizers; the experiment's where the optimizer is, too."""
        if not self._configured.optimizers:
            return super().build_schedule(experiment, total, per_epoch, tell)
        self._configured.refuse_too_short(total, per_epoch)
        self._schedules = LightningSchedules(self.task, self.optimizer, self._configured.schedulers)
        return self._schedules

    def _change(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        self._measures = measures
        with self.task.attached(self.task.module):
            samples = sum(batch.size for batch in batches)
            batches = [self.task.transferred(self.task.module, batch) for batch in batches]
            steps = [self._one(batch, at, samples, at == len(batches) - 1) for at, batch in enumerate(batches)]
        loss = sum(step.loss.detach() * (step.size / samples) for step in steps if step.loss is not None)
        trained = sum(step.size for step in steps if step.loss is not None)
        self._last = torch.as_tensor(loss) if trained else self._last
        if self._last is not None:  # of a batch that was left out nothing is counted
            window.add(self._last, samples, trained, _parts(steps))

    def _one(self, batch: Batch, at: int, samples: int, last: bool) -> Step:
        """What is done with one batch; with the ``last`` one of a step the optimizer makes its step."""
        task, trainer = self.task, self.task.trainer
        task.step_began(batch)
        made: list[Step] = []

        def closure() -> Tensor | None:
            """Forward and backward; Lightning gives the same to optimizer_step."""
            made.append(self._backward(batch, at == 0, batch.size / samples))
            loss = made[-1].loss
            return None if loss is None else loss.detach()

        if not last:
            with self._unshared_until(False):
                closure()
        elif self.scaler.is_enabled():
            closure()
            self._after_backward(self._measures)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            task.module.optimizer_step(trainer.current_epoch, task.number, task.given_optimizers, closure)
        # A line search asks several times, of which the first is before the change; an optimizer_step may not ask.
        step = made[0] if made else Step(None, None, batch.size, None)
        self._ended(batch, batch.size / samples, last)
        return step

    def _ended(self, batch: Batch, share: float, last: bool) -> None:
        task, number = self.task, self.task.number
        if last:
            if self.ema is not None:
                self.ema.update_parameters(self.net)
            task.trainer.global_step += 1
            if self._schedules is not None:
                self._schedules.batch_ended(number, task.trainer.is_last_batch)
        task.step_ended(batch, share)
        if last and self._schedules is not None:
            self._schedules.batch_judged(number)

    def _backward(self, batch: Batch, first: bool, share: float) -> Step:
        module = self.task.module
        with self.autocast():
            step = self.task.forward(self.compiling.forward, batch)
        loss: Tensor | None = None
        if self.task.leaves_out:
            self._tell_none()
        else:
            self.task.add_loss(step)
            loss = self._check.has_graph(step.loss) * share
            if self._device.type == "cpu" and not math.isfinite(loss.item()):
                raise NotFinite(loss.item())
        if first:
            module_hook(module, "on_before_zero_grad", self.optimizer)
            module.optimizer_zero_grad(self.task.trainer.current_epoch, self.task.number, self.optimizer)
        if loss is not None:
            module_hook(module, "on_before_backward", loss)
            module.backward(self.scaler.scale(loss))
            module_hook(module, "on_after_backward")
            self._check.learns()
        return step

    def _tell_none(self) -> None:
        if not self._told_none:
            self._tell("training_step returned None: as with Lightning, the weights stay as they are in such a step.")
        self._told_none = True

    def _after_backward(self, measures: bool) -> None:
        """Once the gradients of a step are made: a hook, and clipping."""
        module = self.task.module
        self.scaler.unscale_(self.optimizer)
        module_hook(module, "on_before_optimizer_step", self.optimizer)
        if has(module, "configure_gradient_clipping"):
            module.configure_gradient_clipping(self.optimizer, self._limit, None)
            return
        # The gradients of what the optimizer does not train are nobody's business.
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._clip_and_measure(measures)

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, for a checkpoint. It shares the live tensors."""
        return {
            **super().state_dict(),
            "module": self._memory.state_dict(),
            "log": self.task.log.state_dict(),
            # A module that forgets them in its own time may add them up over steps.
            "gradients": self._given.gradients(True) if has(self.task.module, "optimizer_zero_grad") else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        super().load_state_dict(state)
        if self._configured.optimizers:  # whose options are the module's own affair
            self.optimizer.load_state_dict(state["optimizer"])
        self._given.load_gradients(state.get("gradients", {}))
        remember(self._memory, self.task, state)


def remember(memory: Memory, task: LightningTask, state: dict[str, Any]) -> None:
    """What a checkpoint kept of the module is there again, once the hooks at the beginning have run."""
    if "module" not in state:  # an earlier torchdeck kept none
        return
    task.log.load_state_dict(state["log"])
    task.once_began = lambda: memory.load_state_dict(state["module"])


def _parts(steps: list[Step]) -> dict[str, Tensor]:
    """What the batches of a step told, as means by their samples."""
    found: dict[str, Tensor] = {}
    for name in {name: None for step in steps for name in step.parts}:
        telling = [step for step in steps if name in step.parts]
        size = sum(step.size for step in telling)
        parts = [step.parts[name].detach() * (step.size / size) for step in telling]
        found[name] = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
    return found
