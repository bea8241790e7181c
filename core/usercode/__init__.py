"""The user's own code: found in a file, loaded, called, and its errors told in the user's own lines."""

from torchdeck.core.usercode.load import NameTaken, call, load, look_from, makes_own_steps, own_arguments, with_writer
from torchdeck.core.usercode.objects import giving
from torchdeck.core.usercode.tracebacks import is_users, told_from_user_line, user_errors

__all__ = [
    "NameTaken",
    "call",
    "giving",
    "is_users",
    "load",
    "look_from",
    "makes_own_steps",
    "own_arguments",
    "told_from_user_line",
    "user_errors",
    "with_writer",
]
