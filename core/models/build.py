"""From the experiment's model table to an nn.Module that fits the data."""

from __future__ import annotations

import fnmatch
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from torchdeck.core import catalog, usercode
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes, tensors_in
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserCodeError, UserError, first_line
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.models import weights
from torchdeck.core.models.calls import caller_of, in_precision_of, loss_of
from torchdeck.core.models.configured import pretrained, with_config
from torchdeck.core.models.parts import Parts
from torchdeck.core.models.tokens import beyond_embedding, is_beyond, with_greatest_token


class GivesLoss(UserError):
    """A model gives its loss for the inputs alone, which the task that was taken has no use for."""


def build_model(
    model: Model,
    info: DataInfo,
    tell: Callable[[str], None] = lambda text: None,
    sample: Batch | None = None,
) -> nn.Module:
    """The model for these data, on the CPU, with its weights loaded and its frozen parameters marked; ``tell`` is
    called with what of the weights did not load as it stands. It is tried on ``sample``, a real batch; without such
    only where its shapes depend on it (torch's lazy modules).

    Weights are drawn from torch's global generator: seed it first.

    Raises UserError when model and data don't fit (GivesLoss where the task is another one), UserCodeError when the
    user's code raises.
    """
    if model.parts:
        return _of_parts(model, info, tell)
    outputs = info.outputs
    entry = model.entry()
    from_torchvision = entry is not None and entry.fact("family") == "torchvision"
    offered = weights.pretrained(model.name, model.weights) if from_torchvision else None
    if entry is None:
        net = _user_model(model, info)
    elif from_torchvision:
        net = _torchvision(model, info, outputs, offered)
    else:
        if entry.fact("images") and len(info.input_shape) != 3:
            raise UserError(
                f"model.name = {entry.name!r} needs images, but the inputs of {info.name!r} have the shape "
                f"{list(info.input_shape)}; choose mlp or linear.",
                field="model.name",
            )
        net = _from_catalog(entry, model, info, sample)
    if model.weights and offered is None and not _is_folder(model):
        if model.weights == "DEFAULT":
            raise UserError(
                "model.weights = 'DEFAULT' is for torchvision's models; name a file for others.", field="model.weights"
            )
        weights.load_into(net, model.weights, model.partial, tell)
    _freeze(net, model.freeze)
    if sample is not None and info.task == "contrastive":
        if info.plain:
            _try_forward(net, info, model.name, sample.x[0], None)  # else its task tries it, which knows the views
    elif sample is not None:
        _try_forward(net, info, model.name, with_greatest_token(sample.x, info), sample.y)
    elif any(isinstance(m, LazyModuleMixin) for m in net.modules()):
        _try_forward(net, info, model.name, info.example(2), None)
    return net


def _of_parts(model: Model, info: DataInfo, tell: Callable[[str], None]) -> nn.Module:
    """Several modules as one. What each of them is called with only the step of the user's own knows, which is tried
    before training."""
    parts = {}
    for name, part in model.parts.items():
        alone = Model(name=part.name, args=part.args)
        try:
            parts[name] = build_model(alone, info, tell)
        except UserError as error:
            raise type(error)(f"model.parts.{name}: {error}", field=f"model.parts.{name}.name") from None
    net = Parts(parts)
    if model.weights:
        weights.load_into(net, model.weights, model.partial, tell)
    _freeze(net, model.freeze)
    return net


def _is_folder(model: Model) -> bool:
    """Whether the weights are a folder of transformers', which is read with the model."""
    return (
        model.entry() is None
        and hasattr(usercode.load(model.name, "model.name"), "from_pretrained")
        and Path(model.weights or "").expanduser().is_dir()
    )


def _from_catalog(entry: catalog.Entry, model: Model, info: DataInfo, sample: Batch | None) -> nn.Module:
    """A net of ours, with the shape of the targets or of all inputs where it asks for them."""
    factory = entry.load_factory()
    offered = {"target_shape": info.target_shape, "input_shapes": info.input_shapes}
    takes = inspect.signature(factory).parameters
    if sample is not None and isinstance(sample.x, Mapping) and "input_shapes" not in takes:
        raise UserError(
            f"model.name = {entry.name!r} takes one input, but the items of {info.name!r} hold several "
            f"({', '.join(map(str, sample.x))}); make one of them in the data set, or name it in data.inputs.",
            field="data.inputs",
        )
    extra = {name: value for name, value in offered.items() if name in takes}
    return factory(info.input_shape, info.outputs, **extra, **model.resolved())


def _user_model(model: Model, info: DataInfo) -> nn.Module:
    target = usercode.load(model.name, "model.name")
    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise UserError(
            f"model.name = {model.name!r} is a {type(target).__name__}, not an nn.Module or a function.",
            field="model.name",
        )
    offered: dict[str, Any] = dict.fromkeys(
        ("num_classes", "n_classes", "num_outputs", "out_features", "output_dim"), info.outputs
    )
    offered |= dict.fromkeys(("vocab_size", "ntoken", "n_vocab") if info.task == "language" else (), info.outputs)
    if model.name.startswith("torchvision.models."):
        model = model.model_copy(update={"args": {**_offered_to_torchvision(target, info), **model.args}})
    if model.name == "timm:create_model":  # it hands on what it does not name
        fits = {"num_classes": info.outputs} | ({"in_chans": info.input_shape[0]} if info.input_shape else {})
        model = model.model_copy(update={"args": fits | model.args})
    if info.input_shape:
        offered |= dict.fromkeys(("in_channels", "in_features", "input_dim", "in_chans"), info.input_shape[0])
    offered |= {"input_shape": info.input_shape}
    made = pretrained(target, model.weights, model.args)
    if made is None:
        args = with_config(target, model.args, offered)
        made = usercode.call(target, args, "model", offered)
    if not isinstance(made, nn.Module):
        raise UserError(
            f"model.name = {model.name!r} gave a {type(made).__name__}; an nn.Module is needed.", field="model.name"
        )
    return made


def _offered_to_torchvision(function: Callable[..., Any], info: DataInfo) -> dict[str, Any]:
    """Arguments of torchvision's functions where none are given: as many classes as the data have (of a detector the
    background counts), and no weights, for those of a backbone are downloaded otherwise."""
    takes = inspect.signature(function).parameters
    offered = {"weights": None, "weights_backbone": None, "num_classes": info.outputs}
    return {name: value for name, value in offered.items() if name in takes}


def _torchvision(model: Model, info: DataInfo, outputs: int, offered: Any | None) -> nn.Module:
    import torchvision

    if len(info.input_shape) != 3:
        raise UserError(f"model.name = {model.name!r} needs images, but {info.name!r} is a table.", field="model.name")
    args: dict[str, Any] = {k: v for k, v in model.args.items() if v is not None}
    if model.name in ("googlenet", "inception_v3") and offered is None:
        args |= {"aux_logits": False, "init_weights": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if offered is not None:
                net = torchvision.models.get_model(model.name, weights=offered, **args)
            else:
                net = torchvision.models.get_model(model.name, num_classes=outputs, **args)
    except OSError as error:
        raise UserError(
            f"model.weights = {model.weights!r}: the weights of {model.name} could not be downloaded ({error}); "
            f"put a file in model.weights, or the download in {torch.hub.get_dir()!r}.",
            field="model.weights",
        ) from None
    except RuntimeError as error:  # a download with a wrong checksum, or weights for another num_classes
        raise UserError(f"model.weights = {model.weights!r}: {first_line(error)}.", field="model.weights") from None
    except TypeError as error:
        raise UserError(f"model.args: {model.name} does not take {args}: {error}.", field="model.args") from None
    if getattr(net, "aux_logits", False):
        net.aux_logits = False
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(net, name):
                setattr(net, name, None)
    adapt_inputs(net, info.input_shape[0])
    adapt_outputs(net, outputs)
    return net


def adapt_inputs(net: nn.Module, channels: int) -> None:
    """Make the first convolution take that many channels, keeping what its weights have learned.

    More channels than before repeat the old ones, fewer (grey) take their sum, scaled so that activations keep their
    size (as timm does).
    """
    name, first = next(((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d)), (None, None))
    if first is None or name is None or first.in_channels == channels or first.groups != 1:
        return
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    with torch.no_grad():
        old = first.weight
        if channels == 1:
            new.weight.copy_(old.sum(1, keepdim=True))
        else:
            repeats = -(-channels // old.shape[1])
            new.weight.copy_(old.repeat(1, repeats, 1, 1)[:, :channels] * (old.shape[1] / channels))
        if first.bias is not None and new.bias is not None:
            new.bias.copy_(first.bias)
    net.set_submodule(name, new)
    if getattr(net, "transform_input", False):  # Inception's own normalisation is for three channels
        net.transform_input = False  # type: ignore[assignment]


def adapt_outputs(net: nn.Module, outputs: int) -> None:
    """Put a fresh head with that many outputs in place of the last layer, unless it fits already."""
    heads = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name, head = heads[-1]
    if isinstance(head, nn.Linear):
        if head.out_features != outputs:
            net.set_submodule(name, nn.Linear(head.in_features, outputs, bias=head.bias is not None))
    elif head.out_channels != outputs:  # SqueezeNet ends in a convolution
        net.set_submodule(name, nn.Conv2d(head.in_channels, outputs, head.kernel_size))  # type: ignore[arg-type]
    if hasattr(net, "num_classes"):
        net.num_classes = outputs  # type: ignore[assignment]


def _freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    names = [name for name, _ in net.named_parameters()]
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern) or [n for n in names if n.startswith(f"{pattern}.")]
        if not matching:
            tops = sorted({n.split(".")[0] for n in names})
            raise UserError(
                f"model.freeze: no parameter matches {pattern!r}; names begin with {', '.join(tops)}.",
                field="model.freeze",
            )
        for name in matching:
            net.get_parameter(name).requires_grad_(False)
    if patterns and not any(p.requires_grad for p in net.parameters()):
        raise UserError("model.freeze leaves nothing to train: every parameter is frozen.", field="model.freeze")


def _taken_apart(net: nn.Module, name: str, x: Any) -> str:
    """How items were taken apart, where forward does not take as many inputs as came of it."""
    if not isinstance(x, tuple) or caller_of(net, name).takes(len(x)):
        return ""
    return " (items give several inputs, and the last part as the target; data.inputs and data.target say otherwise)"


def _try_forward(net: nn.Module, info: DataInfo, name: str, x: Any, y: Any) -> None:
    """Try the model on a small batch, so that a misfit is told before training and not in the middle of it."""
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad(), usercode.user_errors():
            if info.task == "detection":
                net(list(x)[:2])
            else:
                caller = caller_of(net, name)
                made = caller(net, in_precision_of(net, x), y)
                if caller.target is None and info.task != "own":
                    _refuse_loss(made, info, name)
    except UserCodeError as error:
        if is_beyond(error):
            raise beyond_embedding(net, x, name) from None
        whole = " of whole numbers (which stay such: a model of numbers needs floats)" if info.integer else ""
        raise UserCodeError(
            f"model.name = {name!r} raised in forward, given a batch of the shape {shapes(x)}"
            f"{_taken_apart(net, name, x)}{whole}: {error}"
        ) from None
    except UserError:
        raise
    except Exception as error:
        if is_beyond(error):
            raise beyond_embedding(net, x, name) from None
        hint = "; images may be too small for it: add a Resize to data.transforms" if len(info.input_shape) == 3 else ""
        inputs = f"inputs of the shape {list(info.input_shape)}"
        if not (info.plain and info.input_shape):  # a collate function gives dimensions any meaning
            inputs = f"a batch of the shape {shapes(x)}"
        raise UserError(
            f"model.name = {name!r} can't take {inputs}: {first_line(error)}{hint}.",
            field="model.name",
        ) from None
    finally:
        net.train(was_training)


def _refuse_loss(made: Any, info: DataInfo, name: str) -> None:
    """Raises GivesLoss for a model that made one number of a batch of inputs, and nothing else."""
    if loss_of(made) is not None and not any(t.numel() > 1 for t in tensors_in(made)):
        raise GivesLoss(
            f"model.name = {name!r} gives one number for a batch of inputs, as if it were its loss, which "
            f"{info.task} has no use for; task.name = 'own' trains it by that.",
            field="task.name",
            also=("model.name",),
        )


def channels_last_of(model: Model, net: nn.Module, info: DataInfo) -> bool:
    """Whether a model of these data runs with the channels last in memory."""
    if len(info.input_shape) != 3:
        return False
    return wants_channels_last(net) if model.channels_last is None else model.channels_last


def wants_channels_last(net: nn.Module) -> bool:
    """Whether a model has convolutions on images, which run faster with the channels last in memory."""
    return any(isinstance(m, nn.Conv2d) for m in net.modules())
