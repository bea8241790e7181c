"""Where a study's trials are kept: a SQLite file, a journal, or a database; opened, locked, and its errors in words.

A SQLite file is made once, under a lock (two creators race on Optuna's tables, optuna#4621), in WAL mode and with a
busy timeout, so that several processes work on it (optuna#820). It is not for network disks (optuna#815): there a
journal is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SQLITE, JOURNAL = "optuna.db", "optuna.journal"
_JOURNAL = "journal://"

#: Seconds that a process waits for another one's write to a SQLite file.
_BUSY = 60.0
#: Seconds after which the journal's lock counts as left behind by a kill; it is held for milliseconds.
_GRACE = 10

#: File systems that are other machines'.
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.sshfs", "9p", "afs", "panfs")

#: Databases that Optuna knows, the package that speaks to each, and our extra that installs it.
_DRIVERS = {"postgresql": ("psycopg2", "postgresql"), "mysql": ("pymysql", "mysql")}


def url_of(setting: str, folder: Path) -> str:
    """The storage's URL for ``search.storage`` and the study's folder."""
    if setting == "auto":
        setting = "journal" if _on_network(folder) else "sqlite"
    if setting == "sqlite":
        return f"sqlite:///{folder.absolute() / SQLITE}"
    if setting == "journal":
        return f"{_JOURNAL}{folder.absolute() / JOURNAL}"
    return setting


def _on_network(folder: Path) -> bool:
    import psutil

    place = folder.absolute()
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    here = next((mounts[p] for p in (place, *place.parents) if p in mounts), "")
    return here.startswith(_NETWORK)


def file_of(url: str) -> Path | None:
    """The file of a SQLite or journal storage."""
    for head in ("sqlite:///", _JOURNAL):
        if url.startswith(head):
            return Path(url.removeprefix(head))
    return None


def hidden(url: str) -> str:
    """The URL without its password, to be shown."""
    if url.startswith(_JOURNAL):
        return url
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.partition("://")[0] + "://..."


def open_storage(url: str, create: bool = False) -> BaseStorage:
    """The storage; ``create``: make it where there is none.

    Raises UserError when it can't be opened.
    """
    file = file_of(url)
    if file is not None and not create and not file.exists():
        raise UserError(f"There is no study in {str(file)!r}.")
    with storage_errors(url):
        if url.startswith(_JOURNAL):
            from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

            assert file is not None
            lock = JournalFileSymlinkLock(str(file), grace_period=_GRACE)
            return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
        from optuna.storages import RDBStorage

        if file is not None:
            if create:
                with contextlib.closing(sqlite3.connect(file, timeout=_BUSY)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            engine: dict[str, Any] = {"connect_args": {"timeout": _BUSY}}
        else:
            _check_driver(url)
            engine = {"pool_pre_ping": True}
        return RDBStorage(url, engine_kwargs=engine, skip_table_creation=file is not None and not create)


def _check_driver(url: str) -> None:
    dialect, _, driver = url.partition("://")[0].partition("+")
    if dialect == "postgres":
        raise UserError(f"{hidden(url)!r}: write postgresql:// for postgres://.")
    known = _DRIVERS.get(dialect)
    if known is None:
        raise UserError(f"{hidden(url)!r} is no storage of Optuna; it knows sqlite, postgresql and mysql.")
    package, extra = known
    if util.find_spec(driver or package) is None:
        raise UserError(f"{dialect} needs the package {driver or package}: pip install 'torchdeck[{extra}]'.")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study's lock among this machine's processes; the system lets go of it however a process ends."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        if error.errno in (28, 30):
            raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_everywhere(url: str, storage: BaseStorage, name: str, folder: Path) -> Iterator[None]:
    """Hold the study's lock among all its workers: in a database for all machines, else by its file."""
    with locked(folder):
        if file_of(url) is not None:
            yield
            return
        from sqlalchemy import text

        engine = storage.engine  # type: ignore[attr-defined]
        take, give = {
            "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
            "mysql": ("SELECT GET_LOCK(:name, 3600)", "SELECT RELEASE_LOCK(:name)"),
        }[engine.dialect.name]
        key = {"name": f"torchdeck:{name}"[:64]}
        with engine.connect() as connection:  # the server gives the lock back when the connection ends
            connection.execute(text(take), key)
            try:
                yield
            finally:
                connection.execute(text(give), key)
                connection.commit()


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """What goes wrong in a storage as one sentence.

    Raises UserError.
    """
    import optuna
    import sqlalchemy.exc as sql

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sql.SQLAlchemyError) as error:
        cause = (
            error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
        )
        original = getattr(cause, "orig", None) or cause
        lines = str(original).strip().splitlines()
        said = lines[0] if lines else type(original).__name__
        if "database is locked" in said:
            said = f"it was locked by another process for {_BUSY:.0f} s"
        raise UserError(f"The study's storage {hidden(url)!r} fails: {said}.".replace("..", ".")) from None
    except RuntimeError as error:
        if "version" not in str(error).lower() and "schema" not in str(error).lower():
            raise
        raise UserError(
            f"The study's storage {hidden(url)!r} is of another version of Optuna than {optuna.__version__}, which is "
            f"installed; bring it up to date with: optuna storage upgrade --storage {hidden(url)}"
        ) from None
    except (sqlite3.Error, OSError) as error:
        raise UserError(
            f"The study's storage {hidden(url)!r} fails: {getattr(error, 'strerror', None) or error}."
        ) from None
