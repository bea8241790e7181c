"""What of a LightningModule can not be followed without its trainer, told from its code before it is trained."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator

from torch import nn

from torchdeck.core.errors import UserError
from torchdeck.core.tasks.lightning_trainer import LightningTrainer, Logger, public

#: What of a trainer's, and of a logger's, a module may read.
_KNOWN = {"trainer": public(LightningTrainer, LightningTrainer(1, None)), "logger": public(Logger)}

#: Hooks of a module that are not called.
_NOT_CALLED = (
    "transfer_batch_to_device",
    "on_load_checkpoint",
    "on_save_checkpoint",
    "configure_callbacks",
    "configure_sharded_model",
    "on_validation_model_eval",
    "on_validation_model_train",
    "on_test_model_eval",
    "on_test_model_train",
    "training_epoch_end",
    "validation_epoch_end",
    "test_epoch_end",
)

#: Packages whose classes are no code of the user's.
_FOREIGN = ("lightning", "pytorch_lightning", "torch", "builtins", "abc", "typing")


def refuse_unsupported(module: nn.Module, name: str) -> None:
    """Raises UserError for what a module's own code needs and has not: parts of its trainer, and hooks that are not
    called. It is told from the text of its class, before the training."""
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.split(".")[0].startswith(_FOREIGN)]
    for kind in kinds:
        own = next((hook for hook in _NOT_CALLED if hook in vars(kind)), None)
        if own is not None:
            raise UserError(
                f"model.name = {name!r}: its {own} would not be called; torchdeck trains a LightningModule without a "
                "Lightning Trainer.",
                field="model.name",
            )
        _refuse_code(_code_of(kind), name)


def _refuse_code(code: ast.AST, name: str) -> None:
    for node in _unguarded(code):
        if isinstance(node, ast.FunctionDef) and "dataloader_iter" in [a.arg for a in node.args.args]:
            raise UserError(
                f"model.name = {name!r}: its {node.name} takes dataloader_iter, which torchdeck does not give; let it "
                "take (batch, batch_idx).",
                field="model.name",
            )
        if isinstance(node, ast.FunctionDef) and node.name == "on_train_batch_start" and _ends_epochs(node):
            raise UserError(
                f"model.name = {name!r}: its on_train_batch_start returns -1 to leave out the rest of an epoch, which "
                "torchdeck does not do; self.trainer.should_stop = True ends the training.",
                field="model.name",
            )
        part = _read(node)
        if part is not None and part[1] not in _KNOWN[part[0]]:
            raise UserError(
                f"model.name = {name!r} needs its trainer: it reads self.{part[0]}.{part[1]}, which torchdeck has not.",
                field="model.name",
            )


def _read(node: ast.AST) -> tuple[str, str] | None:
    """Of what is read, ("trainer", "max_epochs") in ``self.trainer.max_epochs``."""
    if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)):
        return None
    owner = node.value
    if owner.attr in _KNOWN and isinstance(owner.value, ast.Name) and owner.value.id == "self":
        return owner.attr, node.attr
    return None


def _ends_epochs(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Return) and node.value and _is_minus_one(node.value) for node in ast.walk(function))


def _is_minus_one(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and ast.unparse(node) == "-1"


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but what stands under a question of what there is (``isinstance(self.logger, WandbLogger)``)."""
    yield node
    skipped: list[ast.AST] = []
    if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in ("isinstance(", "hasattr(")):
        skipped = [node.test, *node.body]
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _unguarded(child)


def _code_of(kind: type) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return ast.Module([], [])
