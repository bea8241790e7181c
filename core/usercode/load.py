"""The user's own nn.Module, Dataset, loss, metric or transform: from a file or a module, without glue.

It is loaded as ``python net.py`` would load it: the folder of the file, or of the package that it belongs to, stands
in front on ``sys.path``. So everything works in it that works in Python, and what is pickled of it can be loaded
without us.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torchdeck.core.errors import UserError, did_you_mean, first_line
from torchdeck.core.usercode import objects, writer
from torchdeck.core.usercode.imports import imports_of, module_file, module_of
from torchdeck.core.usercode.tracebacks import is_installed, is_users, user_errors


class NameTaken(UserError):
    """Another project's module of the same name is loaded in this process; a fresh one could load either."""


def load(reference: str, where: str) -> Any:
    """The object that ``path/to/file.py:Name`` or ``pkg.module:Name`` points to; ``Name`` may be dotted.

    A module is looked for in the current folder, then among the installed ones; ``object:Name`` is an object that
    Python gave.

    Raises UserError when there is no such file, module, name or object, or when Python has another module of that name
    (NameTaken where that is another project's), UserCodeError when importing it raises.
    """
    if objects.is_object(reference):
        return objects.find_object(reference, where)
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UserError(
            f"{where} = {reference!r} is not of the form path/to/file.py:Name or pkg.module:Name.", field=where
        )
    is_file = place.endswith(".py") or "/" in place
    module = (
        _load_file(place, f"{where} = {reference!r}") if is_file else _load_module(place, f"{where} = {reference!r}")
    )
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = _names_of(module)
            raise UserError(
                f"{where} = {reference!r}: {place} has no {name!r}; {did_you_mean(name, names)}", field=where
            )
        found = getattr(found, part)
    return found


def _names_of(module: ModuleType) -> list[str]:
    """What a module has to offer: what is defined in it, or below it, before what it only imports."""
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = [n for n, v in found.items() if str(getattr(v, "__module__", "")).startswith(module.__name__)]
    return own or list(found)


def _load_file(place: str, told: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{told}: there is no file {str(path)!r}.")
    root, name = module_of(path)
    if any("." in part for part in path.with_suffix("").relative_to(root).parts):
        raise UserError(f"{told}: Python can't import a file with a dot in its name; rename {path.name!r}.")
    _join(root, name, told)
    _check_is_theirs(name, path, told)
    with user_errors(), own_arguments(str(path)):
        return importlib.import_module(name)


def _load_module(name: str, told: str) -> ModuleType:
    root = Path.cwd()
    place = module_file(root, name)
    if place is not None or root.joinpath(*name.split(".")[:1]).is_dir():
        _join(root, name, told)
    if place is not None:
        _check_is_theirs(name, place.resolve(), told)
    importlib.invalidate_caches()
    with user_errors(), own_arguments(name):
        try:
            known = importlib.util.find_spec(name) is not None
        except (ModuleNotFoundError, ValueError) as error:
            if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{error.name}."):
                raise  # something that its package imports
            known = False
        if known:
            return importlib.import_module(name)
    raise UserError(f"{told}: there is no module {name!r} in {str(root)!r} or among the installed packages.")


#: The projects' folders that were put in front on ``sys.path``.
_roots: set[Path] = set()

#: Folders from which runs were started that are used from another one.
_started_in: list[Path] = []


def look_from(folder: Path) -> None:
    """From now on, modules are looked for from this folder as from the current one."""
    if folder not in _started_in:
        _started_in.append(folder)


def _join(root: Path, name: str, told: str) -> None:
    """Put a project's folder in front on ``sys.path``, and behind Python's own modules the folders above it, up to the
    current one or that of the run, from which people start it, too. A current folder elsewhere comes last.

    Raises UserError for a second project with a module of the same name.
    """
    _check_names_free(root, name, told)
    _roots.add(root)
    starts = [Path.cwd(), *_started_in]
    above = [str(folder) for folder in root.parents if any(folder.is_relative_to(start) for start in starts)]
    last = [str(start) for start in starts if not root.is_relative_to(start)]
    if sys.path[:1] != [str(root)]:
        sys.path[:] = [str(root), *(folder for folder in sys.path if folder != str(root))]
    installed = next((i for i, folder in enumerate(sys.path) if is_installed(folder)), len(sys.path))
    sys.path[installed:installed] = [folder for folder in above if folder not in sys.path]
    sys.path.extend(folder for folder in last if folder not in sys.path)
    importlib.invalidate_caches()


def _check_names_free(root: Path, loading: str, told: str) -> None:
    """Refuse a module that may import one of a name which another project's bears in this process: Python would give it
    the other's. What is loaded in a project that is known may also be its own choice, by a folder on ``sys.path``.

    Raises NameTaken.
    """
    others = _roots - {root} if root in _roots else None
    taken = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith("__") or not file or not is_users(file):
            continue
        place = module_file(root, name)
        if place is None or place.resolve() == Path(file).resolve():
            continue
        if not Path(file).exists():  # the project was moved
            del sys.modules[name]
        elif others is None or any(module_file(other, name) == Path(file) for other in others):
            taken[name] = (file, place)
    imported = imports_of(loading, root) if taken else set()
    for name, (file, place) in taken.items():
        if imported is None or name in imported:
            raise NameTaken(
                f"{told}: another module {name!r} is loaded, from {file!r}, and {str(place)!r} can't be loaded "
                "beside it; give one of them another name, or use them in runs of their own."
            )


def _check_is_theirs(name: str, path: Path, told: str) -> None:
    """Refuse a file whose name Python has for a module of its own, such as ``random.py``.

    Raises UserError.
    """
    known = sys.modules.get(name)
    if known is not None:
        origin = getattr(known, "__file__", None)
    else:
        with user_errors(), own_arguments(str(path)):  # the packages that the file lies in are imported
            spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
    if origin is None or Path(origin).resolve() != path:
        found = f"is {origin!r}" if origin else "is another"
        raise UserError(f"{told}: for Python the module {name!r} {found}; rename {path.name!r} or its package.")


@contextlib.contextmanager
def own_arguments(file: str) -> Iterator[None]:
    """The user's code sees the command line of a script without arguments, not ours."""
    before = sys.argv
    sys.argv = [file]
    try:
        yield
    finally:
        sys.argv = before


def call(function: Callable[..., Any], args: dict[str, Any], where: str, offered: dict[str, Any] | None = None) -> Any:
    """Call the user's class or function with ``args``; required parameters among ``offered``, and ``writer``, are
    filled in.

    Raises UserError when the arguments don't fit its signature, UserCodeError when it raises.
    """
    # TOML has no null: the text None stands for Python's.
    args = {name: None if value == "None" else value for name, value in args.items()}
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(function)
        parameters = signature.parameters
        for name, value in {"writer": writer.current(), **(offered or {})}.items():
            p = parameters.get(name)
            if p is not None and p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                args.setdefault(name, value)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name in args:
            if name not in parameters and not open_ended:
                raise UserError(
                    f"{where}.args.{name} is not a parameter of {_called(function)}; {did_you_mean(name, parameters)}",
                    field=f"{where}.args.{name}",
                )
        missing = [
            n
            for n, p in parameters.items()
            if p.default is p.empty and n not in args and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if missing:
            raise UserError(
                f"{where}.args.{missing[0]} is missing: {_called(function)} requires it.",
                field=f"{where}.args.{missing[0]}",
            )
    try:
        with user_errors(), own_arguments(getattr(inspect.getmodule(function), "__file__", None) or ""):
            return function(**args)
    except TypeError as error:  # an abstract class, or a signature that can't be looked at
        raise UserError(f"{where}.name: {_called(function)} can't be called: {error}.", field=f"{where}.name") from None
    except (
        KeyError,
        ValueError,
        AttributeError,
        RuntimeError,
        OSError,
    ) as error:  # raised by a library, not by a line of the user's
        given = ", ".join(f"{name}={_told(value)}" for name, value in args.items())
        called = f"{_called(function)}({given})"
        raise UserError(
            f"{where}.name: {called} raised {type(error).__name__}: {first_line(error)}.", field=f"{where}.name"
        ) from None


def _told(value: Any) -> str:
    """An argument in a sentence: what can be read, and of other things what they are."""
    text = repr(value)
    return text if len(text) <= 100 and "\n" not in text else f"<{type(value).__name__}>"


def _called(function: Callable[..., Any]) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", None) or type(inner).__name__


def makes_own_steps(reference: str | None) -> bool:
    """Whether a step of the user's (task.step) makes its own optimizer steps: it is called with (models, optimizers,
    batch) and not with (model, batch)."""
    if reference is None:
        return False
    try:
        parameters = inspect.signature(load(reference, "task.step")).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty and p.name != "writer"]
    return len(needed) > 2


def with_writer(function: Any) -> Any:
    """A function of the user's that takes a ``writer`` with that of the run; others as they are."""
    try:
        parameter = inspect.signature(function).parameters.get("writer")
    except (TypeError, ValueError):
        return function
    if not inspect.isroutine(function) or parameter is None or parameter.default is not parameter.empty:
        return function
    return functools.partial(function, writer=writer.current())
