"""Where a study's trials are kept: a SQLite file, a journal, or a database; opened, locked, and its errors in words.

A SQLite file is made once, under a lock (two creators race on Optuna's tables, optuna#4621), in WAL mode and with a
busy timeout, so that several processes work on it (optuna#820). It is not for network disks (optuna#815): there a
journal is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from torchdeck.core import files
from torchdeck.core.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class StorageError(UserError):
    """The storage fails: for a moment, or for good."""


SQLITE, JOURNAL = "optuna.db", "optuna.journal"
_JOURNAL = "journal://"

#: Seconds that a process waits for another one's write to a SQLite file.
_BUSY = 60.0
#: Seconds after which the journal's lock counts as left behind by a kill; it is held for milliseconds.
_GRACE = 10

#: File systems that are other machines'.
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.sshfs", "9p", "afs", "panfs")

#: Databases that Optuna knows, and the packages that speak to each; the first is what our extra of that name installs.
_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("pymysql", "mysqldb")}


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


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite or journal storage."""
    for head in ("sqlite:///", _JOURNAL):
        if url.startswith(head):
            return Path(url.removeprefix(head))
    return None


def in_memory(url: str) -> bool:
    """Whether a URL is that of a SQLite database in memory (sqlite.org/inmemorydb.html), which one process alone
    has."""
    scheme, sign, rest = url.partition("://")
    place, _, query = rest.removeprefix("/").partition("?")
    if not sign or scheme.partition("+")[0] != "sqlite":
        return False
    return place in ("", ":memory:", "file:") or place.startswith("file::memory:") or "mode=memory" in query


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
    file = sqlite_file(url)
    if file is not None and not create and not file.exists():
        raise UserError(f"There is no study in {str(file)!r}.")
    with storage_errors(url):
        if url.startswith(_JOURNAL):
            from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

            assert file is not None
            lock = JournalFileSymlinkLock(str(file), grace_period=_GRACE)
            return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))
        from optuna.storages import RDBStorage

        engine: dict[str, Any] = {"pool_pre_ping": True}
        if file is None:
            address = with_driver(url)
        else:
            if create:
                with contextlib.closing(sqlite3.connect(file, timeout=_BUSY)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            engine = {"connect_args": {"timeout": _BUSY}}
            address = _to_read(file) if _read_only(file) else url
        return RDBStorage(
            address,
            engine_kwargs=engine,
            skip_table_creation=file is not None and not create,
        )


def _read_only(file: Path) -> bool:
    """Whether SQLite can't make the files that a database in WAL mode is read through (sqlite.org/wal.html#read_only):
    last week's study on a disk that is mounted read-only. With a WAL there, somebody is working on it, and it can."""
    return not os.access(file.parent, os.W_OK) and not file.with_name(f"{file.name}-wal").exists()


def _to_read(file: Path) -> str:
    return f"sqlite:///file:{quote(str(file))}?mode=ro&immutable=1&uri=true"


def with_driver(url: str) -> str:
    """The URL with the driver that is installed: SQLAlchemy's default is another one in each of its versions.

    Raises UserError when there is none.
    """
    scheme, sign, rest = url.partition("://")
    dialect, _, driver = scheme.partition("+")
    dialect = "postgresql" if dialect == "postgres" else dialect
    known = _DRIVERS.get(dialect)
    if known is None:
        raise UserError(f"{hidden(url)!r} is no storage of Optuna; it knows sqlite, postgresql and mysql.")
    found = driver or next((name for name in known if util.find_spec({"mysqldb": "MySQLdb"}.get(name, name))), "")
    if not found:
        raise UserError(f"{dialect} needs the package {known[0]}: pip install 'torchdeck[{dialect}]'.")
    return f"{dialect}+{found}{sign}{rest}"


@contextlib.contextmanager
def locked_study(folder: Path) -> Iterator[None]:
    """Hold the study's lock among this machine's processes; the system lets go of it however a process ends."""
    try:
        descriptor = files.take_lock(folder / "lock", wait=True)
    except OSError as error:
        raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
    try:
        yield
    except OSError as error:
        if error.errno in (28, 30):
            raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
        raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_in_database(url: str, name: str, engine: Any = None) -> Iterator[None]:
    """Hold the lock of that study in its database, among all machines; nothing for a file, which has the folder's.

    ``engine``: the storage's, where there is one already.
    """
    if sqlite_file(url) is not None:
        yield
        return
    import sqlalchemy

    engine = engine or sqlalchemy.create_engine(with_driver(url), poolclass=sqlalchemy.pool.NullPool)
    take, give = {
        "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
        "mysql": ("SELECT GET_LOCK(:name, 3600)", "SELECT RELEASE_LOCK(:name)"),
    }[engine.dialect.name]
    key = {"name": f"torchdeck:{name}"[:64]}
    with engine.connect() as connection:  # the server gives the lock back when the connection ends
        connection.execute(sqlalchemy.text(take), key)
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text(give), key)
            connection.commit()


def _is_locked(error: BaseException) -> bool:
    """Whether SQLite waited for another process in vain; SQLAlchemy hands on its OperationalError, which is for
    much."""
    return "database is locked" in str(error)


def _of_another_version(error: RuntimeError) -> bool:
    """Whether Optuna refuses tables of another of its versions; it raises a plain RuntimeError for it."""
    text = str(error).lower()
    return "version" in text or "schema" in text


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """What goes wrong in a storage as one sentence.

    Raises StorageError.
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
        if _is_locked(original):
            said = f"it was locked by another process for {_BUSY:.0f} s"
        raise StorageError(f"The study's storage {hidden(url)!r} fails: {said}.".replace("..", ".")) from None
    except RuntimeError as error:
        if not _of_another_version(error):
            raise
        raise StorageError(
            f"The study's storage {hidden(url)!r} is of another version of Optuna than {optuna.__version__}, which is "
            f"installed; bring it up to date with: optuna storage upgrade --storage {hidden(url)}"
        ) from None
    except ImportError as error:
        raise StorageError(f"The study's storage {hidden(url)!r} can't be reached: {error}") from None
    except (sqlite3.Error, OSError) as error:
        raise StorageError(
            f"The study's storage {hidden(url)!r} fails: {getattr(error, 'strerror', None) or error}."
        ) from None
