"""DuckDB, as every module here opens it."""

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
of the machine, which a plan of a hundred million images would take."""
THREADS: Final = 4
"""Each takes memory of its own, and what they wait for is Python."""
_FULL: Final = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def connect() -> duckdb.DuckDBPyConnection:
    """Open a database in memory that prints nothing."""
    return _silent(duckdb.connect(":memory:"))


@contextlib.contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database on disk, deleted in the end: its memory does not grow with what is put in.

    Keeps rows in no order but that of an ``ORDER BY``.

    Raises:
        LakeError: The disk of temporary files is full.
        Interrupted: A signal asked to stop, also in the midst of a query.
        KeyboardInterrupt: Where signals raise it; DuckDB itself raises another error for it.
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
            # DuckDB has many names for it, and the same words as the operating system.
            full = [reason for reason in _FULL if reason in str(error)]
            if not full:
                raise
            raise LakeError(
                f"{tempfile.gettempdir()}, where temporary files lie: {full[0]}. Make room there, "
                "or name a larger folder in TMPDIR."
            ) from error
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what DuckDB makes of a signal while it works
                raise KeyboardInterrupt from error
            raise
        finally:
            con.close()


@contextlib.contextmanager
def interruptible(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End a query within the block, however long it takes, when a signal asks to stop.

    Raises:
        Interrupted: A signal asked to stop.
    """
    with interrupt.restored(), interrupt.waking(con.interrupt):
        yield


def load_stream(
    con: duckdb.DuckDBPyConnection, name: str, of: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Fill a table from a stream.

    What ends the stream is raised as it is and not as DuckDB's error: also an interruption, which
    comes while the stream is read.
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

    DuckDB shows one on stdout where it takes the process for an interactive one, and ``python -m``
    looks like one: the bar would stand in the midst of JSON.
    """
    con.execute("SET enable_progress_bar = false")
    return con
