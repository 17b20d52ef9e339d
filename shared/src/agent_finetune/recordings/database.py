"""The SQLite file under the recordings: opened, checked, read and written by many at once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from agent_finetune import artifacts
from agent_finetune.errors import ConfigError, FinetuneError

SCHEMA = MetaData()
GENERATIONS = Table(
    "generations",
    SCHEMA,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("time", Float, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("adapter", Text, index=True),
    Column("revision", Text, nullable=False),
    Column("agent", Text, index=True),
    Column("session", Text, index=True),
    Column("reply", Text, index=True),
    Column("text", Text, nullable=False),  # the answer's, stripped, for looking it up
    Column("redacted", Text),
    Column("request", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    sqlite_autoincrement=True,  # a deleted row's number is not given to another
)
FEEDBACK = Table(
    "feedback",
    SCHEMA,
    Column("number", Integer, primary_key=True),
    Column(
        "generation",
        ForeignKey("generations.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("time", Float, nullable=False),
    Column("said", JSON, nullable=False),
)
_APPLICATION = 0x41465452
"""SQLite's mark of whose file it is; ours reads AFTR."""
_VERSION = 2
_PATIENCE = 30.0
"""Seconds that a statement waits for another process."""
_TRIES = 5
_DAMAGED = (
    *(SQLAlchemyError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What a row raises in which somebody else has written."""
T = TypeVar("T")


class Database:
    """Short transactions on one file, each on a connection of its own.

    A connection that lived longer would not survive a fork and would have to be kept to its thread.

    Args:
        path: The file.
        create: Make it when it is missing, for its owner's eyes only.

    Raises:
        ConfigError: It is missing, or is something else.
        DiskError: There is no room for it; writing raises it too.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path.absolute()
        if not self.path.exists():
            if not create:
                raise ConfigError(f"{path}: no such file; recordings are made by who opens them")
            self._create_file()
        self._engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            poolclass=NullPool,
            connect_args={"timeout": _PATIENCE},
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._retried(self._prepare)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One view of the file, unmoved by what others write meanwhile.

        Raises:
            ConfigError: The file is damaged, or a row in it is no record.
        """
        with self._explained(), self._engine.connect() as connection:
            try:
                yield connection
            except (FinetuneError, DatabaseError):
                raise
            except _DAMAGED as error:
                what = " ".join(str(error).split())[:300]
                raise ConfigError(
                    f"{self.path}: damaged, holds what is no recording: {what}"
                ) from error

    def write(self, *statements: Any) -> int:
        """Execute statements in one transaction, all of them or none; again where one was busy.

        Returns:
            Rows that the last of them touched.

        Raises:
            ConfigError: The file cannot be written, or others held it all the time.
            sqlalchemy.exc.IntegrityError: A row breaks a rule of its table.
        """

        def once() -> int:
            with _writing(self._engine) as connection:
                for statement in statements:
                    touched = connection.execute(statement).rowcount
            return touched

        return self._retried(once)

    def scrub(self) -> None:
        """Leave nothing on disk of what was deleted: no free pages, no old log.

        Raises:
            ConfigError: Another process was reading all the time.
        """
        options = {"isolation_level": "AUTOCOMMIT"}
        with self._explained(), self._engine.connect().execution_options(**options) as connection:
            connection.exec_driver_sql("VACUUM")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if busy:
            raise ConfigError(
                f"{self.path}: deleted, but another process was reading, and {self.path.name}-wal "
                "still holds what was deleted; delete once more"
            )

    def _create_file(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives the files it puts beside this one the same mode.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            if self._is_ours(connection):
                return
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
        with _writing(self._engine) as connection:
            if not self._is_ours(connection):  # another process may have been quicker
                SCHEMA.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA application_id={_APPLICATION}")
                connection.exec_driver_sql(f"PRAGMA user_version={_VERSION}")

    def _is_ours(self, connection: Connection) -> bool:
        """Whether the tables are there; False for an empty file."""
        owner = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if owner == 0 and not tables:
            return False
        if owner != _APPLICATION:
            raise ConfigError(f"{self.path}: a database of another program; give another path")
        if version != _VERSION:
            raise ConfigError(
                f"{self.path}: recordings of version {version!r}; this program reads {_VERSION}, "
                "and the one that made them can export them"
            )
        return True

    def _retried(self, work: Callable[[], T]) -> T:
        with self._explained():
            for attempt in range(_TRIES):
                try:
                    return work()
                except OperationalError as error:
                    if not _is_busy(error) or attempt == _TRIES - 1:
                        raise
                    time.sleep(0.05 * 2**attempt)
        raise AssertionError("the last try either returns or raises")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the user can do something about into our own error."""
        try:
            yield
        except DatabaseError as error:
            if type(error) not in (DatabaseError, OperationalError):
                raise
            if _code(error) == sqlite3.SQLITE_FULL:
                raise artifacts.no_room(self.path) from error
            raise ConfigError(f"{self.path}: {' '.join(str(error.orig).split())}") from error


def _configure(connection: sqlite3.Connection, _: object) -> None:
    # sqlite3 would otherwise open transactions when it sees fit; SQLAlchemy's manual says so.
    connection.isolation_level = None
    for pragma in ("foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        # A writer asks for the lock at once: one that began by reading cannot wait for it.
        kind = "BEGIN IMMEDIATE" if options.get("writing") else "BEGIN"
        connection.exec_driver_sql(kind)


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with engine.execution_options(writing=True).begin() as connection:
        yield connection


def _is_busy(error: OperationalError) -> bool:
    """Whether another process was in the way."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: DatabaseError) -> int:
    """SQLite's own code, 0 where it gives none. Extended codes hold the plain one in 8 bits."""
    return error.orig.sqlite_errorcode & 0xFF if isinstance(error.orig, sqlite3.Error) else 0
