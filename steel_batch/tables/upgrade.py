"""Brings the logs of an earlier build's store to the state that this build would have written.

A run does what readers need before it commits (`evolution.evolve`), without reading a file. Here
the bounds that it removes are recomputed, for every column, from each file's footer.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from steel_batch import interrupt
from steel_batch.errors import LakeError, MissingObjectError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.tables.evolution import (
    ATTEMPTS,
    PAUSE_SECONDS,
    evolve,
    partly_bounded_files,
    put_statistics,
    unbounded_files,
)
from steel_batch.tables.statistics import columns_with_nan, file_statistics
from steel_batch.tables.table_log import SCHEMAS, open_table

log = logging.getLogger(__name__)

READ_AT_ONCE: Final = 16
"""Footers that are read concurrently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What was done to one table."""

    table: str
    is_changed: bool
    """Whether columns were added or wrong bounds were removed."""
    num_bounded: int
    """Number of files that got bounds of all columns in the log."""
    unreadable: tuple[str, ...]
    """Keys of files that are missing or damaged; they are left as they are."""


def count_hiding_files(store: Lake, table: str) -> int:
    """How many files of a table have bounds by which some readers miss rows.

    Raises:
        LakeError: There is no such table, or it cannot be read.
    """
    return int(partly_bounded_files(open_table(store, table)).num_rows)


def upgrade_table(store: Lake, table: str) -> Upgrade:
    """Bring one table up to date. No row changes, and readers may read meanwhile.

    Raises:
        LakeError: There is no such table, it is not ours, or its log cannot be written.
    """
    is_changed = evolve(partial(open_table, store, table), SCHEMAS[table])
    known: dict[str, dict[str, Any]] = {}
    unreadable: set[str] = set()
    failures: list[Exception] = []
    while len(failures) < ATTEMPTS:
        interrupt.sleep(PAUSE_SECONDS * len(failures))
        opened = open_table(store, table)
        files = unbounded_files(opened)
        fields = pa.schema(opened.schema().to_arrow())
        partition = opened.metadata().partition_columns
        columns = pa.schema([field for field in fields if field.name not in partition])
        paths = [p for p in files["path"].to_pylist() if p not in known and p not in unreadable]
        read = partial(_statistics, store, table, columns)
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for path, statistics in zip(paths, pool.map(read, paths), strict=True):
                if statistics is None:
                    unreadable.add(path)
                else:
                    known[path] = statistics
        names = [path for path, statistics in known.items() if "minValues" in statistics]
        bounded = files.filter(pc.is_in(files["path"], pa.array(names, pa.string())))
        try:
            if bounded.num_rows:
                put_statistics(opened, bounded, known)
        except (DeltaError, OSError) as error:
            failures.append(error)
        else:
            return Upgrade(
                table=table,
                is_changed=is_changed,
                num_bounded=bounded.num_rows,
                unreadable=tuple(f"{table}/{path}" for path in sorted(unreadable)),
            )
    raise LakeError(
        f"the bounds of the files of {store.uri(table)} cannot be written to its log: "
        f"{paragraph_of(failures[-1])}. Run the same command again."
    ) from failures[-1]


def _statistics(store: Lake, table: str, columns: pa.Schema, path: str) -> dict[str, Any] | None:
    """The statistics of a committed file; None if it cannot be read."""
    key = f"{table}/{path}"
    try:
        with store.open_input(key) as stream, pq.ParquetFile(stream) as file:
            there = file.schema_arrow.names
            floating = [f.name for f in columns if pa.types.is_floating(f.type) and f.name in there]
            with_nan = columns_with_nan(file.read(floating)) if floating else []
            return file_statistics(file.metadata, columns, with_nan=with_nan)
    except (pa.ArrowException, OSError, MissingObjectError) as error:
        log.warning("%s cannot be read: %s", key, paragraph_of(error))
        return None
