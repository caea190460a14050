"""The files of a table in a folder, as an Arrow dataset that is quick to read where they are small.

A table of class summaries has a file of a few kilobytes per date, and Arrow's scanner takes three
times as long per file as DuckDB. The connection of a query must not open files itself
(`tables.query.confine`), so another one reads them for it: the same files, columns and rows.

Only files that runs added are read so, as both readers understand their types alike. Spark, say,
writes times without a zone, which DuckDB takes for local time and Arrow for UTC.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs

from steel_batch import layout
from steel_batch.database import scratch_database
from steel_batch.errors import LakeError
from steel_batch.lake import why_unusable
from steel_batch.tables.table_log import LiveFile

MANY: Final = 64
"""Arrow reads fewer files before a database is open."""
MOST_BYTES: Final = 32 << 20
"""Arrow streams files that have more bytes in all; what DuckDB reads here is in memory at once."""
MOST_UNPACKED_BYTES: Final = 128 << 20
"""The same of rows in memory: a file of a few bytes may have any number of equal rows."""
BATCH_ROWS: Final = 8192
FORMAT: Final = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True)
)
_PLAIN: Final = re.compile(r"[\w/.+-]+", re.ASCII)
"""Paths of folders that contain no pattern."""


def fragments_of(
    files: Mapping[str, LiveFile], fields: pa.Schema, filesystem: pa_fs.FileSystem
) -> list[ds.ParquetFileFragment]:
    """The files of a table as fragments of a dataset, each with its engine and date.

    Args:
        files: The files by their paths in `filesystem`.
        fields: The table's columns.
        filesystem: What opens the files.
    """
    engine, date, kind = ds.field("engine"), ds.field("date"), fields.field("date").type
    fragments = []
    for path, file in files.items():
        day = pa.scalar(datetime.date.fromisoformat(file.date), kind)
        place = (engine == file.engine) & (date == day)
        fragments.append(FORMAT.make_fragment(path, filesystem, partition_expression=place))
    return fragments


class FolderDataset(ds.FileSystemDataset):  # type: ignore[misc] # pyarrow has no types
    """Files of a table in a folder; DuckDB calls `scanner` for each query over the dataset.

    Args:
        folder: The table's folder.
        files: The files by their paths in the folder.
        fields: The table's columns.
        many: How many files have to be read for DuckDB to read them.

    Raises:
        LakeError: A path leads out of the folder.
    """

    def __init__(
        self, folder: str, files: Mapping[str, LiveFile], fields: pa.Schema, *, many: int = MANY
    ) -> None:
        for path in files:
            if (reason := why_unusable(path)) is not None:
                raise LakeError(f"the log of {folder} lists the file {path!r}: {reason}.")
        # Each read of a file that is opened in Python would wait for the interpreter.
        there = pa_fs.SubTreeFileSystem(folder, pa_fs.LocalFileSystem())
        super().__init__(fragments_of(files, fields, there), fields, FORMAT, there)
        self._folder = folder
        self._files = files
        self._many = many

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        """A scanner of the rows that match; see `pyarrow.dataset.Dataset.scanner`."""
        paths = [fragment.path for fragment in self.get_fragments(filter)]
        if self._are_many_and_small(paths):
            # A column that the expression refers to is named in it.
            named = [*(self.schema.names if columns is None else columns), str(filter)]
            rows = self._read(paths, [f for f in self.schema if any(f.name in n for n in named)])
            if rows is not None:
                dataset = ds.InMemoryDataset(rows)
                return dataset.scanner(columns=columns, filter=filter, **options)
        return super().scanner(columns=columns, filter=filter, **options)

    def _are_many_and_small(self, paths: Sequence[str]) -> bool:
        files = [self._files[path] for path in paths]
        return (
            len(files) >= self._many
            and sum(file.size_bytes for file in files) <= MOST_BYTES
            and _PLAIN.fullmatch(self._folder) is not None
            and all(
                path.startswith(f"{layout.partition(file.engine, file.date)}/")
                and layout.split_table_file(path) is not None
                and _PLAIN.fullmatch(path.replace("=", "")) is not None
                for path, file in zip(paths, files, strict=True)
            )
        )

    def _read(self, paths: Sequence[str], fields: Sequence[pa.Field]) -> pa.Table | None:
        """Some columns of files; None if they are large or DuckDB cannot read them together."""
        names = ", ".join(f'"{field.name}"' for field in fields)
        # With a parameter, DuckDB 1.5 has the whole result in memory before the first batch. What
        # `_PLAIN` lets through needs no quoting.
        found = ", ".join(f"'{self._folder}/{path}'" for path in paths)
        sql = (
            f"SELECT {names} FROM read_parquet([{found}], "  # noqa: S608 - fields, plain paths
            "hive_partitioning = true, hive_types = {'engine': VARCHAR, 'date': DATE})"
        )
        try:
            with scratch_database() as con:
                batches, num_bytes = [], 0
                with con.sql(sql).to_arrow_reader(BATCH_ROWS) as reader:
                    for batch in reader:
                        batches.append(batch)
                        num_bytes += batch.nbytes
                        if num_bytes > MOST_UNPACKED_BYTES:
                            return None
                    rows = pa.Table.from_batches(batches, reader.schema)
                return rows.cast(pa.schema(fields))
        except (duckdb.Error, pa.ArrowException, OSError, ValueError, LakeError):
            return None  # files of several builds, or a damaged file: Arrow states which
