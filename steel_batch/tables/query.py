"""SQL over a store's tables: DuckDB over the files that Delta says are there."""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa

from steel_batch import layout
from steel_batch.database import connect
from steel_batch.errors import ConfigError, LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.tables.commit import open_table

_UNREADABLE: Final = "reading the stream registered as"
"""What DuckDB says where it was not it that failed, but what it reads from."""


def run_query(store: Lake, sql: str) -> pa.Table:
    """Answer a question about `predictions`, `class_summaries` and `quarantine`.

    The tables are views of the newest committed version of each, with the partition columns
    `engine` and `date`; only the columns and files that the question needs are read.

    Raises:
        ConfigError: The SQL is wrong; the message is DuckDB's.
        LakeError: There is no table in the store yet.
    """
    con = connect()
    try:
        for table in layout.TABLES:
            con.register(table, open_table(store, table).to_pyarrow_dataset())
        found = con.sql(sql)
        if found is None:
            raise ConfigError(
                "the query cannot be answered: it gives no rows. The tables are read with SELECT; "
                "nothing here changes them."
            )
        return found.to_arrow_table()
    except duckdb.Error as error:
        if _UNREADABLE in str(error):
            raise LakeError(
                f"a committed file cannot be read: {paragraph_of(error)}. `steel-batch verify "
                f"--store {store.url}` names every such file; bring back a copy of them."
            ) from error
        raise ConfigError(f"the query cannot be answered: {error}") from error
    finally:
        con.close()
