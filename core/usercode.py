"""The user's own nn.Module, Dataset, loss, metric or transform: from a file or a module, without glue.

A file is loaded under a unique module name, and so is everything it imports from its own project: a project with its
own top-level ``core`` or ``tui`` works, and nothing of it is put before ours on ``sys.path``. This is done by giving
the user's modules an ``__import__`` of their own, which looks in the user's project first; Python takes it from the
module's ``__builtins__`` (docs.python.org/3/reference/executionmodel.html#builtins-and-restricted-execution).
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import pickle
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

from core import usercode_dynamic, usercode_places
from core.errors import UserCodeError, UserError, did_you_mean
from core.tracking import writer

_PREFIX = "_torchdeck_user_"
_roots: dict[str, Path] = {}


def load(reference: str, where: str) -> Any:
    """The object that ``path/to/file.py:Name`` or ``pkg.module:Name`` points to; ``Name`` may be dotted.

    A module is looked for from the current folder, then among the installed ones.

    Raises UserError when there is no such file, module or name, UserCodeError when importing it raises.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UserError(f"{where} = {reference!r} is not of the form path/to/file.py:Name or pkg.module:Name.")
    module = _module(place, where, reference)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(module) if not n.startswith("_")]
            raise UserError(f"{where} = {reference!r}: {place} has no {name!r}; {did_you_mean(name, names)}")
        found = getattr(found, part)
    return found


def _module(place: str, where: str, reference: str) -> ModuleType:
    if place.endswith(".py") or "/" in place:
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{where} = {reference!r}: there is no file {str(path)!r}.")
        return _import_file(path)
    root = Path.cwd()
    local = root.joinpath(*place.split("."))
    if local.with_suffix(".py").is_file() or (local / "__init__.py").is_file():
        with user_errors():
            return importlib.import_module(f"{_register(root)}.{place}")
    try:
        known = importlib.util.find_spec(place) is not None
    except (ImportError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{where} = {reference!r}: there is no module {place!r} in {str(root)!r} or among the installed packages."
        )
    with user_errors(), own_arguments(place):
        return importlib.import_module(place)


def _import_file(path: Path) -> ModuleType:
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():  # a file in a package: its relative imports must work
        parts.insert(0, root.name)
        root = root.parent
    if path.stem == "__init__":
        parts.pop()
    if not all(part.isidentifier() for part in parts):
        return _import_odd_name(path)
    with user_errors():
        return importlib.import_module(f"{_register(root)}.{'.'.join(parts)}")


def _import_odd_name(path: Path) -> ModuleType:
    """A file such as ``my-net.py``, which no import statement could name."""
    package = _register(path.parent)
    digest = hashlib.sha256(path.name.encode()).hexdigest()[:8]
    name = f"{package}.file_{digest}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with user_errors():
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _register(root: Path) -> str:
    """The package name under which modules below ``root`` are loaded."""
    root = root.resolve()
    name = _PREFIX + hashlib.sha256(str(root).encode()).hexdigest()[:12]
    if name not in _roots:
        _roots[name] = root
        package = ModuleType(name, f"The user's code under {root}.")
        package.__path__ = [str(root)]
        sys.modules[name] = package
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)
            sys.meta_path.append(_dynamic)
    return name


def _place_of(top: str) -> str | None:
    """Where a module lies that is found nowhere else: the first of the users' projects that has one of that name."""
    return next((name for name, root in _roots.items() if usercode_places.is_module(root, top)), None)


_dynamic = usercode_dynamic.Finder(_PREFIX, _place_of)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules below the users' roots, and nothing else."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if not fullname.startswith(_PREFIX):
            # What is in a package that was found by name is no second module of its file.
            return _dynamic.find_spec(fullname) if "." in fullname else None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Gives the module an ``__import__`` that looks in the user's project first."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        own = dict(vars(builtins))
        own["__import__"] = _importer(package)
        module.__dict__["__builtins__"] = own
        with own_arguments(self.path):
            super().exec_module(module)


def _importer(package: str) -> Callable[..., ModuleType]:
    def own_import(name, globals=None, locals=None, fromlist=(), level=0):
        top = name.partition(".")[0]
        root = usercode_places.root_of(top, _roots[package]) if level == 0 and top else None
        if root is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        place = _register(root)
        module = importlib.import_module(f"{place}.{name}")
        if not fromlist:
            return sys.modules[f"{place}.{top}"]
        for part in fromlist:
            if part != "*" and not hasattr(module, part) and hasattr(module, "__path__"):
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(f"{place}.{name}.{part}")
        return module

    return own_import


@contextlib.contextmanager
def own_arguments(file: str) -> Iterator[None]:
    """The user's code sees the command line of a script without arguments, not ours."""
    before = sys.argv
    sys.argv = [file]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def plain_names() -> Iterator[None]:
    """The user's modules go by the names that they have without torchdeck, so that a pickle of their objects can be
    loaded elsewhere: ``net.Net``. For a process that does nothing else meanwhile."""
    own = {n: m for n, m in sys.modules.items() if n.startswith(_PREFIX) and "." in n}
    plain = {name.partition(".")[2]: module for name, module in own.items()}
    covered = {name: sys.modules[name] for name in plain if name in sys.modules}
    renamed = [(value, name) for name, module in own.items() for value in _defined_in(module, name)]
    for value, name in renamed:
        value.__module__ = name.partition(".")[2]
    sys.modules.update(plain)
    try:
        yield
    finally:
        for value, name in renamed:
            value.__module__ = name
        for name in plain:
            del sys.modules[name]
        sys.modules.update(covered)


def _defined_in(place: Any, module: str) -> Iterator[Any]:
    """Classes (those within classes, too) and functions that a module defines."""
    for value in list(vars(place).values()):
        if isinstance(value, type | FunctionType) and value.__module__ == module:
            yield value
            if isinstance(value, type):
                yield from _defined_in(value, module)


class Portable:
    """Pickles an object of the user's class for a DataLoader worker, which first learns where the code lies."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        data = bytes(ForkingPickler.dumps(self.value))  # tensors go through shared memory
        return _rebuild, ([str(root) for root in _roots.values()], data)


def _rebuild(roots: list[str], data: bytes) -> Portable:
    for root in roots:
        _register(Path(root))
    return Portable(pickle.loads(data))  # noqa: S301  written by the parent process just now


def call(function: Callable[..., Any], args: dict[str, Any], where: str, offered: dict[str, Any] | None = None) -> Any:
    """Call the user's class or function with ``args``; required parameters among ``offered``, and ``writer``, are filled
    in.

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
                    f"{where}.args.{name} is not a parameter of {function.__name__}; {did_you_mean(name, parameters)}"
                )
        missing = [
            n for n, p in parameters.items()
            if p.default is p.empty and n not in args and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]  # fmt: skip
        if missing:
            raise UserError(f"{where}.args.{missing[0]} is missing: {function.__name__} requires it.")
    try:
        with user_errors(), own_arguments(getattr(inspect.getmodule(function), "__file__", None) or ""):
            return function(**args)
    except TypeError as error:  # an abstract class, or a signature that can't be looked at
        raise UserError(f"{where}.name: {getattr(function, '__name__', function)} can't be called: {error}.") from None
    except (
        KeyError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:  # raised by a library, not by a line of the user's
        given = ", ".join(f"{name}={value!r}" for name, value in args.items())
        called = f"{getattr(function, '__name__', function)}({given})"
        raise UserError(f"{where}.name: {called} raised {type(error).__name__}: {error}.") from None


def with_writer(function: Any) -> Any:
    """A function of the user's that takes a ``writer`` with that of the run; others as they are."""
    try:
        parameter = inspect.signature(function).parameters.get("writer")
    except (TypeError, ValueError):
        return function
    if not inspect.isroutine(function) or parameter is None or parameter.default is not parameter.empty:
        return function
    return functools.partial(function, writer=writer.current())


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn an exception from the user's code into UserCodeError, told from the user's own line on.

    One that comes from our code alone passes through unchanged.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, MemoryError):
        raise
    except SystemExit as error:
        raise UserCodeError(_exits(error)) from error
    except BaseException as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            raise  # torch's, wherever it came: the advice on it is ours
        told = told_from_user_line(error)
        if told is None:
            raise
        raise UserCodeError(told) from error


def _exits(error: SystemExit) -> str:
    """One sentence on code that would end the process: most often a parser of the command line, run at import."""
    place = _user_traceback(error.__traceback__)
    last = (
        next((f for f in reversed(traceback.extract_tb(place)) if _is_user_file(f.filename)), None) if place else None
    )
    where = f' in "{last.filename}", line {last.lineno}' if last else ""
    return (
        f"The code ends the process (SystemExit: {error.code}){where}; what a script does with its command line belongs "
        "below if __name__ == '__main__'."
    )


def told_from_user_line(error: BaseException) -> str | None:
    """The error with its traceback from the first line of the user's on; None when no line of it is the user's."""
    place = _user_traceback(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename and _is_user_file(error.filename):
        return f'{error.msg} in "{error.filename}", line {error.lineno}'
    if place is None:
        return None
    frames = traceback.extract_tb(place)
    last = next(f for f in reversed(frames) if _is_user_file(f.filename))
    head = f'{type(error).__name__}: {error} in "{last.filename}", line {last.lineno}'
    return f"{head}\n{''.join(traceback.format_list(frames)).rstrip()}"


def _user_traceback(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and not _is_user_file(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


_INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_OURS = [Path(__file__).parent, Path(__file__).parent.parent / "tui"]
_NOT_THE_USERS = tuple(str(Path(str(p)).resolve()) for p in (*_INSTALLED, *site.getsitepackages(), *_OURS))


def _is_user_file(filename: str) -> bool:
    if filename.startswith("<"):
        return False
    path = str(Path(filename).resolve())
    return not path.startswith(_NOT_THE_USERS) and not path.endswith("/bin/torchdeck")
