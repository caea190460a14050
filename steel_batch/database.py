"""How every module here opens DuckDB."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from steel_batch import interrupt
from steel_batch.errors import LakeError

MEMORY: Final = "512MB"
"""What a database on disk keeps in memory; the rest is on disk. DuckDB's own limit is four fifths
of the machine's memory, and a plan of a hundred million images would use all of it."""
THREADS: Final = 4
"""Each thread needs memory of its own, and they mostly wait for Python."""
_FULL: Final = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory that prints nothing."""
    return _silent(duckdb.connect(":memory:"))


@contextlib.contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A temporary database on disk: its memory use does not grow with its content.

    Rows have no order unless a query has ``ORDER BY``.

    Raises:
        LakeError: The disk of temporary files is full.
        Interrupted: A signal requested a stop, even during a query.
        KeyboardInterrupt: A signal raised it; DuckDB itself would raise another error.
    """
    with tempfile.TemporaryDirectory(prefix="steel-batch-") as scratch:
        con = _silent(duckdb.connect(str(Path(scratch) / "scratch.duckdb")))
        try:
            con.execute("SET temp_directory = ?", [scratch])
            con.execute("SET memory_limit = ?", [MEMORY])
            con.execute("SET threads = ?", [min(THREADS, os.cpu_count() or 1)])
            con.execute("SET preserve_insertion_order = false")
            with interruptible(con):
                yield con
        except (duckdb.Error, OSError) as error:
            # DuckDB has several error types for a full disk; all contain the system's words.
            full = [reason for reason in _FULL if reason in str(error)]
            if not full:
                raise
            raise LakeError(
                f"the folder of temporary files, {tempfile.gettempdir()}: {full[0]}. Free space "
                "there, or set TMPDIR to a larger folder."
            ) from error
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # DuckDB raises this when a signal arrives
                raise KeyboardInterrupt from error
            raise
        finally:
            con.close()


@contextlib.contextmanager
def interruptible(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End a query in the block when a signal requests a stop, however long the query takes.

    Raises:
        Interrupted: A signal requested a stop.
    """
    with interrupt.restored(), interrupt.waking(con.interrupt):
        yield


def load_stream(
    con: duckdb.DuckDBPyConnection, name: str, of: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Fill a table from a stream.

    An error of the stream is raised unchanged, not as DuckDB's error. This includes an interruption
    while the stream is read.
    """
    errors: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                interrupt.check()
                yield batch
        except BaseException as error:
            errors.append(error)
            raise

    con.register("stream", pa.RecordBatchReader.from_batches(of, guarded()))
    try:
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM stream")  # noqa: S608 - a name of ours
    except duckdb.Error:
        if errors:
            raise errors[0] from None
        raise
    finally:
        con.unregister("stream")


def _silent(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Show no progress bar.

    DuckDB prints one to stdout if it takes the process for an interactive one, and ``python -m``
    looks like one. The bar would end up in the middle of JSON output.
    """
    con.execute("SET enable_progress_bar = false")
    return con
