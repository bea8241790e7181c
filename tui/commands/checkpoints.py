"""Files of weights: inspected, compared, fitted, averaged, pruned; never run."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core.errors import UserError, count
from torchdeck.core.text import printable
from torchdeck.tui.commands.shared import (
    add_overrides,
    add_runs,
    confirmed,
    find_any,
    print_json,
    print_line,
    runs_roots,
)
from torchdeck.tui.tables import print_table

if TYPE_CHECKING:
    from torchdeck.core.checkpoints.compare import Matches
    from torchdeck.core.checkpoints.stored import Stored
    from torchdeck.core.checkpoints.tensors import Figures

# --- inspect ---------------------------------------------------------------------------------------------------------


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck inspect``."""
    parser.add_argument(
        "file", metavar="FILE|RUN", help=".pt, .pth, .ckpt, .safetensors, .bin, .npz ...; or a run (its best)"
    )
    add_runs(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--all", action="store_true", help="every tensor, not folded")
    parser.add_argument("--stats", action="store_true", help="min, max, mean, std, zeros, NaN and inf of every tensor")
    parser.add_argument("--tensor", metavar="NAME", help="the figures and the histogram of one tensor")
    parser.add_argument(
        "--fits", metavar="EXPERIMENT|RUN", help="which tensors would load into the model of a preset, TOML file or run"
    )
    add_overrides(parser, "override a value of the experiment of --fits")
    parser.add_argument(
        "--run-code",
        action="store_true",
        help="open a whole pickled model for real, which runs what is in the file; asks first",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def inspect(options: argparse.Namespace) -> int:
    """Show what is in a file of weights, without running or loading it."""
    from torchdeck.core.checkpoints.archive import inspect_file

    path = file_of(options.file, options)
    stored = inspect_file(path)
    if options.run_code:
        return _open_whole(stored, options.yes)
    if options.fits:
        return _fits(stored, options)
    if options.tensor:
        return _one(stored, options.tensor, options.json)
    return _show(stored, options.json, options.all or options.stats, options.stats)


def file_of(text: str, options: argparse.Namespace) -> Path:
    """The file that a user means: a file, or a run's best checkpoint.

    Raises UserError when there is none.
    """
    from torchdeck.core.checkpoints.names import choose_checkpoint

    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.suffix and not path.exists():
        raise UserError(f"There is no file {text!r}.")
    return choose_checkpoint(find_any(text, runs_roots(options)), "best")


def show_file(path: Path, as_json: bool) -> int:
    """What is in a file, every tensor."""
    from torchdeck.core.checkpoints.archive import inspect_file

    return _show(inspect_file(path), as_json, True, False)


def _figures(values: Figures) -> dict[str, Any]:
    plain = {"min": values.minimum, "max": values.maximum, "mean": values.mean, "std": values.std}
    return {
        **{k: None if math.isnan(v) else v for k, v in plain.items()},
        "zeros": values.zero_share,
        "nan": values.nans,
        "inf": values.infinities,
    }


def record(stored: Stored, stats: bool = False) -> dict[str, Any]:
    """Everything of a file as plain JSON values."""
    from torchdeck.core.checkpoints.tensors import tensor_figures

    tensors: dict[str, Any] = {}
    for t in stored.tensors:
        tensors[t.name] = {"shape": list(t.shape), "dtype": t.dtype, "bytes": t.nbytes}
        if stats and t.offset is not None:
            tensors[t.name] |= _figures(tensor_figures(t))
    return {
        "path": str(stored.path),
        "format": stored.format,
        "bytes": stored.size,
        "safe": stored.safe,
        "calls": list(stored.calls),
        "dangerous": list(stored.dangerous),
        "weights": stored.weights_key,
        "contents": dict(stored.contents),
        "numbers": stored.numel,
        "tensors": tensors,
    }


def _show(stored: Stored, as_json: bool, everything: bool, stats: bool) -> int:
    if as_json:
        print_json(record(stored, stats))
        return 0
    from torchdeck.core.checkpoints.tensors import tensor_figures
    from torchdeck.tui.columns import size
    from torchdeck.tui.tensor_tree import contents_words, folded, shape_words, tensor_tree

    counts = f"{count(len(stored.tensors), 'tensor')}, {stored.numel:,} numbers"
    print_line(f"{stored.path}: {stored.format}, {size(stored.size)}, {counts}")
    warn(stored)
    for key, words in stored.contents:
        print_line(f"  {key:<22} {words}")
    if stats:
        lines = []
        for t in stored.tensors:
            try:
                f = tensor_figures(t)
            except UserError:
                lines.append([t.name, shape_words(t.shape), t.dtype, *["n/a"] * 7])
                continue
            lines.append(
                [
                    t.name,
                    shape_words(t.shape),
                    t.dtype,
                    *(f"{v:.4g}" for v in (f.minimum, f.maximum, f.mean, f.std)),
                    f"{f.zero_share:.1%}",
                    str(f.nans),
                    str(f.infinities),
                ]
            )
        print_table(
            ["tensor", "shape", "dtype", "min", "max", "mean", "std", "zeros", "NaN", "inf"],
            lines,
            [False, True, False, *[True] * 7],
        )
    else:
        root = tensor_tree(stored.tensors)
        hidden = set() if everything else folded(root)
        lines = []
        for depth, branch in root.walk():
            if depth == 0 or any(branch.path.startswith(f"{path}.") for path in hidden):
                continue
            name = "  " * (depth - 1) + branch.name
            if branch.tensor is not None:
                lines.append([name, shape_words(branch.tensor.shape), branch.tensor.dtype, f"{branch.numel:,}"])
            else:
                lines.append(
                    [
                        f"{name}.",
                        contents_words(branch) if branch.path in hidden else "",
                        "/".join(branch.dtypes),
                        f"{branch.numel:,}",
                    ]
                )
        print_table(["tensor", "shape", "dtype", "numbers"], lines, [False, True, False, True])
    for line in stored.experiment.splitlines():
        print(printable(line))
    return 0


def warn(stored: Stored) -> None:
    """Say what a file would call, when it would."""
    if stored.safe:
        return
    what = "DANGER: when unpickled, it would run" if stored.dangerous else "unpickling it would also call"
    print_line(f"  {what} {'; '.join(stored.calls[:6])}{' ...' if len(stored.calls) > 6 else ''} (nothing was run)")


def _one(stored: Stored, name: str, as_json: bool) -> int:
    from torchdeck.core.checkpoints.tensors import tensor_figures
    from torchdeck.core.errors import did_you_mean
    from torchdeck.tui.drawing.bars import bar
    from torchdeck.tui.tensor_tree import shape_words

    tensor = next((t for t in stored.tensors if t.name == name), None)
    if tensor is None:
        raise UserError(
            f"{str(stored.path)!r} has no tensor {name!r}; {did_you_mean(name, [t.name for t in stored.tensors])}"
        )
    values = tensor_figures(tensor)
    if as_json:
        print_json(
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                **_figures(values),
                "histogram": list(values.histogram),
            }
        )
        return 0
    print(f"{printable(name)}  {shape_words(tensor.shape)}  {tensor.dtype}")
    for key, value in _figures(values).items():
        print(f"  {key:<6}{value:.6g}" if isinstance(value, int | float) else f"  {key:<6}-")
    most = max(values.histogram, default=0)
    for number, amount in enumerate(values.histogram):
        edge = values.minimum + (values.maximum - values.minimum) * number / len(values.histogram)
        print(f"  {edge:>11.4g} {bar(amount / most if most else 0, 50)} {amount:,}")
    return 0


def _open_whole(stored: Stored, yes: bool) -> int:
    """Unpickle a model for real, once the user has agreed to run what is in the file."""
    warn(stored)
    named = f": {', '.join(stored.calls[:4])}" if stored.calls else ""
    if not confirmed(f"Opening {str(stored.path)!r} RUNS what its author put into it{named}. Open it?", yes):
        raise UserError(f"{str(stored.path)!r} was not opened; nothing in it was run.")
    import torch

    try:
        print(torch.load(stored.path, map_location="cpu", weights_only=False))
    except Exception as error:
        raise UserError(
            f"{str(stored.path)!r} can't be opened: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}."
        ) from None
    return 0


def _fits(stored: Stored, options: argparse.Namespace) -> int:
    from torchdeck.core.checkpoints.load import refuse_dangerous
    from torchdeck.tui.tensor_tree import shape_words

    matches = _matches(stored, options)
    if options.json:
        print_json({"fits": matches.fits, "summary": matches.sentence(), "tensors": [vars(m) for m in matches.all]})
        return 0
    refuse_dangerous(stored)
    if matches.fits:
        verdict = "it fits"
    elif matches.of("loads"):
        verdict = "it fits in part (model.partial = true)"
    else:
        verdict = "it does not fit"
    print(f"{matches.sentence()}: {verdict}")
    print_table(
        ["model", "shape", "verdict", "file", "shape"],
        [
            [m.name or "-", shape_words(m.shape), m.verdict, m.stored or "-", shape_words(m.stored_shape)]
            for m in matches.all
        ],
    )
    return 0


def _matches(stored: Stored, options: argparse.Namespace) -> Matches:
    from torchdeck.core.checkpoints.compare import match

    shapes, where = _model_shapes(options)
    return match(shapes, {t.name: t.shape for t in stored.weights()}, where)


def _model_shapes(options: argparse.Namespace) -> tuple[dict[str, tuple[int, ...]], dict[str, Hashable]]:
    """Names and shapes of a model, and where its tensors lie in memory (tied ones in one place): of a run from its
    checkpoint, else built for the experiment's data."""
    from torchdeck.core.checkpoints.archive import inspect_file
    from torchdeck.core.checkpoints.names import choose_checkpoint
    from torchdeck.core.experiment import toml

    if options.fits not in toml.presets() and not options.fits.endswith(".toml") and not options.overrides:
        found = inspect_file(choose_checkpoint(find_any(options.fits, runs_roots(options)), "last")).weights()
        return {t.name: t.shape for t in found}, {t.name: (t.offset, t.shape, t.stride) for t in found}
    experiment = toml.load(options.fits, options.overrides)
    import torch

    from torchdeck.core.models.weights import places
    from torchdeck.core.training.fitting import data_and_model

    bare = experiment.model_copy(update={"model": experiment.model.model_copy(update={"weights": None})})
    _, data, net = data_and_model(bare, torch.device("cpu"), lambda text: None)
    data.close()
    state = net.state_dict()
    return {name: tuple(t.shape) for name, t in state.items()}, places(state)


def tell_wrapped(*stored: Stored) -> None:
    """Say on stderr where a wrapper's prefix was taken off the names of weights."""
    for one in stored:
        if one.wrapped:
            print(f"{printable(str(one.path))}: the prefix {one.wrapped!r} is removed from every name", file=sys.stderr)


# --- average, prune --------------------------------------------------------------------------------------------------


def average_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck average``."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="files of weights of one model")
    add_runs(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="a .pth or .safetensors file")


def average(options: argparse.Namespace) -> int:
    """Write the mean of several checkpoints' weights."""
    from torchdeck.core.checkpoints.archive import inspect_file
    from torchdeck.core.checkpoints.load import average_weights as mean
    from torchdeck.core.checkpoints.save import save_weights
    from torchdeck.tui.columns import size

    paths = [file_of(text, options) for text in options.file]
    output = Path(options.output).expanduser()
    save_weights(mean(paths), output)
    tell_wrapped(*(inspect_file(path) for path in paths))
    print_line(f"{output} ({size(output.stat().st_size)}): the mean of {count(len(paths), 'file')}")
    return 0


def prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck prune``."""
    parser.add_argument("run", nargs="*", metavar="RUN", help="runs (default: all)")
    add_runs(parser)
    parser.add_argument(
        "--keep-best",
        type=int,
        default=3,
        metavar="N",
        help="generations to keep in each run, beside the newest and best.pt (default: 3)",
    )
    parser.add_argument(
        "-y", "--yes", action="store_true", help="delete; without it only what would be deleted is shown"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def prune(options: argparse.Namespace) -> int:
    """Show which checkpoints could go and what that would free; delete them with --yes."""
    from torchdeck.core.runs.listing import RunList
    from torchdeck.core.runs.prune import carry_out, plan
    from torchdeck.tui.columns import size

    if options.keep_best < 0:
        raise UserError(f"--keep-best {options.keep_best} is out of range; it must be at least 0.")
    if options.run:
        paths = [find_any(name, runs_roots(options)) for name in options.run]
    else:
        paths = [row.path for row in RunList(runs_roots(options)).scan() if not row.foreign]
    plans = [plan(path, options.keep_best) for path in paths]
    doomed = [p for p in plans if p.deleted]
    if options.json:
        print_json(
            [
                {"run": str(p.run), "deleted": [str(d) for d in p.deleted], "freed": p.freed, "reason": p.reason}
                for p in plans
            ]
        )
    elif doomed:
        print_table(
            ["run", "kept", "deleted", "frees"],
            [[p.run.name, str(len(p.kept)), " ".join(d.name for d in p.deleted), size(p.freed)] for p in doomed],
            [False, True, False, True],
        )
    total = sum(p.freed for p in doomed)
    if not options.yes:
        if not options.json:
            print(
                f"{count(sum(len(p.deleted) for p in doomed), 'file')} can be deleted, which frees {size(total)}"
                + ("; --yes deletes them" if doomed else "")
            )
        return 0
    freed = carry_out(doomed)
    if not options.json:
        print(f"{size(freed)} freed")
    return 0
