"""SQL over a store's tables: DuckDB reads the files that Delta lists.

Files are selected by their partitions and their own footers, never by the column statistics in the
log: see `tables.statistics`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from steel_batch import layout
from steel_batch.database import connect, interruptible
from steel_batch.errors import ConfigError, LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.tables.committed import read_file
from steel_batch.tables.evolution import missing_columns
from steel_batch.tables.folder_dataset import FORMAT, FolderDataset, fragments_of
from steel_batch.tables.table_log import SCHEMAS, LiveFile, files_of, open_table

_UNREADABLE: Final = ("reading the stream registered as", "arrow_scan: get_next failed()")
"""Parts of DuckDB's message, of 2.0 and of 1.5, if a stream that it reads fails."""


def run_query(store: Lake, sql: str) -> pa.Table:
    """Run a query over `predictions`, `class_summaries` and `quarantine`.

    The tables are views of the newest committed version of each, with the partition columns
    `engine` and `date`; only the columns and files that the query needs are read.

    SQL reaches these tables and nothing else: it reads and writes no file and loads no extension,
    and cannot change that.

    Args:
        store: The store.
        sql: The question.

    Raises:
        ConfigError: The SQL is wrong; the message is DuckDB's.
        LakeError: There is no table in the store yet.
    """
    con = connect()
    scratch = tempfile.TemporaryDirectory(prefix="steel-batch-")
    try:
        for table in layout.TABLES:
            opened = open_table(store, table)
            con.register(table, open_dataset(store, table, opened, Path(scratch.name)))
        con.execute("SET temp_directory = ?", [scratch.name])  # else .tmp in the working folder
        confine(con)
        with interruptible(con):
            found = con.sql(sql)
            if found is None:
                raise ConfigError(
                    "the query cannot be answered: it returns no rows. Use SELECT; tables cannot "
                    "be changed here."
                )
            return found.to_arrow_table()
    except duckdb.Error as error:
        if is_unreadable(error):
            raise LakeError(
                f"a committed file cannot be read: {paragraph_of(error)}. "
                f"{command(store, 'verify')} lists every such file; restore them from a backup."
            ) from error
        raise ConfigError(f"the query cannot be answered: {error}") from error
    finally:
        con.close()
        scratch.cleanup()


def is_unreadable(error: Exception) -> bool:
    """Whether a query failed as a file could not be read, not because the query is wrong."""
    return any(part in str(error) for part in _UNREADABLE)


def confine(con: duckdb.DuckDBPyConnection) -> None:
    """Have SQL reach what is registered and nothing else, for good."""
    con.execute("SET python_enable_replacements = false")  # this program's variables, as tables
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def open_dataset(
    store: Lake,
    table: str,
    opened: DeltaTable,
    scratch: Path,
    *,
    files: Sequence[LiveFile] | None = None,
) -> ds.Dataset:
    """The rows of a table in the opened version, as an Arrow dataset.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        opened: That table.
        scratch: A folder for copies of files with deleted rows, which Arrow does not support; must
            exist as long as the dataset is used.
        files: Other files than those of the version.

    Raises:
        LakeError: A file with deleted rows cannot be read.
    """
    found = pa.schema(opened.schema().to_arrow())
    # If an earlier build wrote the store last, new columns are null.
    fields = pa.schema([*found, *missing_columns(opened, SCHEMAS[table])])
    files = files_of(opened, table) if files is None else files
    whole = {file.key.removeprefix(f"{table}/"): file for file in files if file.kept is None}
    cut = {
        _copy_kept(store, file, scratch / f"{table}-{number}.parquet"): file
        for number, file in enumerate(files)
        if file.kept is not None
    }
    parts: list[ds.Dataset]
    if store.is_s3:
        sizes = {path: file.size_bytes for path, file in whole.items()}
        handler = DeltaStorageHandler(store.uri(table), store.storage_options(), sizes)
        parts = [_dataset(whole, fields, pa_fs.PyFileSystem(handler))]
    else:
        parts = [FolderDataset(store.uri(table), whole, fields)]
    if cut:
        parts.append(_dataset(cut, fields, pa_fs.LocalFileSystem()))
    return ds.dataset(parts) if len(parts) > 1 else parts[0]


def _dataset(
    files: Mapping[str, LiveFile], fields: pa.Schema, filesystem: pa_fs.FileSystem
) -> ds.FileSystemDataset:
    fragments = fragments_of(files, fields, filesystem)
    return ds.FileSystemDataset(fragments, fields, FORMAT, filesystem)


def _copy_kept(store: Lake, file: LiveFile, target: Path) -> str:
    """Copy a file without its deleted rows."""
    with store.open_input(file.key) as stream:
        fields = pq.read_schema(stream)
    with pq.ParquetWriter(target, fields) as writer:
        for rows in read_file(store, file.key, fields, kept=file.kept):
            writer.write_batch(rows)
    return str(target)
