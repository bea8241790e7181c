"""The command line as data: its verbs, and the parser of each. Help, completion and man page are made of these."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torchdeck import __version__
from torchdeck.tui.commands import search
from torchdeck.tui.commands.shared import add_overrides, add_runs, with_roots_apart

DESCRIPTION = "The terminal workbench for people who train PyTorch models."

EXIT_CODES = """exit codes:
  0 done   1 the training failed   2 the input is wrong   130 stopped by Ctrl-C   143 stopped by SIGTERM

signals (--batch):
  SIGINT   checkpoint, stop; twice: at once      SIGTERM  checkpoint, stop
  SIGUSR1  checkpoint, continue                  SIGHUP   continue without the terminal"""

#: The hidden verb that the completion scripts ask.
COMPLETE = "__complete"

#: Examples of ``torchdeck`` without a verb.
EXAMPLES = (
    "torchdeck",
    "torchdeck --batch fashion-cnn --set trainer.epochs=3",
    "torchdeck my.toml --dry-run",
    "torchdeck --batch --set model.name=net.py:MyNet --set data.name=data.py:MyDataset",
    "torchdeck --batch --resume 20261124-1052",
    "torchdeck --batch my.toml --trials 100 --workers 4",
)


class Verb(NamedTuple):  # a dataclass would cost as much time as all the rest of --help
    """A verb: ``NAME_arguments(parser)`` and ``NAME(options) -> exit code`` in a module of
    ``torchdeck.tui.commands``."""

    module: str
    summary: str
    #: Each is parsed by a test.
    examples: tuple[str, ...]


#: The verbs in the groups that the help shows.
GROUPS: dict[str, dict[str, Verb]] = {
    "runs": {
        "attach": Verb(
            "runs",
            "open the workbench on a run, training or ended",
            ("torchdeck attach", "torchdeck attach 20261124-1052"),
        ),
        "runs": Verb(
            "runs",
            "list, filter and sort runs, also other tools'",
            ("torchdeck runs 'val_acc > 0.9' model:cnn tag:paper", "torchdeck runs --sort val_loss --json"),
        ),
        "show": Verb(
            "runs",
            "show a run or a checkpoint",
            ("torchdeck show 20261124-1052", "torchdeck show runs/20261124-1052/checkpoints/best.pt"),
        ),
        "diff": Verb(
            "diff",
            "what differs between runs, or between two files of weights",
            ("torchdeck diff 20261124-1052 20261124-1107", "torchdeck diff before.pth after.safetensors"),
        ),
        "plot": Verb(
            "runs",
            "draw runs' curves, in the terminal or to a .png or .svg file",
            (
                "torchdeck plot 20261124-1052",
                "torchdeck plot 20261124-1052 20261124-1107 --metric val/loss --log -o curves.svg",
            ),
        ),
        "tensorboard": Verb(
            "runs",
            "start TensorBoard on the runs",
            ("torchdeck tensorboard", "torchdeck tensorboard --runs old-runs --port 6007"),
        ),
        "label": Verb(
            "runs",
            "give runs a title, tags, a note, or archive them",
            (
                "torchdeck label 20261124-1052 --tag paper --note 'table 2'",
                "torchdeck label 20261124-1107 --archive",
            ),
        ),
        "delete": Verb(
            "runs",
            "move runs to the trash",
            ("torchdeck delete 20261124-1052", "torchdeck delete 20261124-1052 20261124-1107 --yes"),
        ),
        "trash": Verb(
            "runs",
            "show the trash, restore a run, or empty it",
            ("torchdeck trash", "torchdeck trash --restore 20261124-1052"),
        ),
    },
    "trained models and files of weights": {
        "evaluate": Verb(
            "trained",
            "evaluate a model on any data set",
            ("torchdeck evaluate 20261124-1052", "torchdeck evaluate best.pt --data photos/ --json"),
        ),
        "predict": Verb(
            "trained",
            "predict for images, folders, tables or stdin",
            ("torchdeck predict 20261124-1052 cat.png photos/", "torchdeck predict 20261124-1052 - --csv"),
        ),
        "finetune": Verb(
            "trained",
            "fine-tune a model on other data",
            (
                "torchdeck finetune 20261124-1052 --data photos/ --freeze 'stages.0.*'",
                "torchdeck finetune best.pt --data photos/ -o finetune.toml",
            ),
        ),
        "export": Verb(
            "trained",
            "write a run's weights or model to a file",
            (
                "torchdeck export 20261124-1052 --format safetensors",
                "torchdeck export 20261124-1052 --format onnx -o net.onnx",
            ),
        ),
        "inspect": Verb(
            "checkpoints",
            "what is in a file of weights, without running it",
            ("torchdeck inspect resnet.ckpt --stats", "torchdeck inspect resnet.safetensors --fits fashion-cnn"),
        ),
        "average": Verb(
            "checkpoints",
            "average the weights of several checkpoints",
            ("torchdeck average first.pt second.pt -o mean.safetensors",),
        ),
        "prune": Verb(
            "checkpoints",
            "show which checkpoints can be deleted and how much that frees, or delete them",
            ("torchdeck prune", "torchdeck prune --keep-best 1 --yes"),
        ),
    },
    "searches": {
        "study": Verb(
            "study",
            "studies: list, show, best, importance, export, plot, stop, prune, enqueue, edit",
            (
                "torchdeck study list",
                "torchdeck study show my-study --sort value",
                "torchdeck study best my-study > best.toml",
                "torchdeck study importance my-study --by ped-anova",
                "torchdeck study export my-study -o trials.csv",
                "torchdeck study plot my-study contour -o contour.svg",
                "torchdeck study stop my-study",
                "torchdeck study prune my-study 12",
                "torchdeck study enqueue my-study optimizer.lr=0.01",
                "torchdeck study edit my-study 'optimizer.lr=1e-4 .. 0.01 log'",
            ),
        ),
        "dashboard": Verb(
            "dashboard",
            "start optuna-dashboard on a study",
            ("torchdeck dashboard my-study", "torchdeck dashboard my-study --port 8081"),
        ),
    },
    "this machine": {
        "catalog": Verb(
            "machine",
            "what can be picked: data, models, optimizers, ...",
            ("torchdeck catalog optimizer", "torchdeck catalog model resnet18", "torchdeck catalog preset fashion-cnn"),
        ),
        "doctor": Verb("machine", "what this machine has: devices, versions, data", ("torchdeck doctor",)),
        "completion": Verb(
            "completion",
            "print a script that completes commands in a shell",
            (
                'eval "$(torchdeck completion bash)"    # in ~/.bashrc',
                'eval "$(torchdeck completion zsh)"     # in ~/.zshrc, after compinit',
                "torchdeck completion fish > ~/.config/fish/completions/torchdeck.fish",
            ),
        ),
    },
}

VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}


def main_parser() -> argparse.ArgumentParser:
    """The parser of ``torchdeck`` without a verb: the workbench, or a training with --batch."""
    parser = _parser("torchdeck", DESCRIPTION)
    parser.add_argument("experiment", nargs="?", help="a preset (torchdeck catalog preset) or a TOML file")
    parser.add_argument("--batch", action="store_true", help="train without the workbench")
    add_overrides(parser, "override one value of the experiment; may be given often")
    add_runs(parser)
    parser.add_argument("--resume", metavar="RUN", help="resume a run: its name, or its directory")
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained, and train nothing")
    search.add_arguments(parser)
    parser.add_argument(
        "--queue", action="store_true", help="train the experiments in the queue below --runs, one after the other"
    )
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal (the workbench)")
    parser.add_argument("--json", action="store_true", help="one JSON object per event on stdout")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    parser.add_argument("--version", action="version", version=f"torchdeck {__version__}")
    groups = "\n\n".join(
        "\n".join([f"{title}:", *(f"  torchdeck {name:<12} {verb.summary}" for name, verb in group.items())])
        for title, group in GROUPS.items()
    )
    parser.epilog = (
        f"without --batch the workbench opens; verbs have a help of their own: torchdeck VERB --help\n\n"
        f"{groups}\n\n{_examples(EXAMPLES)}\n\n{EXIT_CODES}"
    )
    return parser


def verb_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a verb."""
    verb = VERBS[name]
    parser = _parser(f"torchdeck {name}", verb.summary)
    arguments: Callable[[argparse.ArgumentParser], None] = getattr(_module(verb), f"{name}_arguments")
    arguments(parser)
    parser.epilog = _examples(verb.examples)
    for word, inner in inner_parsers(parser).items():
        inner.formatter_class = argparse.RawDescriptionHelpFormatter
        inner.epilog = _examples([line for line in verb.examples if line.startswith(f"torchdeck {name} {word}")])
    return parser


def inner_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a verb's own verbs, such as those of ``torchdeck study``."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def command_of(name: str) -> Callable[[argparse.Namespace], int]:
    """The function that does what a verb says."""
    return getattr(_module(VERBS[name]), name)


def divided(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The verb among the words of a command, or None, and the words that its parser takes."""
    verb = words[0] if words and words[0] in VERBS else None
    rest = list(words[1:] if verb else words)
    # Where a verb takes directories as its own arguments, a second folder after --runs is one of those.
    return verb, with_roots_apart(rest) if verb in (None, "runs", "tensorboard") else rest


def _module(verb: Verb) -> object:
    return importlib.import_module(f"torchdeck.tui.commands.{verb.module}")


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _examples(lines: Sequence[str]) -> str:
    return "\n".join(["examples:" if len(lines) > 1 else "example:", *(f"  {line}" for line in lines)])
