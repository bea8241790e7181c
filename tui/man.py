"""The man page, made of the parsers: ``python -m torchdeck.tui.man > docs/torchdeck.1`` (``make man``)."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Sequence

from torchdeck import __version__
from torchdeck.tui import parsers

#: When the text of the page last changed its meaning.
_DATE = "2026-11-25"

_ENVIRONMENT = {
    "TORCHDECK_DATA": "a folder in which data sets are looked for, before ./data and ~/.cache/torchdeck/data",
    "XDG_STATE_HOME": "below it is kept what the workbench remembers (default: ~/.local/state)",
    "NO_COLOR": "no colours",
}


def page() -> str:
    """The page in man(7)'s macros."""
    main = parsers.main_parser()
    lines = [
        f'.TH TORCHDECK 1 {_DATE} "torchdeck {__version__}" "User Commands"',
        ".SH NAME",
        f"torchdeck \\- {_text(parsers.DESCRIPTION[0].lower() + parsers.DESCRIPTION[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        *_synopsis(main),
        *(line for name in parsers.VERBS for line in (".br", f"\\fBtorchdeck {name}\\fR ...")),
        ".SH DESCRIPTION",
        "Without a verb and without",
        ".B \\-\\-batch",
        *_wrapped(
            "the workbench opens, in which experiments are chosen, trained, watched and compared. With it, and "
            "with the verbs, the same is done without a screen."
        ),
        ".SH OPTIONS",
        *_arguments(main),
        ".SH VERBS",
    ]
    for title, group in parsers.GROUPS.items():
        for name in group:
            lines += [f".SS torchdeck {name} ({title})", *_verb(parsers.verb_parser(name))]
    lines += [".SH ENVIRONMENT"]
    for name, meaning in _ENVIRONMENT.items():
        lines += [".TP", f".B {name}", *_wrapped(_sentence(meaning))]
    lines += [".SH EXIT STATUS AND SIGNALS", *_as_it_is(parsers.EXIT_CODES.splitlines())]
    lines += [".SH EXAMPLES", *_as_it_is(parsers.EXAMPLES)]
    return "\n".join(lines) + "\n"


def _verb(parser: argparse.ArgumentParser) -> Iterator[str]:
    examples = parsers.VERBS[parser.prog.split()[1]].examples
    inner = parsers.inner_parsers(parser)
    yield from _wrapped(_sentence(str(parser.description)))
    for one in inner.values() or [parser]:
        yield ".PP"
        yield from _synopsis(one)
        if inner:
            yield ".PP"
            yield from _wrapped(_sentence(str(one.description)))
        yield from _arguments(one)
        yield ".PP"
        yield from _as_it_is([line for line in examples if not inner or line.startswith(one.prog)])


def _synopsis(parser: argparse.ArgumentParser) -> list[str]:
    parts = [f"\\fB{_text(parser.prog)}\\fR"]
    options = [a for a in parser._actions if a.option_strings]
    for action in [*options, *(a for a in parser._actions if not a.option_strings)]:
        if isinstance(action, argparse._HelpAction):
            continue
        value = _value(action)
        if action.option_strings:
            text = f"\\fB{_text(action.option_strings[-1])}\\fR{' ' if value else ''}{value}"
            parts.append(text if action.required else f"[{text}]")
        else:
            several = {"*": f"[{value} ...]", "+": f"{value} [{value} ...]", "?": f"[{value}]"}
            parts.append(several.get(str(action.nargs), value))
    return [" ".join(parts)]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = _value(action)
        named = ", ".join(f"\\fB{_text(text)}\\fR" for text in action.option_strings)
        yield ".TP"
        yield f"{named} {value}".strip()
        yield from _wrapped(_sentence(str(action.help)))


def _value(action: argparse.Action) -> str:
    """What stands for the argument's value; nothing where it takes none."""
    if action.nargs == 0:
        return ""
    if action.metavar is None and action.choices is not None:
        return "{" + ",".join(_text(str(choice)) for choice in action.choices) + "}"
    default = action.dest.upper() if action.option_strings else action.dest
    return f"\\fI{_text(str(action.metavar or default))}\\fR"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "...")) else f"{text}."


def _wrapped(text: str) -> list[str]:
    lines = textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False)
    return [_text(line) for line in lines]


def _as_it_is(lines: Sequence[str]) -> Iterator[str]:
    yield ".EX"
    yield from (_text(line) for line in lines)
    yield ".EE"


def _text(text: str) -> str:
    """Text in which nothing is taken for a command of roff; a - is the one that is typed."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    escaped = escaped.replace("~", "\\(ti").replace("^", "\\(ha").replace('"', "\\(dq")
    return re.sub(r"^(?=[.'])", r"\\&", escaped)


if __name__ == "__main__":
    print(page(), end="")
