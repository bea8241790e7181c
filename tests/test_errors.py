"""What went wrong is told apart by its class and its field, never by the words of its message."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from torchdeck.core.errors import UserError

#: Where others' messages are read, because they have no class of their own for what happened: one helper for each.
HELPERS = {
    ("core/checkpoints/read.py", "_refused_call"),
    ("core/data/arrays.py", "_refused_to_unpickle"),
    ("core/data/loader.py", "_timed_out"),
    ("core/data/loader.py", "_worker_died"),
    ("core/data/user_parts.py", "_no_such_split"),
    ("core/errors.py", "ran_out_of_memory"),
    ("core/machine/nvidia.py", "nvml_error"),
    ("core/models/tokens.py", "is_beyond"),
    ("core/search/storage.py", "_is_locked"),
    ("core/search/storage.py", "_of_another_version"),
    ("core/training/memory.py", "_asked_for"),
}
#: Methods of str, and functions of re, that look for words.
LOOKS = {
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition", "rpartition"),
    *("removeprefix", "removesuffix", "replace", "split", "rsplit"),
    *("search", "match", "fullmatch", "findall", "finditer", "sub"),
}
MESSAGES = {"message", "note", "failure", "reason", "trouble"}


def _errors(function: ast.AST) -> set[str]:
    """Names of exceptions: caught, or given to a function."""
    found = {n.name for n in ast.walk(function) if isinstance(n, ast.ExceptHandler) and n.name}
    for node in ast.walk(function):
        if isinstance(node, ast.arg) and node.annotation is not None:
            kind = ast.unparse(node.annotation)
            if "Error" in kind or "Exception" in kind:
                found.add(node.arg)
    return found


def _is_message(node: ast.expr, errors: set[str], texts: set[str]) -> bool:
    """Whether an expression is the message of an exception, or what was made of one."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in texts:
            return True
        if isinstance(part, ast.Attribute) and part.attr in MESSAGES | {"args"}:
            owner = part.value
            if part.attr in MESSAGES or (isinstance(owner, ast.Name) and owner.id in errors):
                return True
        if (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Name)
            and part.func.id in ("str", "repr", "first_line")
            and any(isinstance(a, ast.Name) and a.id in errors for a in part.args)
        ):
            return True
        if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id in errors:
            return True
    return False


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _texts(function: ast.AST, errors: set[str]) -> set[str]:
    """Variables that hold a message, or lines of one."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _is_message(node.value, errors, set()):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.comprehension) and _is_message(node.iter, errors, set()):
            found |= {part.id for part in ast.walk(node.target) if isinstance(part, ast.Name)}
    return found


def guesses(function: ast.AST) -> Iterator[int]:
    """The lines of a function that look for words in a message."""
    errors = _errors(function)
    texts = _texts(function, errors)
    for node in ast.walk(function):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            inside = any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
            messages = node.comparators if inside else sides if any(map(_is_text, sides)) else []
            if any(_is_message(side, errors, texts) for side in messages):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            looked_at = (node.func.value, *node.args[1:])
            if node.args and node.func.attr in LOOKS and any(_is_message(part, errors, texts) for part in looked_at):
                yield node.lineno


def _functions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def _files() -> list[Path]:
    public = [path for path in (ROOT / "src" / "torchdeck").glob("*.py")]
    return sorted([*(ROOT / "core").rglob("*.py"), *(ROOT / "tui").rglob("*.py"), *public])


def test_nothing_is_decided_by_the_words_of_a_message() -> None:
    found = []
    for path in _files():
        name = path.relative_to(ROOT).as_posix()
        for function, tree in _functions(path):
            if (name, function) not in HELPERS:
                found += [f"{name}:{line} in {function}" for line in guesses(tree)]
    assert not found


@pytest.mark.parametrize("helper", sorted(HELPERS), ids="/".join)
def test_each_helper_that_reads_others_messages_is_needed(helper: tuple[str, str]) -> None:
    functions = dict(_functions(ROOT / helper[0]))
    assert list(guesses(functions[helper[1]]))
    assert ast.get_docstring(functions[helper[1]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        "if 'go on with' in str(error): pass",
        "if not str(error).startswith('data'): pass",
        "text = str(error)\n        if 'worker' in text: pass",
        "mine = [line for line in str(error).splitlines() if key in line]",
        "first = first_line(error)\n        if first.partition(' ')[0] == 'data': pass",
        "if error.args[0] == 'no memory': pass",
        "if re.search('a|b', str(error)): pass",
        "if session.failure.message.startswith('Out of memory'): pass",
    ],
)
def test_a_guess_is_found(line: str) -> None:
    tree = ast.parse(f"def f():\n    try:\n        work()\n    except ValueError as error:\n        {line}\n")
    assert list(guesses(tree))


@pytest.mark.parametrize(
    "line",
    [
        "say(f'{error} is wrong')",
        "text = str(error).splitlines()[0]",
        "if error.field == 'data.name': pass",
        "if isinstance(error, UserError): pass",
    ],
)
def test_telling_a_message_is_no_guess(line: str) -> None:
    tree = ast.parse(f"def f():\n    try:\n        work()\n    except ValueError as error:\n        {line}\n")
    assert not list(guesses(tree))


def test_an_error_is_about_its_field_and_what_it_lies_in() -> None:
    error = UserError(
        "data.transforms[0].size = 0 is out of range.", field="data.transforms[0].size", also=("model.name",)
    )
    assert error.about("data.transforms") and error.about("data") and error.about("model.name")
    assert not error.about("data.trans") and not error.about("data.transforms[0].size.x")
    assert not UserError("There is no file 'data.csv'.").about("data")


def test_an_error_of_several_values_is_about_each_field() -> None:
    first, second = UserError("a.b is wrong.", field="a.b"), UserError("c.d is wrong.", field="c.d")
    error = UserError("2 wrong values", errors=[first, second])
    assert error.each == (first, second) and error.about("a.b") and error.about("c")
    assert first.each == (first,) and not first.about("c.d")


def test_what_an_error_is_about_survives_a_process() -> None:
    error = pickle.loads(pickle.dumps(UserError("a", field="b.c", also=["d.e"])))
    assert (str(error), error.field, error.also) == ("a", "b.c", ("d.e",))
