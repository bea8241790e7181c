"""What a pickle holds that was taken apart: plain containers, what is named, and what would be called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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
