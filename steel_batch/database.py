"""DuckDB, as every module here opens it."""

from __future__ import annotations

from pathlib import Path

import duckdb


def connect(file: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open a database in a file, or in memory, that prints nothing.

    DuckDB shows a progress bar on stdout where it takes the process for an interactive one, and
    ``python -m`` looks like one: the bar would stand in the midst of JSON.
    """
    con = duckdb.connect(":memory:" if file is None else str(file))
    con.execute("SET enable_progress_bar = false")
    return con
