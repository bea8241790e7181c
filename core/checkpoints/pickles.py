"""Pickles read without running them: opcodes become plain containers and notes of what would be called.

``pickletools`` takes the file apart; nothing is imported, called or looked up here, so that no file can make anything
happen. What a real unpickler would call is remembered as a ``Call`` of a ``Global`` and told to the user.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

from torchdeck.core.checkpoints.pickled import Call, Global, Persistent, Pickle, brief

#: Operations of one pickle, at most: 10,000 tensors with their optimizer take one or two million, and three million
#: take two or three seconds.
_MOST = 3_000_000


class Unreadable(Exception):
    """Not a pickle, or a damaged one; the message says why, without a full stop."""


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
