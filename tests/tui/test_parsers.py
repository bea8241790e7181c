"""What help and man page say of the command line is true of its parsers."""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import ROOT

from torchdeck.tui import man, parsers

EXAMPLES = [*parsers.EXAMPLES, *(line for verb in parsers.VERBS.values() for line in verb.examples)]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_the_help_is_a_command(line: str) -> None:
    inner = re.search(r"\$\((.*)\)", line)
    program, *words = shlex.split(inner.group(1) if inner else line, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    assert program == "torchdeck"
    verb, rest = parsers.divided(words)
    parser = parsers.main_parser() if verb is None else parsers.verb_parser(verb)
    parser.parse_args(rest)


def test_every_verb_has_examples_of_its_own_in_its_help() -> None:
    for name, verb in parsers.VERBS.items():
        parser = parsers.verb_parser(name)
        for one in parsers.inner_parsers(parser).values() or [parser]:
            shown = one.format_help().partition("example")[2]
            assert one.prog in shown
        assert verb.examples
        assert callable(parsers.command_of(name))


def test_the_main_help_has_the_verbs_in_their_groups() -> None:
    help = parsers.main_parser().format_help()
    for title, group in parsers.GROUPS.items():
        block = help.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[1] for line in block.splitlines()] == list(group)


def test_the_man_page_is_that_of_the_parsers() -> None:
    written = (ROOT / "docs" / "torchdeck.1").read_text(encoding="utf-8")
    assert written == man.page(), "the command line has changed; write its man page anew: make man"
    for name in parsers.VERBS:
        assert f".SS torchdeck {name} " in written
    assert not re.search(r"^['.](?![A-Za-z])", written, re.MULTILINE)  # no line of text that roff takes for a macro
