"""Is each file that a table's log names there and whole, and does it name each that is there?

Every file is compared with the record that its run left of it. A file that an OPTIMIZE or the like
put in the place of others has no record; the log says where it comes from, and it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import interrupt, layout
from steel_batch.database import scratch_database
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.tables.commit import LiveFile, read_file, removed_files
from steel_batch.tables.merge import DataFile, load_files
from steel_batch.tables.provenance import Rewriting, missing_entries, rewritings

BLOCK_BYTES = 8 << 20
DAMAGED = ("missing", "truncated", "changed")
"""Kinds of problems of files whose rows are not looked at any further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    """``missing``, ``truncated``, ``changed``, ``foreign``, ``duplicate``, ``unrecorded``,
    ``miscounted`` or ``lost``."""
    key: str
    message: str


def run_of(key: str) -> str | None:
    """The run that wrote a table's file, from its name."""
    place = layout.split_table_file(key)
    return None if place is None else place[0]


def check_log(store: Lake, table: str) -> Iterator[Problem]:
    """Log entries that are missing, without which the table cannot be read."""
    for key in missing_entries(store, table):
        yield Problem(
            kind="missing",
            key=key,
            message="the log lacks this entry, and no version of the table from there on can be "
            "read: restore it from a backup, or from the bucket's versions",
        )


class FileChecks:
    """The checks of one table's files.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        live: The files to check, of those that the log names.
    """

    def __init__(self, store: Lake, table: str, live: list[LiveFile]) -> None:
        self._store = store
        self._table = table
        self._live = live
        self._records = _records(store, table, live)
        self._rewritings: dict[str, Rewriting] | None = None

    def check(self, file: LiveFile) -> Iterator[Problem]:
        """What is wrong with one file."""
        store, record = self._store, self._records.get(file.key)
        found = store.stat(file.key)
        if found is None:
            yield Problem(
                kind="missing", key=file.key, message="the log names it and it is not there"
            )
            return
        if found.size_bytes != file.bytes:
            yield Problem(
                kind="truncated",
                key=file.key,
                message=f"it has {found.size_bytes} bytes, the log says {file.bytes}",
            )
            return
        if record is None:
            yield from self._check_rewritten(file)
            return
        digest = hashlib.sha256()
        with store.open_input(file.key) as stream:
            while block := stream.read(BLOCK_BYTES):
                interrupt.check()
                digest.update(block)
        if digest.hexdigest() != record.sha256:
            yield Problem(
                kind="changed",
                key=file.key,
                message=f"its SHA-256 is {digest.hexdigest()[:12]}…, it was {record.sha256[:12]}…",
            )
        elif file.num_rows != record.num_rows:
            yield Problem(
                kind="miscounted",
                key=file.key,
                message=f"the log says {file.num_rows} rows, its run wrote {record.num_rows}",
            )

    def _check_rewritten(self, file: LiveFile) -> Iterator[Problem]:
        """A file that no run has a record of: somebody rewrote others as this one, or put it in."""
        if self._rewritings is None:
            self._rewritings = {
                key: rewriting
                for rewriting in rewritings(self._store, self._table)
                for key in rewriting.added
            }
        rewriting = self._rewritings.get(file.key)
        if rewriting is None:
            yield Problem(
                kind="unrecorded",
                key=file.key,
                message="no run has a record of its digest, and the log does not say that it took "
                "the place of files of runs",
            )
            return
        try:
            num_rows = _count_rows(self._store, file.key)
        except (pa.ArrowException, OSError, LakeError) as error:
            yield Problem(
                kind="changed", key=file.key, message=f"it cannot be read: {paragraph_of(error)}"
            )
            return
        if num_rows != file.num_rows:
            yield Problem(
                kind="miscounted",
                key=file.key,
                message=f"the log says {file.num_rows} rows, it has {num_rows}",
            )
        yield from self._check_sums(rewriting, file)

    def _check_sums(self, rewriting: Rewriting, file: LiveFile) -> Iterator[Problem]:
        """An OPTIMIZE has as many rows as what it rewrote; said once, of its first file."""
        if not rewriting.keeps_rows or file.key != min(rewriting.added):
            return
        before = [self._rows_of(key) for key in rewriting.removed]
        after = list(rewriting.added.values())
        if None in before or None in after:
            return  # of files that no run has a record of, or whose entry is gone
        num_before, num_after = sum(map(int, filter(None, before))), sum(filter(None, after))
        if num_before != num_after:
            yield Problem(
                kind="miscounted",
                key=file.key,
                message=f"the {rewriting.operation} of version {rewriting.version} put "
                f"{num_after} rows in the place of {num_before}",
            )

    def _rows_of(self, key: str) -> int | None:
        run = run_of(key)
        if run is not None:
            for record in load_files(self._store, run, self._table) or ():
                if record.target == key:
                    return record.num_rows
        rewriting = (self._rewritings or {}).get(key)
        return None if rewriting is None else rewriting.added.get(key)


def _count_rows(store: Lake, key: str) -> int:
    """The rows of a file, all of which are read."""
    with store.open_input(key) as stream, pq.ParquetFile(stream) as parquet:
        return sum(batch.num_rows for batch in parquet.iter_batches())


def _records(store: Lake, table: str, live: list[LiveFile]) -> dict[str, DataFile]:
    """What the runs that wrote these files noted of them, by key."""
    runs = {run_of(file.key) for file in live} - {None}
    found: dict[str, DataFile] = {}
    for run in sorted(str(run) for run in runs):
        for record in load_files(store, run, table) or ():
            found[record.target] = record
    return found


def foreign_files(
    store: Lake, table: str, live: set[str], engine: str | None, date: str | None
) -> Iterator[Problem]:
    """Files in the partitions that the log does not name."""
    prefix = f"{table}/engine={engine}/" if engine else f"{table}/engine="
    removed: set[str] | None = None
    for item in store.list_objects(prefix):
        if item.key in live or not (date is None or f"/date={date}/" in item.key):
            continue
        if removed is None:
            removed = removed_files(store, table)
        if item.key in removed:
            message = (
                "the log says that it was removed, and readers of the plain files still see its "
                "rows: `steel-batch gc` deletes it"
            )
        else:
            message = (
                "it lies in a partition and no log names it: readers of the plain files see it"
            )
        yield Problem(kind="foreign", key=item.key, message=message)


def duplicate_images(
    store: Lake, table: str, live: list[LiveFile]
) -> Iterator[tuple[tuple[str, str], Problem]]:
    """Engines and dates where images have more than one row."""
    for (engine, date), files in by_partition(live).items():
        with scratch_database() as con:
            fields = pa.schema([("image_key", pa.string())])
            con.register("keys", pa.RecordBatchReader.from_batches(fields, _keys(store, files)))
            num_twice, example = con.sql(
                "SELECT count(*), min(image_key) FROM "
                "(SELECT image_key FROM keys GROUP BY ALL HAVING count(*) > 1)"
            ).fetchall()[0]
        if num_twice:
            yield (
                (engine, date),
                Problem(
                    kind="duplicate",
                    key=f"{table}/{layout.partition(engine, date)}",
                    message=f"{num_twice} images have more than one row, for example {example}",
                ),
            )


def _keys(store: Lake, files: list[LiveFile]) -> Iterator[pa.RecordBatch]:
    for file in files:
        try:
            yield from read_file(
                store, file.key, pa.schema([("image_key", pa.string())]), kept=file.kept
            )
        except LakeError:
            continue  # no run has a record of it, or it was changed since it was checked


def by_partition(live: list[LiveFile]) -> Mapping[tuple[str, str], list[LiveFile]]:
    """Files by their engine and date, in order."""
    found: dict[tuple[str, str], list[LiveFile]] = {}
    for file in sorted(live, key=lambda f: (f.engine, f.date, f.key)):
        found.setdefault((file.engine, file.date), []).append(file)
    return found
