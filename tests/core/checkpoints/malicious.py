"""Run by test_malicious.py in a process of its own: makes hostile files, looks at them in every way, and listens with
an audit hook (PEP 578) whether anything happens that reading must not do. Prints what it saw as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

folder = Path(sys.argv[1])
CANARY = folder / "canary"
COMMAND = f"touch {CANARY}"

#: What such files call: module, name, arguments as pickled opcodes (protocol 0 texts).
GADGETS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("os", "system", (COMMAND,)),
    ("posix", "system", (COMMAND,)),
    ("nt", "system", (COMMAND,)),
    ("os", "popen", (COMMAND,)),
    ("os", "execl", ("/bin/touch", "touch", str(CANARY))),
    ("os", "spawnlp", (0, "touch", "touch", str(CANARY))),
    ("os", "remove", (str(CANARY),)),
    ("os", "mkdir", (str(CANARY),)),
    ("posix", "mkdir", (str(CANARY),)),
    ("subprocess", "Popen", (["touch", str(CANARY)],)),
    ("subprocess", "call", (["touch", str(CANARY)],)),
    ("subprocess", "check_output", (["touch", str(CANARY)],)),
    ("subprocess", "run", (["touch", str(CANARY)],)),
    ("subprocess", "getoutput", (COMMAND,)),
    ("builtins", "eval", (f"open({str(CANARY)!r}, 'w')",)),
    ("builtins", "exec", (f"open({str(CANARY)!r}, 'w')",)),
    ("__builtin__", "eval", (f"open({str(CANARY)!r}, 'w')",)),
    ("__builtin__", "execfile", (str(CANARY),)),
    ("builtins", "compile", ("1", "x", "eval")),
    ("builtins", "open", (str(CANARY), "w")),
    ("io", "open", (str(CANARY), "w")),
    ("_io", "FileIO", (str(CANARY), "w")),
    ("builtins", "__import__", ("antigravity",)),
    ("builtins", "getattr", ("x", "__class__")),
    ("builtins", "input", ()),
    ("builtins", "breakpoint", ()),
    ("pathlib", "Path.touch", (str(CANARY),)),
    ("shutil", "copyfile", ("/etc/hostname", str(CANARY))),
    ("shutil", "rmtree", (str(folder),)),
    ("pty", "spawn", ("touch",)),
    ("runpy", "run_path", (str(CANARY),)),
    ("runpy", "_run_code", ("1", {})),
    ("importlib", "import_module", ("antigravity",)),
    ("webbrowser", "open", ("http://127.0.0.1:9",)),
    ("socket", "create_connection", (("127.0.0.1", 9),)),
    ("urllib.request", "urlopen", ("http://127.0.0.1:9",)),
    ("http.client", "HTTPSConnection", ("127.0.0.1",)),
    ("timeit", "timeit", (f"open({str(CANARY)!r}, 'w')",)),
    ("code", "interact", ()),
    ("pdb", "run", ("1",)),
    ("cProfile", "run", ("1",)),
    ("profile", "run", ("1",)),
    ("doctest", "debug_script", ("1",)),
    ("pip", "main", (["--version"],)),
    ("ensurepip", "bootstrap", ()),
    ("venv", "create", (str(CANARY),)),
    ("ctypes", "CDLL", ("libc.so.6",)),
    ("ctypes.util", "find_library", ("c",)),
    ("marshal", "loads", (b"x",)),
    ("pickle", "loads", (b"cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntR.",)),
    ("_pickle", "loads", (b"N.",)),
    ("dill", "loads", (b"N.",)),
    ("cloudpickle", "loads", (b"N.",)),
    ("joblib", "load", (str(CANARY),)),
    ("numpy", "load", (str(CANARY),)),
    ("numpy.testing._private.utils", "runstring", ("1", {})),
    ("numpy.f2py.crackfortran", "getlincoef", ("1", {})),
    ("torch", "load", (str(CANARY),)),
    ("torch.hub", "load", ("a/b", "c")),
    ("torch.storage", "_load_from_bytes", (b"N.",)),
    ("torch.jit", "load", (str(CANARY),)),
    ("torch.serialization", "load", (str(CANARY),)),
    ("torch.utils.collect_env", "run", (COMMAND,)),
    ("torch.package", "PackageImporter", (str(CANARY),)),
    ("torch._inductor.codecache", "compile_file", (str(CANARY),)),
    ("functools", "partial", (print,)),
    ("operator", "methodcaller", ("x",)),
    ("operator", "attrgetter", ("x",)),
    ("types", "FunctionType", ()),
    ("types", "CodeType", ()),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start", ()),
    ("asyncio", "create_subprocess_shell", (COMMAND,)),
    ("multiprocessing", "Process", ()),
    ("threading", "Thread", ()),
    ("signal", "raise_signal", (9,)),
    ("sys", "exit", ()),
    ("sys", "settrace", (None,)),
    ("atexit", "register", (None,)),
    ("gc", "collect", ()),
    ("tempfile", "mkstemp", ()),
    ("zipfile", "ZipFile", (str(CANARY), "w")),
    ("tarfile", "open", (str(CANARY), "w")),
    ("gzip", "open", (str(CANARY), "w")),
    ("bz2", "open", (str(CANARY), "w")),
    ("sqlite3", "connect", (str(CANARY),)),
    ("shelve", "open", (str(CANARY),)),
    ("dbm", "open", (str(CANARY), "c")),
    ("logging.config", "listen", ()),
    ("logging", "FileHandler", (str(CANARY),)),
    ("smtplib", "SMTP", ("127.0.0.1",)),
    ("ftplib", "FTP", ("127.0.0.1",)),
    ("xmlrpc.client", "ServerProxy", ("http://127.0.0.1:9",)),
    ("requests", "get", ("http://127.0.0.1:9",)),
    ("pandas", "read_pickle", (str(CANARY),)),
    ("codecs", "open", (str(CANARY), "w")),
    ("fileinput", "input", (str(CANARY),)),
    ("linecache", "getlines", ("/etc/hostname",)),
    ("site", "main", ()),
    ("platform", "popen", (COMMAND,)),
    ("commands", "getoutput", (COMMAND,)),
    ("unittest", "main", ()),
    ("trace", "main", ()),
    ("idlelib.run", "main", ()),
    ("lib2to3.pgen2.pgen", "ParserGenerator", (str(CANARY),)),
    ("bdb", "Bdb.run", ("1",)),
    ("pkgutil", "resolve_name", ("os:system",)),
    ("pydoc", "locate", ("antigravity",)),
    ("some_package.models", "Evil", ()),
    ("antigravity", "geohash", (1, 2, b"x")),
    ("this", "s", ()),
]


def text(value: Any) -> bytes:
    """An argument as opcodes that need no memo."""
    if value is None or callable(value):
        return b"N"
    if isinstance(value, int):
        return b"I%d\n" % value
    if isinstance(value, bytes):
        return b"\x8e" + struct.pack("<Q", len(value)) + value
    if isinstance(value, list | tuple):
        return b"(" + b"".join(text(v) for v in value) + (b"l" if isinstance(value, list) else b"t")
    if isinstance(value, dict):
        return b"}"
    return b"X" + struct.pack("<I", len(str(value).encode())) + str(value).encode()


def calls(module: str, name: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, bytes]]:
    """Every way in which a pickle can call something."""
    found = f"c{module}\n{name}\n".encode()
    stacked = text(module) + text(name) + b"\x93"
    args = text(tuple(arguments))
    inner = b"".join(text(a) for a in arguments)
    yield "REDUCE", found + args + b"R"
    yield "STACK_GLOBAL", stacked + args + b"R"
    yield "INST", b"(" + inner + f"i{module}\n{name}\n".encode()
    yield "OBJ", b"(" + found + inner + b"o"
    yield "NEWOBJ", found + args + b"\x81"
    yield "NEWOBJ_EX", found + args + b"}" + b"\x92"
    yield "BUILD", found + b"(tR" + b"}" + text("x") + found + b"s" + b"b"
    yield "memo and DUP", found + b"2q\x00" + b"0" + args + b"Rh\x000"
    # Handed to something harmless, which would call it.
    yield "rebuild", b"ctorch._tensor\n_rebuild_from_type_v2\n(" + found + b"N" + args + b"NtR"
    yield "defaultdict", b"ccollections\ndefaultdict\n(" + found + b"tR"
    yield "key", b"}" + found + args + b"R" + b"I1\ns"
    yield "persistent", found + args + b"R" + b"Q"


def files() -> Iterator[tuple[str, Path, str]]:
    """Each call in each kind of file; the dotted name that must be told."""
    number = 0
    for module, name, arguments in GADGETS:
        for way, body in calls(module, name, arguments):
            number += 1
            pickled = b"\x80\x04" + body + b"."
            for kind in ("zip", "legacy", "bare") if number % 4 == 0 else (("zip", "legacy", "bare")[number % 3],):
                path = folder / f"{number}-{kind}.pth"
                if kind == "zip":
                    with zipfile.ZipFile(path, "w") as archive:
                        archive.writestr("archive/data.pkl", pickled)
                        archive.writestr("archive/version", "3\n")
                elif kind == "legacy":
                    path.write_bytes(
                        b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
                        + pickled
                        + pickle.dumps([], 2)
                    )
                else:
                    path.write_bytes(pickled)
                yield f"{module}.{name} by {way} in {kind}", path, name
    for header in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        described = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
        array = (
            header
            + struct.pack("<H" if header[6] == 1 else "<I", len(described))
            + described
            + b"cos\nsystem\n(S'"
            + COMMAND.encode()
            + b"'\ntR."
        )
        path = folder / f"object-{header[6]}.npy"
        path.write_bytes(array)
        yield "an object array", path, "pickle"
        path = folder / f"object-{header[6]}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", array)
        yield "an object array in .npz", path, "pickle"


FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "exec",
    "compile",
    "pty.spawn",
    "socket.connect",
    "socket.__new__",
    "urllib.Request",
    "webbrowser.open",
    "ctypes.dlopen",
    "shutil.rmtree",
    "shutil.copyfile",
    "os.remove",
    "os.mkdir",
    "os.rename",
    "marshal.loads",
    "pickle.find_class",
    "code.__new__",
    "sqlite3.connect",
    "tempfile.mkstemp",
    "import",
    "ftplib.connect",
    "smtplib.connect",
)


def main() -> None:
    folder.mkdir(exist_ok=True)
    made = list(files())
    from torchdeck.core.checkpoints.archive import inspect_file
    from torchdeck.core.checkpoints.load import weights
    from torchdeck.core.errors import UserError
    from torchdeck.core.evaluation.finetune import experiment_from
    from torchdeck.tui.commands.checkpoints import show_file

    # Everything that is imported lazily is imported now: an import from here on is the file's doing.
    np.savez(folder / "warm.npz", a=np.ones(2))
    with zipfile.ZipFile(folder / "warm.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2))
    for warm in ("warm.npz", "warm.pt"):
        inspect_file(folder / warm)
        out, sys.stdout = sys.stdout, io.StringIO()
        show_file(folder / warm, False)
        show_file(folder / warm, True)
        sys.stdout = out
        for function in (lambda p: weights(p, "x"), experiment_from):
            with contextlib.suppress(UserError):
                function(folder / warm, None) if function is experiment_from else function(folder / warm)
    seen: list[str] = []
    listening = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not listening:
            return
        if event == "compile" and str(arguments[0]).lstrip('b"').startswith("{'descr'"):
            return  # NumPy reads the header of an array as a literal; that makes a syntax tree, and runs nothing
        if event.startswith(FORBIDDEN) or (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        ):
            seen.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    wrong: list[str] = []
    opened = refused = 0
    before = sorted(p.name for p in folder.iterdir())
    for what, path, name in made:
        listening = True
        try:
            stored = inspect_file(path)
            opened += 1
            told = " ".join(stored.calls)
            if stored.safe or name.rpartition(".")[2] not in told:
                wrong.append(f"{what}: not told, but {stored.calls}")
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                wrong.append(f"{what}: {error}")
        for use in (lambda p: weights(p, "model.weights"), lambda p: experiment_from(p, None)):
            try:
                use(path)
                wrong.append(f"{what}: was used")
            except UserError:
                pass
        sys.stdout, out = io.StringIO(), sys.stdout
        with contextlib.suppress(UserError):
            show_file(path, False)
        sys.stdout = out
        listening = False
    after = sorted(p.name for p in folder.iterdir())
    print(
        json.dumps(
            {
                "files": len(made),
                "opened": opened,
                "refused": refused,
                "wrong": wrong[:20],
                "seen": seen[:20],
                "canary": CANARY.exists(),
                "changed": before != after,
                "gadgets": len(GADGETS),
            }
        )
    )


main()
