"""How every module here opens DuckDB, and temporary files for what does not fit in memory.

DuckDB is loaded when it is first opened: a run of a new date scores its first images before that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from steel_batch import interrupt
from steel_batch.errors import LakeError

if TYPE_CHECKING:
    import duckdb

MEMORY: Final = "256MB"
"""What scratch databases keep in memory; the rest is on disk. DuckDB's own limit is four fifths
of the machine's memory, and a plan of a hundred million images would use all of it."""
THREADS: Final = 4
"""Each thread needs memory of its own, and they mostly wait for Python."""

GROUPS_PER_ENGINE: Final = 64
"""An engine opens in the time in which one or two groups of rows are joined."""

_FULL: Final = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory that prints nothing."""
    import duckdb

    return _silent(duckdb.connect(":memory:"))


@dataclass(slots=True)
class _Engine:
    """DuckDB in this process, for all scratch databases that are open at once."""

    con: duckdb.DuckDBPyConnection
    folder: tempfile.TemporaryDirectory[str]
    place: tuple[int, str]
    """The process and the folder of temporary files that it was opened for."""
    num_users: int = 0
    num_databases: int = 0


_lock = threading.Lock()
_engine: _Engine | None = None


@contextlib.contextmanager
def scratch_engine() -> Iterator[_Engine]:
    """Keep DuckDB open for scratch databases: it opens in 16 ms, and each of them in 1."""
    global _engine
    place = (os.getpid(), tempfile.gettempdir())
    with _lock:
        if _engine is None or _engine.place != place:
            _engine = _Engine(*_open_engine(), place)
        engine = _engine
        engine.num_users += 1
    try:
        yield engine
    finally:
        with _lock:
            engine.num_users -= 1
            if not engine.num_users:
                engine.con.close()
                engine.folder.cleanup()
                _engine = None if _engine is engine else _engine


def _open_engine() -> tuple[duckdb.DuckDBPyConnection, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory(prefix="steel-batch-")
    con = connect()
    con.execute("SET temp_directory = ?", [folder.name])
    con.execute("SET memory_limit = ?", [MEMORY])
    con.execute("SET threads = ?", [min(THREADS, os.cpu_count() or 1)])
    con.execute("SET preserve_insertion_order = false")
    return con, folder


@contextlib.contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A temporary database: what exceeds `MEMORY`, of all of them together, is on disk.

    Rows have no order unless a query has ``ORDER BY``.

    Raises:
        LakeError: The disk of temporary files is full.
        Interrupted: A signal requested a stop, even during a query.
        KeyboardInterrupt: A signal raised it; DuckDB itself would raise another error.
    """
    import duckdb

    with scratch_engine() as engine:
        with _lock:
            engine.num_databases += 1
            name = f"scratch_{engine.num_databases}"
        con = engine.con.cursor()
        try:
            con.execute(f"ATTACH ':memory:' AS {name}")
            con.execute(f"USE {name}")
            with naming_a_full_disk(duckdb.Error, OSError), interruptible(con):
                yield con
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # DuckDB raises this when a signal arrives
                raise KeyboardInterrupt from error
            raise
        finally:
            con.execute("USE memory")
            con.execute(f"DETACH {name}")
            con.close()


def renewed(
    con: duckdb.DuckDBPyConnection,
) -> Generator[duckdb.DuckDBPyConnection, None, None]:
    """Yield a database for each of many groups of rows, which are joined one after the other.

    DuckDB keeps 0.2 kB for each block of memory that a query has freed, 40 kB for a group that is
    joined three times: up to 43 MB, outside its limit, until it is closed. So the first groups are
    for the database of the caller, and others for engines that are closed after some of them.

    Args:
        con: A scratch database. What is in it is not in the others.

    Yields:
        Databases, without end: to be closed (`contextlib.closing`) when there are no more groups.
    """
    for _ in range(GROUPS_PER_ENGINE):
        yield con
    while True:
        engine, folder = _open_engine()
        with folder, contextlib.closing(engine), interrupt.waking(engine.interrupt):
            for _ in range(GROUPS_PER_ENGINE):
                yield engine


def name_of(con: duckdb.DuckDBPyConnection) -> str:
    """The name of a scratch database, which its tables have before theirs for other connections."""
    [(name,)] = con.sql("SELECT current_database()").fetchall()
    return str(name)


@contextlib.contextmanager
def interruptible(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End a query in the block when a signal requests a stop, however long the query takes.

    Raises:
        Interrupted: A signal requested a stop.
    """
    with interrupt.restored(), interrupt.waking(con.interrupt):
        yield


@contextlib.contextmanager
def reading(
    con: duckdb.DuckDBPyConnection, name: str, of: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[None]:
    """Let one query in the block read a stream as if it were a table.

    An error of the stream is raised unchanged, not as DuckDB's error. This includes an interruption
    while the stream is read.
    """
    import duckdb

    errors: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                interrupt.check()
                yield batch
        except BaseException as error:
            errors.append(error)
            raise

    con.register(name, pa.RecordBatchReader.from_batches(of, guarded()))
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError):
        if errors:
            raise errors[0] from None
        raise
    finally:
        con.unregister(name)


def load_stream(
    con: duckdb.DuckDBPyConnection, name: str, of: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Fill a table from a stream; see `reading`."""
    with reading(con, "stream", of, batches):
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM stream")  # noqa: S608 - a name of ours


def _silent(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Show no progress bar.

    DuckDB prints one to stdout if it takes the process for an interactive one, and ``python -m``
    looks like one. The bar would end up in the middle of JSON output.
    """
    con.execute("SET enable_progress_bar = false")
    return con


class ScratchFile:
    """A file that is written at its end and read anywhere.

    Args:
        descriptor: Of the file, which is empty.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.end = 0
        """Its size in bytes."""

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            LakeError: The disk of temporary files is full.
        """
        left = memoryview(data)
        with naming_a_full_disk(OSError):
            while left:
                written = os.pwrite(self._descriptor, left, self.end)
                self.end += written
                left = left[written:]

    def read(self, start: int, length: int) -> bytes:
        """Read some of what was written."""
        return os.pread(self._descriptor, length, start)


@contextlib.contextmanager
def scratch_file() -> Iterator[ScratchFile]:
    """Open a file, deleted at the end of the block.

    Raises:
        LakeError: The disk of temporary files is full.
    """
    with contextlib.ExitStack() as held:
        with naming_a_full_disk(OSError):
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="steel-batch-"))
            file = held.enter_context(Path(folder, "rows").open("x+b", buffering=0))
        yield ScratchFile(file.fileno())


@contextlib.contextmanager
def naming_a_full_disk(*kinds: type[Exception]) -> Iterator[None]:
    """State which folder is full, if an error of these kinds says so.

    Raises:
        LakeError: The disk of temporary files is full.
    """
    try:
        yield
    except kinds as error:
        # DuckDB has several error types for a full disk; all contain the system's words.
        full = [reason for reason in _FULL if reason in str(error)]
        if not full:
            raise
        raise LakeError(
            f"the folder of temporary files, {tempfile.gettempdir()}: {full[0]}. Free space "
            "there, or set TMPDIR to a larger folder."
        ) from error
