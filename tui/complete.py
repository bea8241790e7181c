"""What a word of the command line may become: verbs, flags, presets, files, runs, keys and values of ``--set``.

The parsers know it all: what an argument takes is told by its choices, else by its metavar, which the help shows, too.
No torch is imported, and nothing of the user's is run.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torchdeck.core.errors import UserError
from torchdeck.tui import parsers
from torchdeck.tui.commands.shared import runs_roots


class Completion(NamedTuple):
    """A whole word that could stand in the place of what is typed."""

    text: str
    help: str = ""
    #: Whether the word goes on after it, so that no space follows.
    open: bool = False


class _Given:
    """What the words before the one that is typed say."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser
        #: Values by the name of their argument.
        self.values: dict[str, list[str]] = {}
        #: The argument that the next word belongs to; None: only options may follow.
        self.takes: argparse.Action | None = None
        #: Whether it is an option's value that comes next, and nothing else.
        self.owed = False

    def last(self, name: str) -> str | None:
        """The value that was given last."""
        return self.values.get(name, [None])[-1]

    def roots(self) -> list[Path]:
        """The roots of runs."""
        return runs_roots(argparse.Namespace(runs=self.values.get("runs")))


def candidates(before: Sequence[str], word: str) -> list[Completion]:
    """What ``word`` may become after the words of ``before`` (without ``torchdeck`` itself)."""
    verb, rest = parsers.divided(before)
    given = _read(parsers.main_parser() if verb is None else parsers.verb_parser(verb), rest)
    # What could not be typed (a line feed in a file's name) can't be told to a shell, either.
    found = [one for one in _possible(given, word) if one.text.startswith(word) and one.text.isprintable()]
    if not before and not word.startswith("-"):
        verbs = [Completion(name, v.summary) for name, v in parsers.VERBS.items() if name.startswith(word)]
        found = verbs + [one for one in found if one.text.removesuffix("/") not in parsers.VERBS]
    return list({one.text: one for one in found}.values())


def _possible(given: _Given, word: str) -> Iterator[Completion]:
    options = given.parser._option_string_actions
    name, sign, value = word.partition("=")
    if given.owed and given.takes is not None:
        yield from _values(given.takes, given, word)
    elif sign and name in options:
        for one in _values(options[name], given, value):
            yield one._replace(text=f"{name}={one.text}")
    elif word.startswith("-"):
        for text, action in options.items():
            yield Completion(text, _help(action))
    elif given.takes is not None:
        yield from _values(given.takes, given, word)


def _help(action: argparse.Action) -> str:
    return "" if action.help in (None, argparse.SUPPRESS) else str(action.help)


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _read(parser: argparse.ArgumentParser, words: Sequence[str]) -> _Given:
    """Which argument each word belongs to, as argparse has it, but for words that are wrong or still missing."""
    given = _Given(parser)
    places = [a for a in parser._actions if not a.option_strings]
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word != "-":
            name, sign, value = word.partition("=")
            action = parser._option_string_actions.get(name)
            if action is None or not (sign or _takes_value(action)):
                continue
            if not sign and not rest:
                given.takes, given.owed = action, True
                return given
            given.values.setdefault(action.dest, []).append(value if sign else rest.pop(0))
        elif places:
            action = places[0]
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                return _read(action.choices[word], rest)
            given.values.setdefault(action.dest, []).append(word)
            if action.nargs not in ("*", "+"):
                places.pop(0)
    given.takes = places[0] if places else None
    return given


def _values(action: argparse.Action, given: _Given, word: str) -> Iterator[Completion]:
    if isinstance(action, argparse._SubParsersAction):
        for part in action._choices_actions:
            yield Completion(part.dest, _help(part))
    elif action.choices is not None:
        for choice in action.choices:
            yield Completion(str(choice))
    else:
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest
        for kind in [metavar] if metavar in _KINDS else metavar.split("|"):
            if kind in _KINDS:
                yield from _KINDS[kind](given, word)
            elif kind.islower() and kind != action.dest:  # a word of the choice best|last|FILE
                yield Completion(kind)


# --- what there is ---------------------------------------------------------------------------------------------------


def _files(given: _Given, word: str, *endings: str) -> Iterator[Completion]:
    """Files with one of the endings (any without) and folders; hidden ones only where a dot was typed."""
    head, slash, name = word.rpartition("/")
    try:
        entries = sorted(Path(head + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # it is not there, or ~somebody is nobody
        return
    for entry in entries:
        if not entry.name.startswith(name) or (entry.name.startswith(".") and not name.startswith(".")):
            continue
        text = f"{head}{slash}{entry.name}"
        if entry.is_dir():
            yield Completion(f"{text}/", open=True)
        elif not endings or entry.name.endswith(endings):
            yield Completion(text)


def _folders(given: _Given, word: str) -> Iterator[Completion]:
    return (one for one in _files(given, word) if one.open)


def _runs(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.core.runs.directory import run_names

    if "/" in word:
        yield from _folders(given, word)
        return
    for root in given.roots():
        yield from (Completion(name) for name in sorted(run_names(root), reverse=True))


def _studies(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.core.search.folders import folders

    if "/" in word:
        yield from _folders(given, word)
        return
    for root in given.roots():
        yield from (Completion(folder.name) for folder in folders(root))


def _trashed(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.core.runs.trash import contents

    for root in given.roots():
        yield from (Completion(one.origin.name) for one in contents(root))


def _pictures(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.tui.commands.study_plot import NAMES

    yield from (Completion(name) for name in NAMES)


def _experiments(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.core.experiment import toml

    yield from (Completion(name, "preset") for name in toml.presets())
    yield from _files(given, word, ".toml")


def _kinds(given: _Given, word: str) -> Iterator[Completion]:
    from torchdeck.core import catalog

    yield from (Completion(kind) for kind in (*catalog.KINDS, "preset"))


def _names(given: _Given, word: str) -> Iterator[Completion]:
    """The entries of the kind that was named (torchdeck catalog KIND NAME)."""
    from torchdeck.core import catalog
    from torchdeck.core.experiment import toml

    kind = given.last("kind")
    if kind == "preset":
        yield from (Completion(name) for name in toml.presets())
    elif kind in catalog.KINDS:
        yield from (Completion(entry.name, entry.summary) for entry in catalog.entries(kind))


def _data(given: _Given, word: str) -> Iterator[Completion]:
    return _picks("data", word)


def _picks(kind: str, word: str) -> Iterator[Completion]:
    """Names of the catalog, and what a Python file has: ``net.py:MyNet``."""
    from torchdeck.core import catalog
    from torchdeck.core.usercode.scan import scan

    file, colon, _ = word.partition(":")
    if colon and file.endswith(".py"):
        with contextlib.suppress(UserError):  # it is no Python that can be read, and so has nothing to offer
            yield from (Completion(f"{file}:{one.name}", one.summary) for one in scan(Path(file).expanduser()))
        return
    yield from (Completion(entry.name, entry.summary) for entry in catalog.entries(kind))
    for one in _files(_Given(argparse.ArgumentParser()), word, ".py"):
        yield one if one.open else Completion(f"{one.text}:", open=True)


def _devices(given: _Given, word: str) -> Iterator[Completion]:
    yield from (Completion(name) for name in ("auto", "cuda", "mps", "cpu"))


def _settings(given: _Given, word: str) -> Iterator[Completion]:
    """Keys of the experiment that the words before name, each with ``=``; behind that its values."""
    from torchdeck.core.experiment.fields import fields
    from torchdeck.core.experiment.space_check import FIXED

    known = list(fields(_tables(given)))
    key, sign, text = word.partition("=")
    if not sign:
        for item in known:
            yield Completion(f"{item.key}=", item.help, open=True)
            if word.startswith("search.space.") and item.path[0] not in FIXED:
                yield Completion(f"search.space.{item.key}=", item.help, open=True)
        return
    for item in known:
        if item.key != key:
            continue
        if item.kind == "pick":
            found: Iterable[Completion] = _picks(item.path[0], text)
        elif item.choices:
            found = map(Completion, item.choices)
        elif item.path[-1] in ("root", "weights", "path", "test_path"):
            found = _files(given, text)
        else:
            found = ()
        yield from (one._replace(text=f"{key}={one.text}") for one in found)


def _tables(given: _Given) -> dict[str, object]:
    """The experiment so far, as raw tables: its model's parameters are those that can be set."""
    from torchdeck.core.experiment import toml
    from torchdeck.core.runs.directory import find_run

    overrides = given.values.get("overrides", [])
    source, run = given.last("experiment") or given.last("fits"), given.last("resume")
    with contextlib.suppress(UserError):  # half-typed words are wrong, and the keys are there all the same
        if run:
            source = str(find_run(run, given.roots()[0]) / "experiment.toml")
        return toml.tables(toml.base_of(source, overrides), overrides)
    return {}


#: What completes an argument, by its metavar (or a part of it between |), else by its name.
_KINDS: dict[str, Callable[[_Given, str], Iterator[Completion]]] = {
    "RUN": _runs,
    "TRASHED RUN": _trashed,
    "STUDY": _studies,
    "PICTURE": _pictures,
    "FILE": _files,
    "CHECKPOINT": _files,
    "INPUT": _files,
    "DIR ...": _folders,
    "EXPERIMENT": _experiments,
    "experiment": _experiments,
    "KEY.PATH=VALUE": _settings,
    "DATA": _data,
    "DEVICE": _devices,
    "kind": _kinds,
    "name": _names,
}


# --- the shells ------------------------------------------------------------------------------------------------------

_END = "\x00"
#: What a shell leaves as it is in a word that is not quoted.
_SPECIAL = re.compile(r"([^\w@%+=:,./~-])")


def _split(line: str) -> tuple[list[str], str, str]:
    """The words of a line that is being typed, the last one, and the quote that is open in it."""
    for quote in ("", "'"):
        with contextlib.suppress(ValueError):  # no closing quotation
            *before, last = shlex.split(line + _END + quote)
            return before, last.removesuffix(_END), quote
    *before, last = shlex.split(f'{line}{_END}"')
    return before, last.removesuffix(_END), '"'


def in_bash(line: str, breaks: str) -> list[str]:
    """What bash puts in the place of the last word of ``line``.

    Bash takes a word for ended at ``breaks`` (its COMP_WORDBREAKS, which has = and :) and inside quotes at the quote,
    and replaces only what stands behind: that much is left out in front.
    """
    before, word, quote = _split(line)
    while before and re.match(r"\w+=", before[0]):
        before.pop(0)  # X=1 torchdeck ...
    pattern = re.escape(quote) if quote else rf"(?<!\\)[{re.escape(breaks)}\s]"
    typed = re.split(pattern, line)[-1]
    kept = len(word) - len(re.sub(r"\\(.?)", r"\1", typed))
    found = []
    for one in candidates(before[1:], word):
        space = "" if one.open or quote else " "
        found.append(_quoted(one.text[kept:], quote) + space)
    return found


def _quoted(text: str, quote: str) -> str:
    """A text as bash takes it for itself in an open quote, or in none: a name from elsewhere must run nothing."""
    if quote == "'":
        return text.replace("'", r"'\''")
    if quote == '"':
        return re.sub(r'([$`"\\])', r"\\\1", text).replace("!", "\"'!'\"")
    return _SPECIAL.sub(r"\\\1", text)


def answer(words: Sequence[str]) -> int:
    """``torchdeck __complete SHELL ...``: print what the last word may become, a line each.

    bash: LINE BREAKS, the line up to the cursor and COMP_WORDBREAKS; fish and zsh: the words after the command, the
    last one as far as it is typed (in fish with the quote that is open). A tab stands before a description; zsh is
    told by a first letter whether a space follows.
    """
    shell, *rest = words or [""]
    if shell not in ("bash", "fish", "zsh") or not rest or (shell == "bash" and len(rest) != 2):
        raise UserError(f"{parsers.COMPLETE} is for the scripts of torchdeck completion; print one anew.")
    if shell == "bash":
        lines = in_bash(*rest)
    else:
        word = _split(rest[-1])[1] if shell == "fish" else rest[-1]
        found = candidates(rest[:-1], word)
        lines = [f"{one.text}\t{' '.join(one.help.split())}" for one in found]
        if shell == "zsh":
            lines = [f"{'o' if one.open else 'w'}{line}" for one, line in zip(found, lines, strict=True)]
    print("\n".join(lines))
    return 0
