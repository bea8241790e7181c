"""Errors that the user's code raises, told by the user's own lines."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torchdeck
from torchdeck.core.errors import UserCodeError, UserError, ran_out_of_memory


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn an exception from the user's code into UserCodeError, told by the user's own lines.

    One that comes from our code alone passes through unchanged.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, MemoryError):
        raise
    except SystemExit as error:
        raise UserCodeError(_exits(error)) from error
    except BaseException as error:
        if ran_out_of_memory(error):
            raise  # torch's, wherever it came: the advice on it is ours
        told = told_from_user_line(error)
        if told is None:
            raise
        raise UserCodeError(told) from error


def _exits(error: SystemExit) -> str:
    """One sentence on code that would end the process: most often a parser of the command line, run at import."""
    place = _user_traceback(error.__traceback__)
    last = next((f for f in reversed(traceback.extract_tb(place)) if is_users(f.filename)), None) if place else None
    where = f' in "{last.filename}", line {last.lineno}' if last else ""
    return (
        f"The code ends the process (SystemExit: {error.code}){where}; what a script does with its command line "
        "belongs below if __name__ == '__main__'."
    )


def told_from_user_line(error: BaseException) -> str | None:
    """The error with the lines of the user's that led to it; None when none is the user's."""
    place = _user_traceback(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        return f'{error.msg} in "{error.filename}", line {error.lineno}'
    if place is None:
        return None
    frames = [frame for frame in traceback.extract_tb(place) if is_users(frame.filename)]
    head = f'{type(error).__name__}: {error} in "{frames[-1].filename}", line {frames[-1].lineno}'
    return f"{head}\n{''.join(traceback.format_list(frames)).rstrip()}"


def _user_traceback(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and not is_users(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


#: Where packages are installed, be it for all, for a user, or in an environment that a .pth file names.
_INSTALLED = {"site-packages", "dist-packages"}
_PYTHONS = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
_CORE = Path(__file__).resolve().parents[1]
_OURS = [Path(str(torchdeck.__file__)).parent, _CORE, _CORE.parent / "tui"]
_NOT_THE_USERS = tuple(str(Path(str(folder)).resolve()) for folder in (*_PYTHONS, *_OURS))


def is_installed(path: str) -> bool:
    """Whether a file or folder belongs to packages that are installed."""
    return not _INSTALLED.isdisjoint(Path(path).parts)


def is_users(filename: str) -> bool:
    """Whether a file is the user's: none of Python's, of the installed packages' or of ours."""
    if filename.startswith(("<", *_NOT_THE_USERS)) or is_installed(filename):
        return False
    path = str(Path(filename).resolve())
    return not path.startswith(_NOT_THE_USERS) and not path.endswith("/bin/torchdeck")
