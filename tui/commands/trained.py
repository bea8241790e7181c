"""Going further from a trained model: export, evaluate, predict, fine-tune."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core import jsons
from torchdeck.core.errors import UserError, count
from torchdeck.core.text import SHARES, printable_lines
from torchdeck.tui.commands.shared import add_overrides, add_runs, print_json, print_line, runs_roots
from torchdeck.tui.tables import print_table

if TYPE_CHECKING:
    import torch

    from torchdeck.core.evaluation.evaluate import EvaluationResult
    from torchdeck.core.evaluation.export import Compared, Samples
    from torchdeck.core.evaluation.prediction import Prediction
    from torchdeck.core.evaluation.trained import Trained
    from torchdeck.core.experiment.data_schema import Data


def _add_trained(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|CHECKPOINT", help="a run's name or directory, or a checkpoint file")
    add_runs(parser)
    parser.add_argument(
        "--checkpoint", default="best", metavar="best|last|FILE", help="which one of a run (default: best)"
    )
    parser.add_argument(
        "--trust-code", action="store_true", help="let a checkpoint that was not made here run the code that it names"
    )


def _locate(options: argparse.Namespace) -> Path:
    from torchdeck.core.checkpoints.names import choose_checkpoint
    from torchdeck.tui.commands.shared import find_any

    path = Path(options.run).expanduser()
    return path if path.is_file() else choose_checkpoint(find_any(options.run, runs_roots(options)), options.checkpoint)


def _load(options: argparse.Namespace) -> Trained:
    path = _locate(options)
    from torchdeck.core.evaluation.trained import load_trained

    return load_trained(path, options.trust_code, _warn)


def _warn(text: str) -> None:
    print(f"warning: {printable_lines(text)}", file=sys.stderr)


# --- export ----------------------------------------------------------------------------------------------------------

_FORMATS = ("state_dict", "safetensors", "model", "torchscript", "onnx", "torch_export", "int8")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck export``."""
    _add_trained(parser)
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="state_dict",
        help="state_dict (.pth), safetensors, model: the whole module, pickled (.pth), torchscript, onnx, "
        "torch_export (.pt2), int8: linear layers in 8 bits (.pt2)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="default: named after the run, in this folder")
    parser.add_argument("--json", action="store_true", help="as JSON")


def export(options: argparse.Namespace) -> int:
    """Write a model to a file, and compare what was written with the original on real samples."""
    path = _locate(options)
    if options.format in ("state_dict", "safetensors"):
        return _export_weights(path, options)
    from torchdeck.core.checkpoints.unit import in_own_unit
    from torchdeck.core.evaluation.evaluate import evaluate_model
    from torchdeck.core.evaluation.export import FORMATS
    from torchdeck.core.evaluation.export import export_model as write
    from torchdeck.core.evaluation.trained import first_part, load_trained

    trained = load_trained(path, options.trust_code, _warn)
    output = Path(options.output or f"{_stem(path)}.{FORMATS[options.format]}").expanduser()
    info = trained.info
    net: Any = trained.net
    samples: Any
    if trained.experiment.model.parts:
        net, samples = first_part(trained)
        real = False
    else:
        samples, real = _samples(trained)
        if not isinstance(samples, tuple | list):  # targets of several inputs are never scaled
            net = in_own_unit(net, info.target_mean, info.target_std, samples)
    compared = write(net, options.format, output, samples, classes=info.task == "classification")
    accuracy: dict[str, Any] = {}
    if options.format == "int8" and not trained.experiment.model.parts:
        from torchdeck.core.evaluation.export import quantised

        accuracy = {
            "before": _main(evaluate_model(trained, device="cpu", warn=_warn)),
            "after": _main(evaluate_model(trained, device="cpu", warn=_warn, net=quantised(trained.net))),
        }
    _tell_export(output, compared, real, accuracy, options.json)
    return 0


def _export_weights(path: Path, options: argparse.Namespace) -> int:
    """Weights of any file: read, written, read again and compared, number by number. No model is built, no code run."""
    import torch

    from torchdeck.core.checkpoints.archive import inspect_file
    from torchdeck.core.checkpoints.load import weights
    from torchdeck.core.checkpoints.read import load_weights
    from torchdeck.core.checkpoints.save import save_weights
    from torchdeck.core.checkpoints.unit import unit_in_words
    from torchdeck.tui.columns import size
    from torchdeck.tui.commands.checkpoints import tell_wrapped

    state = load_weights(path, "export")
    stored = inspect_file(path)
    tell_wrapped(stored)
    mean, std = stored.target_scale
    scale = {"target_mean": list(mean), "target_std": list(std)} if mean else {}
    suffix = ".safetensors" if options.format == "safetensors" else ".pth"
    output = Path(options.output or f"{_stem(path)}{suffix}").expanduser()
    save_weights(state, output, options.format == "safetensors", {k: json.dumps(v) for k, v in scale.items()})
    again = weights(output, "export")
    same = (
        list(again)
        and set(again) == set(state)
        and all(torch.equal(a, state[n]) or _both_nan(a, state[n]) for n, a in again.items())
    )
    if not same:
        output.unlink(missing_ok=True)
        raise UserError(f"{str(output)!r} differs from {str(path)!r} after it was written; the disk may be failing.")
    if options.json:
        print_json(
            {"path": str(output), "bytes": output.stat().st_size, "tensors": len(state), "identical": True, **scale}
        )
    else:
        print(f"{output} ({size(output.stat().st_size)})\nread again: all {count(len(state), 'tensor')} are identical")
        if mean:
            print(unit_in_words(mean, std))
    return 0


def _both_nan(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _tell_export(output: Path, compared: Compared, real: bool, accuracy: dict[str, Any], as_json: bool) -> None:
    from torchdeck.tui.columns import size

    if as_json:
        print_json(
            {"path": str(output), "bytes": output.stat().st_size, **vars(compared), "real_samples": real, **accuracy}
        )
        return
    kind = "samples" if real else "made-up samples"
    print_line(f"{output} ({size(output.stat().st_size)})")
    agreement = "" if compared.agreement is None else f", same prediction for {compared.agreement:.2%}"
    print(
        f"compared on {compared.samples} {kind}: greatest difference {compared.difference:.3g} "
        f"(relative {compared.relative:.3g}){agreement}"
    )
    for name, before in accuracy.get("before", {}).items():
        after = accuracy["after"][name]
        print(f"test {name} before {before:.4f}, after {after:.4f} ({after - before:+.4f})")


def _main(done: EvaluationResult) -> dict[str, float]:
    metrics = done.report.metrics
    name = next((n for n in ("accuracy", "rmse", "loss", *metrics) if n in metrics), None)
    return {} if name is None else {name: metrics[name]}


def _stem(path: Path) -> str:
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem


def _some(x: Any, trained: Trained) -> Samples:
    """The first inputs of a batch: one tensor (of several views the first), a tuple of several, or a list of images."""
    import torch

    if trained.info.task == "detection":
        return [image.contiguous() for image in x[:16]]
    if trained.info.task == "contrastive" and isinstance(x, tuple | list):
        x = x[0]
    parts = x if isinstance(x, tuple | list) else (x,)
    if not all(isinstance(part, torch.Tensor) for part in parts):
        raise UserError(
            "A model whose inputs are no tensors, or have names, is exported as state_dict or safetensors only."
        )
    some = tuple(part[:64].contiguous() for part in parts)
    return some if len(some) > 1 else some[0]


def _samples(trained: Trained) -> tuple[Samples, bool]:
    """Real inputs for a comparison; made-up ones where the data are not here."""
    import torch

    from torchdeck.core.data.evaluation import evaluation_feed

    experiment = trained.experiment
    data = experiment.data.model_copy(update={"transforms": trained.transforms, "download": False, "workers": 0})
    try:
        experiment = experiment.model_copy(update={"data": data})
        feed = evaluation_feed(experiment, trained.info, data, None, torch.device("cpu")).feed
        x = next(iter(feed.epoch(0))).x
        feed.close()
        return _some(x, trained), True
    except UserError:
        if not trained.info.plain:
            raise
        if trained.info.integer:
            return trained.info.example(64), False
        return torch.randn(64, *trained.info.input_shape, generator=torch.Generator().manual_seed(0)), False


# --- evaluate --------------------------------------------------------------------------------------------------------


def _add_data(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--data", metavar="DATA", help=help)
    add_overrides(parser, "override one value, such as data.args.path=photos")


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck evaluate``."""
    _add_trained(parser)
    _add_data(parser, "a data set of the catalog, data.py:MyDataset, or a folder of images by class (default: its own)")
    parser.add_argument(
        "--split",
        choices=("test", "val", "train", "all"),
        help="which part (default: test of its own data, all of others)",
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cuda, cuda:N, mps or cpu")
    parser.add_argument("--json", action="store_true", help="as JSON")


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a model on any data set."""
    trained = _load(options)
    from torchdeck.core.evaluation.evaluate import evaluate_model as measure
    from torchdeck.core.evaluation.trained import describe

    data = _data(trained, options)
    done = measure(trained, data, options.split, options.device, _warn)
    if options.json:
        print_json(
            {
                **describe(trained),
                "evaluated_on": done.data,
                "split": done.split,
                "samples": done.samples,
                "of": done.total,
                "metrics": done.report.metrics,
                "confusion": done.report.confusion,
                "classes": done.class_names,
            }
        )
        return 0
    print_line(f"{trained.path} on {done.data} ({done.split}, {done.samples:,} of {done.total:,} samples)")
    width = max((len(name) for name in done.report.metrics), default=0) + 2
    for name, value in done.report.metrics.items():
        print(f"  {name:<{max(width, 12)}}{f'{value:.2%}' if name in SHARES else f'{value:.6g}'}")
    if done.report.confusion and len(done.class_names) <= 20:
        print_table(
            ["true \\ predicted", *(n[:8] for n in done.class_names)],
            [
                [name, *(str(v) if v else "·" for v in row)]
                for name, row in zip(done.class_names, done.report.confusion, strict=False)
            ],
            [False, *[True] * len(done.class_names)],
        )
    return 0


def _data(trained: Trained, options: argparse.Namespace) -> Any:
    """The data to evaluate on; None for those of the training."""
    from torchdeck.core.experiment import toml

    if not options.data and not options.overrides:
        return None
    raw: dict[str, Any] = {"data": trained.experiment.data.model_dump(mode="json", exclude_none=True)}
    if options.data:
        raw = {"data": _like_the_training(data_table(options.data), trained.experiment.data)}
    wrong = next((o for o in options.overrides if not o.startswith("data.")), None)
    if wrong is not None:
        raise UserError(f"--set {wrong!r}: only values of the data can be changed here, such as data.args.path.")
    return toml.build(toml.override(raw, options.overrides), "--data").data


def _like_the_training(table: dict[str, Any], own: Data) -> dict[str, Any]:
    """Another file of the kind that was trained on is read as that was: the same target, columns, names of arrays."""
    if table["name"] != own.name or "args" not in table:
        return table
    kept = {key: value for key, value in own.args.items() if key not in ("path", "test_path") and value is not None}
    return {**table, "args": {**kept, **table["args"]}}


def data_table(name: str) -> dict[str, Any]:
    """The data table for a name: a folder is an ImageFolder, a .csv a table, an .npz arrays, else the catalog's."""
    path = Path(name).expanduser()
    if path.is_dir():
        return {"name": "ImageFolder", "args": {"path": name}}
    if path.suffix.lower() in (".csv", ".tsv", ".parquet") and path.is_file():
        return {"name": "table", "args": {"path": name}}
    if path.suffix.lower() == ".npz" and path.is_file():
        return {"name": "npz", "args": {"path": name}}
    return {"name": name}


# --- predict ---------------------------------------------------------------------------------------------------------


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck predict``."""
    _add_trained(parser)
    parser.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="images, folders of them, .csv tables, .npy arrays, an .npz of several inputs by name, "
        "a text to continue; - for stdin",
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes to show (default: 3)")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cuda, cuda:N, mps or cpu")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per input")
    form.add_argument("--csv", action="store_true", help="as CSV")


def predict(options: argparse.Namespace) -> int:
    """Predict for images, folders, tables, arrays or stdin."""
    if options.top < 1:
        raise UserError(f"--top {options.top} is out of range; it must be at least 1.")
    trained = _load(options)
    from torchdeck.core.evaluation.predict import predict_paths as snapshot

    found = snapshot(trained, options.input, sys.stdin.buffer, options.device, options.top, _warn)
    if options.json:
        for one in found:
            print(jsons.dumps(one.record()), flush=True)
        return 0
    if options.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(["input", "predicted", "probability"])
        for one in found:
            writer.writerow(
                [one.input, _shown(one.predicted), "" if one.probability is None else f"{one.probability:.6f}"]
            )
        return 0
    if trained.info.task == "language":
        for one in found:
            print(printable_lines(str(one.predicted)), flush=True)
        return 0
    _print_predictions(list(found))
    return 0


def _print_predictions(found: list[Prediction]) -> None:
    """A table with a column for what there is: a class has a probability, of several labels each has its own."""
    columns = ["input", "prediction"]
    rows = [[one.input, _shown(one.predicted, most=8)] for one in found]
    right = [False, False]
    if any(one.probability is not None for one in found):
        columns += ["probability", "then"]
        right += [True, False]
        for row, one in zip(rows, found, strict=True):
            row += ["" if one.probability is None else f"{one.probability:.2%}", _likely(one.top[1:])]
    elif any(one.top for one in found):
        columns += ["probability of each"]
        right += [False]
        for row, one in zip(rows, found, strict=True):
            row += [_likely(one.top)]
    print_table(columns, rows, right)


def _likely(top: Sequence[tuple[str, float]]) -> str:
    return "  ".join(f"{name} {p:.1%}" for name, p in top)


def _shown(predicted: Any, most: int | None = None) -> str:
    """In words; of long lists the first ``most``."""
    if isinstance(predicted, str):
        return predicted
    if isinstance(predicted, dict):
        form = ".6g" if predicted.keys() & {"mae", "rmse"} else ".1%"
        return "  ".join(f"{name} {value:{form}}" for name, value in predicted.items())
    parts = [_one_shown(value) for value in predicted[:most]]
    left = len(predicted) - len(parts)
    between = " " if predicted and isinstance(predicted[0], float) else ", "
    return between.join([*parts, *([f"... ({left} more)"] if left else [])]) or "none"


def _one_shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['label']} {value['score']:.0%} [{' '.join(f'{v:.1f}' for v in value['box'])}]"
    return value if isinstance(value, str) else f"{value:.6g}"


# --- finetune --------------------------------------------------------------------------------------------------------


def finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck finetune``."""
    parser.add_argument("run", metavar="RUN|CHECKPOINT", help="a run's name or directory, or a file of weights")
    add_runs(parser)
    parser.add_argument(
        "--checkpoint", default="best", metavar="best|last|FILE", help="which one of a run (default: best)"
    )
    _add_data(
        parser, "what to train on: a data set of the catalog, data.py:MyDataset, a folder of images by class, a table"
    )
    parser.add_argument(
        "--freeze",
        action="append",
        default=[],
        metavar="PATTERN",
        help="parameters to freeze, such as 'features.*'; may be given often",
    )
    parser.add_argument(
        "--backbone-lr-factor",
        "--body-lr",  # its former name
        type=float,
        metavar="FACTOR",
        help="learning rate of all but the last layer, as a factor of lr (default: 0.1)",
    )
    parser.add_argument(
        "--trust-code", action="store_true", help="let a checkpoint that was not made here run the code that it names"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the experiment to a TOML file and train nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object per event on stdout")


def finetune(options: argparse.Namespace) -> int:
    """Train a model further on other data: its weights, a new head where the classes differ."""
    from torchdeck.core import files
    from torchdeck.core.evaluation.finetune import experiment_from, fitted_to
    from torchdeck.core.experiment import toml
    from torchdeck.core.runs.consent import refuse_code

    path = _locate(options)
    table = data_table(options.data) if options.data else None
    raw = experiment_from(path, table, options.freeze, options.backbone_lr_factor, _warn)
    if not options.trust_code:
        # What the user names here is the user's own word; what the checkpoint names is its author's.
        refuse_code(toml.build({key: value for key, value in raw.items() if key != "data" or table is None}), path)
    experiment = fitted_to(path, toml.build(toml.override(raw, options.overrides), "the experiment"))
    if options.output:
        output = Path(options.output).expanduser()
        try:
            files.write_text(output, toml.dumps(experiment))
        except OSError as error:
            raise UserError(f"{str(output)!r} can't be written: {error.strerror}.") from None
        print_line(f"{output}; train it with: torchdeck --batch {output}")
        return 0
    from torchdeck.core.session import batch, reporters
    from torchdeck.core.session.session import Session

    return batch.run_batch(
        Session(experiment, runs_roots(options)[0], None), reporters.choose_reporter(options.json, False, False)
    )
