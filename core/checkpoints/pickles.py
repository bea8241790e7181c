"""Pickles read without running them: opcodes become plain containers and notes of what would be called.

``pickletools`` takes the file apart; nothing is imported, called or looked up here, so that no file can make anything
happen. What a real unpickler would call is remembered as a ``Call`` of a ``Global`` and told to the user.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

#: Operations of one pickle, at most: 10,000 tensors with their optimizer take one or two million, and three million
#: take two or three seconds.
_MOST = 3_000_000
#: Characters of an argument that are shown, and arguments.
_SHOWN, _ARGUMENTS = 60, 4

#: Callables that make tensors and plain containers, and do nothing else: what torch.load(weights_only=True) allows
#: without being asked (torch/_weights_only_unpickler.py).
HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "builtins.set",
        "builtins.frozenset",
        "builtins.dict",
        "builtins.list",
        "builtins.tuple",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.slice",
        "torch.Size",
        "torch.device",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.Parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch.serialization._get_layout",
        "_codecs.encode",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_wrapper_subclass",
        "torch._utils._rebuild_nested_tensor",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.build_tensor_from_id",
        "torch.jit._pickle.restore_type_tag",
    }
)


#: Modules whose functions a pickle of weights has no business with (what scanners such as picklescan look for).
_DANGEROUS = frozenset(
    {
        "os",
        "posix",
        "nt",
        "posixpath",
        "ntpath",
        "sys",
        "subprocess",
        "builtins",
        "shutil",
        "socket",
        "importlib",
        "runpy",
        "ctypes",
        "pty",
        "webbrowser",
        "code",
        "codeop",
        "commands",
        "timeit",
        "pickle",
        "_pickle",
        "marshal",
        "types",
        "functools",
        "operator",
        "_operator",
        "itertools",
        "asyncio",
        "multiprocessing",
        "concurrent",
        "threading",
        "http",
        "httplib",
        "urllib",
        "urllib2",
        "requests",
        "aiohttp",
        "ftplib",
        "smtplib",
        "telnetlib",
        "ssl",
        "pip",
        "setuptools",
        "distutils",
        "pdb",
        "bdb",
        "trace",
        "cProfile",
        "profile",
        "doctest",
        "idlelib",
        "lib2to3",
        "platform",
        "pkgutil",
        "zipimport",
        "imp",
        "inspect",
        "linecache",
        "tempfile",
        "pathlib",
        "io",
        "_io",
        "mmap",
        "fileinput",
        "glob",
        "signal",
        "resource",
        "gc",
        "atexit",
        "site",
        "venv",
        "ensurepip",
        "pydoc",
        "getpass",
        "cgi",
        "bz2",
        "gzip",
        "lzma",
        "zipfile",
        "tarfile",
        "sqlite3",
        "dbm",
        "shelve",
        "logging",
        "unittest",
        "test",
        "xmlrpc",
        "socketserver",
        "wsgiref",
        "cffi",
        "joblib",
        "dill",
        "cloudpickle",
        "copyreg",
        "weakref",
        "contextlib",
    }
)
#: Functions that load a further pickle, or compile text.
_LOADERS = frozenset(
    {
        "torch.load",
        "torch.hub.load",
        "torch.storage._load_from_bytes",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.serialization.load",
        "numpy.load",
        "pandas.read_pickle",
        "torch.fx.graph_module.reduce_graph_module",
        "torch.utils._config_module.load_config",
        "torch.compile",
        "torch._dynamo.guards.GuardBuilder.get",
        "torch.utils.collect_env.run",
        "numpy.testing._private.utils.runstring",
        "numpy.f2py.crackfortran.getlincoef",
    }
)


class Unreadable(Exception):
    """Not a pickle, or a damaged one; the message says why, without a full stop."""


@dataclass(frozen=True)
class Global:
    """A class or function that is named."""

    module: str
    name: str

    def __str__(self) -> str:
        module = "builtins" if self.module == "__builtin__" else self.module
        return f"{module}.{self.name}"


@dataclass(eq=False)
class Call:
    """What a real unpickler would call, and with what; ``state`` is what it would put into the object."""

    function: Any
    arguments: tuple[Any, ...] = ()
    state: Any = None
    #: What would be appended or set on it.
    items: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Dotted name of what would be called."""
        return str(self.function) if isinstance(self.function, Global) else f"what {brief(self.function)} gives"


@dataclass(eq=False)
class Persistent:
    """A reference to something outside the pickle: in torch's files a storage."""

    id: Any


@dataclass(frozen=True)
class Pickle:
    """A pickle that was taken apart."""

    value: Any
    #: Everything that would be called, in order, the harmless ones too.
    calls: tuple[Call, ...]
    #: Everything that is named.
    globals: frozenset[Global]
    #: Bytes that it takes.
    length: int

    def foreign(self) -> list[Global]:
        """What is named beside tensors, their types and plain containers: a harmless callable may be handed another."""
        return sorted((g for g in self.globals if str(g) not in HARMLESS and not _is_type(g)), key=str)

    def suspects(self) -> list[Call]:
        """The calls that do more than make tensors and plain containers."""
        return [call for call in self.calls if call.name not in HARMLESS and not _is_type(call.function)]

    def dangerous(self) -> list[Global]:
        """What is named from modules that reach beyond the file: the system, the interpreter, the network."""
        return [g for g in self.foreign() if str(g).partition(".")[0] in _DANGEROUS or str(g) in _LOADERS]


def _is_type(function: Any) -> bool:
    """torch.float32, torch.FloatStorage: names of types, which are never really called."""
    return (
        isinstance(function, Global)
        and function.module in ("torch", "torch.storage")
        and (function.name.endswith("Storage") or function.name in DTYPES)
    )


#: Bytes of each element, and the numpy type that holds it, by torch's name of the dtype.
DTYPES: dict[str, tuple[int, str]] = {
    "float32": (4, "<f4"),
    "float64": (8, "<f8"),
    "float16": (2, "<f2"),
    "bfloat16": (2, "<u2"),
    "int64": (8, "<i8"),
    "int32": (4, "<i4"),
    "int16": (2, "<i2"),
    "int8": (1, "i1"),
    "uint8": (1, "u1"),
    "bool": (1, "?"),
    "complex64": (8, "<c8"),
    "complex128": (16, "<c16"),
    "uint16": (2, "<u2"),
    "uint32": (4, "<u4"),
    "uint64": (8, "<u8"),
    "float8_e4m3fn": (1, "u1"),
    "float8_e5m2": (1, "u1"),
    "float8_e4m3fnuz": (1, "u1"),
    "float8_e5m2fnuz": (1, "u1"),
    "qint8": (1, "i1"),
    "quint8": (1, "u1"),
    "qint32": (4, "<i4"),
}

_MARK = object()


def read_pickle(file: BinaryIO) -> Pickle:
    """One pickle from the file's position on.

    Raises Unreadable when it is none, is damaged, or holds what no file of tensors needs.
    """
    start = file.tell()
    machine = _Machine()
    try:
        for number, (opcode, argument, place) in enumerate(pickletools.genops(file)):
            if number > _MOST:
                raise Unreadable("it has more than 3 million operations")
            if opcode.name == "STOP":
                break
            try:
                machine.step(opcode.name, argument)
            except (IndexError, KeyError, TypeError, ValueError, AttributeError):
                raise Unreadable(f"the operation {opcode.name} at byte {place} makes no sense there") from None
    except Unreadable:
        raise
    # What pickletools raises for bytes that are no pickle is of many kinds.
    except (
        ValueError,
        IndexError,
        KeyError,
        OverflowError,
        EOFError,
        UnicodeError,
        AttributeError,
        TypeError,
    ) as error:
        text = str(error).strip().splitlines()
        raise Unreadable(text[0][:120] if text else type(error).__name__) from None
    if not machine.stack or machine.stack[-1] is _MARK:
        raise Unreadable("it ends without a value")
    return Pickle(machine.stack[-1], tuple(machine.calls), frozenset(machine.globals), file.tell() - start)


class _Machine:
    """The stack machine of pickle (PEP 307, 3154, 574) over inert values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.calls: list[Call] = []
        self.globals: set[Global] = set()
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one operation."""
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        else:
            getattr(self, f"_{name.lower()}")(argument)

    def _marked(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        made: dict[Any, Any] = {}
        _set_items(made, self._marked())
        self.stack.append(made)

    def _frozenset(self, _: Any) -> None:
        self.stack.append(self._marked())  # members may be anything, also what has no hash

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _appends(self, _: Any) -> None:
        items = self._marked()
        _extend(self.stack[-1], items)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        items = self._marked()
        _set_items(self.stack[-1], items)

    def _find(self, module: str, name: str) -> None:
        found = Global(module, name)
        self.globals.add(found)
        self.stack.append(found)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._find(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self._find(module, name)

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> None:
        call = Call(function, arguments)
        self.calls.append(call)
        self.stack.append(_container(call))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._call(function, arguments if isinstance(arguments, tuple) else (arguments,))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        named, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(function, (*arguments, *([named] if named else ())))

    def _inst(self, argument: str) -> None:
        arguments = tuple(self._marked())
        module, _, name = argument.partition(" ")
        self._find(module, name)
        self._call(self.stack.pop(), arguments)

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self._call(function, tuple(arguments))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        # An OrderedDict's attributes (a state_dict's _metadata) are not its content.

    def _persid(self, argument: str) -> None:
        self.stack.append(Persistent(argument))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(Persistent(self.stack.pop()))

    def _ext(self, argument: int) -> None:
        self._find("copyreg", f"extension {argument}")

    _ext1 = _ext2 = _ext4 = _ext

    def _next_buffer(self, _: Any) -> None:
        self.stack.append(Persistent("buffer"))

    def _readonly_buffer(self, _: Any) -> None:
        pass


_PUSH_ARGUMENT = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
    }
)
_KEYS = (str, int, float, bool, bytes, type(None), Global)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}


def _container(call: Call) -> Any:
    """Calls that make plain containers give them."""
    if call.name in ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "collections.Counter"):
        made: dict[Any, Any] = {}
        pairs = call.arguments[0] if call.name != "collections.defaultdict" and call.arguments else ()
        if isinstance(pairs, dict):
            return dict(pairs)
        for pair in pairs if isinstance(pairs, list | tuple) else ():
            if isinstance(pair, list | tuple) and len(pair) == 2:
                _set_items(made, list(pair))
        return made
    if (
        call.name in ("builtins.set", "builtins.frozenset", "builtins.list", "builtins.tuple", "torch.Size")
        and call.arguments
    ):
        items = call.arguments[0]
        return list(items) if isinstance(items, list | tuple) else call
    return call


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Call):
        target.items.extend(items)
    else:
        raise TypeError


def _set_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Call):
        target.items.extend(items)
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise TypeError
    for key, value in zip(items[::2], items[1::2], strict=True):
        # A tuple may be a million deep, and its hash would take the stack down; what has no hash is no key either.
        target[key if isinstance(key, _KEYS) else brief(key)] = value


def brief(value: Any, depth: int = 2) -> str:
    """A value in a few words, whatever it is; never long, never deep."""
    match value:
        case Call():
            shown = [brief(a, depth - 1) for a in value.arguments[:_ARGUMENTS]] if depth > 0 else ["…"]
            more = ", …" if len(value.arguments) > _ARGUMENTS else ""
            return f"{value.name if depth > 0 else '…'}({', '.join(shown)}{more})"
        case Persistent():
            return "a reference"
        case Global():
            return str(value)
        case list() | tuple() | dict() if value and depth <= 0:
            return f"{type(value).__name__} of {len(value)}"
        case list() | tuple():
            inner = ", ".join(brief(v, depth - 1) for v in value[:_ARGUMENTS])
            return f"[{inner}{', …' if len(value) > _ARGUMENTS else ''}]"
        case dict():
            return f"dict of {len(value)}" if value else "{}"
        case str() | bytes() | bytearray():
            text = repr(value[:_SHOWN])
            return text + ("…" if len(value) > _SHOWN else "")
        case int() if abs(value) >= 1 << 64:
            return "a huge integer"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def walk_values(value: Any, most: int = 2_000_000) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside, with its path, containers before what they hold; each container once (files may be loops)."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    count = 0
    while waiting:
        path, one = waiting.pop()
        count += 1
        if count > most:
            return
        inner: list[tuple[tuple[Any, ...], Any]] = []
        if isinstance(one, dict | list | tuple | Call):
            if id(one) in seen:
                continue
            seen.add(id(one))
        yield path, one
        if len(path) > 100:
            continue
        if isinstance(one, dict):
            inner = [((*path, key), v) for key, v in one.items()]
        elif isinstance(one, list | tuple):
            inner = [((*path, number), v) for number, v in enumerate(one)]
        elif isinstance(one, Call) and one.state is not None:
            inner = [(path, one.state)]
        waiting.extend(reversed(inner))
