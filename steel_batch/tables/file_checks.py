"""Checks that each file listed in a table's log exists and is intact, and that no others exist.

Every file is compared with the record that its run left. A file that an OPTIMIZE or the like wrote
to replace others has no record; the log states where it comes from, and it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import interrupt, layout
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.lake import Lake, ReadRequest
from steel_batch.tables.committed import WHOLE_BYTES
from steel_batch.tables.file_lists import RunLists, load_files
from steel_batch.tables.provenance import Rewriting, missing_entries, rewritings
from steel_batch.tables.table_log import LiveFile, removed_files

BLOCK_BYTES: Final = 8 << 20
DAMAGED = ("missing", "truncated", "changed")
"""Kinds of problems after which a file's rows are not checked further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem found."""

    kind: str
    """``missing``, ``truncated``, ``changed``, ``foreign``, ``duplicate``, ``unrecorded``,
    ``miscounted`` or ``lost``."""
    key: str
    message: str


def run_of(key: str) -> str | None:
    """The run that wrote a table's file, from the file's name."""
    place = layout.split_table_file(key)
    return None if place is None else place[0]


def check_log(store: Lake, table: str) -> Iterator[Problem]:
    """Report missing log entries without which the table cannot be read."""
    for key in missing_entries(store, table):
        yield Problem(
            kind="missing",
            key=key,
            message="the log lacks this entry, and no version of the table from there on can be "
            "read: restore it from a backup, or from the bucket's object versions",
        )


class FileChecks:
    """The checks of one table's files.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
        lists: The files that the runs of the table's files recorded.
    """

    def __init__(self, store: Lake, table: str, lists: RunLists) -> None:
        self._store = store
        self._table = table
        self._records = {
            record.target: record
            for (_, its_table), records in lists.items()
            if its_table == table
            for record in records or ()
        }
        self._rewritings: dict[str, Rewriting] | None = None

    def check(self, file: LiveFile, data: bytes | None = None) -> Iterator[Problem]:
        """Report what is wrong with one file.

        Args:
            file: The file.
            data: Its bytes, if they were read already.
        """
        store, record = self._store, self._records.get(file.key)
        size_bytes = len(data) if data is not None else _size_of(store, file.key)
        if size_bytes is None:
            yield Problem(
                kind="missing", key=file.key, message="the log lists it, but it does not exist"
            )
            return
        if size_bytes != file.size_bytes:
            yield Problem(
                kind="truncated",
                key=file.key,
                message=f"it has {size_bytes} bytes, the log states {file.size_bytes}",
            )
            return
        if record is None:
            yield from self._check_rewritten(file)
            return
        digest = _digest_of(store, file.key, data)
        if digest != record.sha256:
            yield Problem(
                kind="changed",
                key=file.key,
                message=f"its SHA-256 is {digest[:12]}…, expected {record.sha256[:12]}…",
            )
        elif file.num_rows != record.num_rows:
            yield Problem(
                kind="miscounted",
                key=file.key,
                message=f"the log states {file.num_rows} rows, its run wrote {record.num_rows}",
            )

    def _check_rewritten(self, file: LiveFile) -> Iterator[Problem]:
        """Check a file without a run's record: rewritten or added by another program."""
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
                message="no run has a record of its digest, and according to the log it does not "
                "replace files of runs",
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
                message=f"the log states {file.num_rows} rows, it has {num_rows}",
            )
        yield from self._check_sums(rewriting, file)

    def _check_sums(self, rewriting: Rewriting, file: LiveFile) -> Iterator[Problem]:
        """Compare the rows of an OPTIMIZE with what it rewrote; reported once per OPTIMIZE."""
        if not rewriting.keeps_rows or file.key != min(rewriting.added):
            return
        before = [self._rows_of(key) for key in rewriting.removed]
        after = list(rewriting.added.values())
        if None in before or None in after:
            return  # files without a run's record, or whose log entry is gone
        num_before, num_after = sum(map(int, filter(None, before))), sum(filter(None, after))
        if num_before != num_after:
            yield Problem(
                kind="miscounted",
                key=file.key,
                message=f"the {rewriting.operation} of version {rewriting.version} replaced "
                f"{num_before} rows with {num_after}",
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
    """Count the rows of a file by reading all of them."""
    with store.open_input(key) as stream, pq.ParquetFile(stream) as parquet:
        return sum(batch.num_rows for batch in parquet.iter_batches())


def _size_of(store: Lake, key: str) -> int | None:
    found = store.stat(key)
    return None if found is None else found.size_bytes


def _digest_of(store: Lake, key: str, data: bytes | None) -> str:
    if data is not None:
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    with store.open_input(key) as stream:
        while block := stream.read(BLOCK_BYTES):
            interrupt.check()
            digest.update(block)
    return digest.hexdigest()


def read_small_files(store: Lake, files: Sequence[LiveFile]) -> dict[str, bytes]:
    """Read the small ones of some files, many at once.

    Returns:
        Their bytes by key. A file that cannot be read, or is larger than the log states, is left
        out: what is wrong with it is found when it is checked by itself.
    """
    small = [file for file in files if file.size_bytes <= WHOLE_BYTES]
    requests = [ReadRequest(key=file.key, max_bytes=WHOLE_BYTES) for file in small]
    found = zip(small, store.read_many(requests), strict=True)
    return {file.key: data for file, data in found if isinstance(data, bytes)}


def foreign_files(
    store: Lake, table: str, live: set[str], engine: str | None, date: str | None
) -> Iterator[Problem]:
    """Report files in the partitions that the log does not list."""
    prefix = f"{table}/engine={engine}/" if engine else f"{table}/engine="
    removed: set[str] | None = None
    for item in store.list_objects(prefix):
        if item.key in live or not (date is None or f"/date={date}/" in item.key):
            continue
        if removed is None:
            removed = removed_files(store, table)
        if item.key in removed:
            message = (
                "the log states that it was removed, but readers of the plain files still see its "
                "rows: `steel-batch gc` deletes it"
            )
        else:
            message = "it is in a partition but in no log: readers of the plain files see it"
        yield Problem(kind="foreign", key=item.key, message=message)


def by_partition(live: Sequence[LiveFile]) -> Mapping[tuple[str, str], list[LiveFile]]:
    """Files by engine and date, sorted."""
    found: dict[tuple[str, str], list[LiveFile]] = {}
    for file in sorted(live, key=lambda f: (f.engine, f.date, f.key)):
        found.setdefault((file.engine, file.date), []).append(file)
    return found
