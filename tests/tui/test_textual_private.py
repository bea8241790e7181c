"""The private names of Textual that the workbench builds on. Its version is pinned to the minor one for their sake;
when the pin is moved, this tells which of them are gone, before a screen breaks in somebody's hands."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import textual
from conftest import ROOT
from textual._compositor import ChopsUpdate
from textual.app import App
from textual.drivers import linux_driver, web_driver
from textual.screen import Screen
from textual.widgets import Input, Tree

#: Private names, whose they are, and where the workbench uses them.
USED: dict[str, tuple[type, str]] = {
    "_close_messages_no_wait": (App, "tui/app.py: the way out after a failure"),
    "_display": (App, "tui/app.py: what is sent to the terminal"),
    "_driver": (App, "tui/app.py: the terminal's title"),
    "_fatal_error": (App, "tui/app.py: a failure is kept in a file"),
    "_merge_bindings": (App, "tui/app.py: help and palette"),
    "_modal_binding_chain": (Screen, "tui/app.py: help"),
    "_tree_lines": (Tree, "tui/widgets/form.py and model_tree.py: where a line of the tree is"),
    "_value": (Input, "tui/widgets/text_input.py: characters that no terminal shows"),
}
#: Private names of argparse and of named tuples, which have nothing to do with Textual.
OTHERS = {
    "_actions",
    "_choices_actions",
    "_option_string_actions",
    "_replace",
    "_HelpAction",
    "_SubParsersAction",
}


def test_the_private_names_are_there() -> None:
    made: App[None] = App()  # some are made with the object
    there = {cls: {*dir(cls), *(dir(made) if cls is App else ())} for cls, _ in USED.values()}
    gone = [f"{cls.__name__}.{name} ({why})" for name, (cls, why) in USED.items() if name not in there[cls]]
    assert not gone, f"Textual {textual.__version__} has no more: {'; '.join(gone)}"
    assert list(inspect.signature(ChopsUpdate).parameters) == ["chops", "spans", "chop_ends"], "see tui/span_updates.py"
    for driver in (linux_driver, web_driver):
        assert hasattr(driver, "getincrementaldecoder"), f"{driver.__name__}: see tui/keyboard.py"


def test_no_other_private_name_is_used() -> None:
    own, used = set[str](), set[str]()
    for path in (*(ROOT / "tui").rglob("*.py"), *(ROOT / "core").rglob("*.py")):
        made, touched = _names(path)
        own |= made
        if path.is_relative_to(ROOT / "tui"):
            used |= touched
    unknown = used - own - set(USED) - OTHERS
    assert not unknown, f"private names of another package are used that this test does not know of: {sorted(unknown)}"
    assert set(USED) <= used | own


def _names(path: Path) -> tuple[set[str], set[str]]:
    """The names that a file makes, and the private attributes that it touches."""
    made, touched = set[str](), set[str]()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            (made if isinstance(node.ctx, ast.Store) else touched).add(node.attr)
    return made, touched
