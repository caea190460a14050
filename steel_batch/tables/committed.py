"""What is committed of an engine and date: the rows, and which images have one."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import interrupt, layout, schema
from steel_batch.errors import LakeError, MissingObjectError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.runs import plan
from steel_batch.tables.deletion_vectors import Kept, select
from steel_batch.tables.table_log import LiveFile, live_files, look_at_date

WHOLE_BYTES: Final = 1 << 20
"""Up to this size, a file is read whole: that costs less than asking for its footer and columns."""


def read_file(
    store: Lake,
    key: str,
    fields: pa.Schema,
    *,
    kept: Kept | None = None,
    data: bytes | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of one file, or only some fields of their structs.

    Anything not in `fields` is not read: run-lengths are nine tenths of the predictions' bytes.

    Args:
        store: The store.
        key: The file.
        fields: The columns. A nullable one is null if an earlier build did not write it.
        kept: `LiveFile.kept`: deleted rows are left out.
        data: The file's bytes, if they were read already.

    Raises:
        LakeError: It does not exist, or is damaged.
        Interrupted: A signal requested a stop.
    """
    try:
        with (
            store.open_input(key) if data is None else io.BytesIO(data) as stream,
            pq.ParquetFile(stream) as parquet,
        ):
            there = pa.schema([f for f in fields if f.name in parquet.schema_arrow.names])
            leaves = [leaf for field in there for leaf in _leaves(field.name, field.type)]
            start = 0
            for batch in parquet.iter_batches(columns=leaves):
                interrupt.check()
                rows = schema.conform(batch.select(there.names), fields)
                if kept is not None:
                    rows = rows.filter(pa.array(select(kept, start, batch.num_rows)))
                start += batch.num_rows
                yield rows
    except (pa.ArrowException, OSError, MissingObjectError) as error:
        raise LakeError(
            f"{store.uri(key)} is committed but cannot be read: {paragraph_of(error)}. Restore it "
            "from a backup; `steel-batch verify` lists every such file."
        ) from error


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    """Paths of the Parquet columns that hold a field."""
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    return [path]


DateFiles = Mapping[str, Sequence[LiveFile]]
"""The committed files of an engine and date by table, as one look at each log found them."""


def files_of_date(
    store: Lake, engine: str, date: str, tables: Sequence[str] = layout.TABLES
) -> DateFiles:
    """Look at some tables, and return what an engine and date has there."""
    return {table: live_files(store, table, engine, date) for table in tables}


@dataclass(frozen=True, slots=True)
class DateLook:
    """What one look at each table found of an engine and date."""

    files: DateFiles
    outdated: Sequence[str]
    """The tables that are missing, or of an earlier build."""


def look_at_tables(store: Lake, engine: str, date: str) -> DateLook:
    """Look at the tables, once each."""
    found = {table: look_at_date(store, table, engine, date) for table in layout.TABLES}
    return DateLook(
        files={table: look[0] if look else [] for table, look in found.items()},
        outdated=[table for table, look in found.items() if look is None or not look[1]],
    )


def read_rows(
    store: Lake, files: Sequence[LiveFile], fields: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of every row of some committed files; see `read_file`."""
    for file in files:
        yield from read_file(store, file.key, fields, kept=file.kept)


def known_images(store: Lake, files: DateFiles) -> Iterator[pa.RecordBatch]:
    """Key and etag of every image that has a committed row, or a quarantine entry with its code."""
    no_code = [field for field in plan.KNOWN if field.name != "error_code"]
    for batch in read_rows(store, files[layout.PREDICTIONS], pa.schema(no_code)):
        codes = pa.nulls(batch.num_rows, pa.string())
        yield pa.RecordBatch.from_arrays([*batch.columns, codes], schema=plan.KNOWN)
    yield from read_rows(store, files[layout.QUARANTINE], plan.KNOWN)


def known_in(store: Lake, files: DateFiles) -> Iterator[tuple[str, str, str | None]]:
    """Key and etag of each image of some files, and the code of those in quarantine.

    A small file is read whole, in one request.

    Args:
        store: The store.
        files: Files of the predictions and the quarantine, by table.
    """
    for table in (layout.PREDICTIONS, layout.QUARANTINE):
        names = [n for n in plan.KNOWN.names if n != "error_code" or table == layout.QUARANTINE]
        fields = pa.schema([plan.KNOWN.field(name) for name in names])
        for file in files.get(table, ()):
            data = None
            if file.size_bytes <= WHOLE_BYTES:
                with contextlib.suppress(LakeError):  # read_file tells what is wrong with it
                    data = store.read(file.key, max_bytes=WHOLE_BYTES)
            for batch in read_file(store, file.key, fields, kept=file.kept, data=data):
                columns = [column.to_pylist() for column in batch.columns]
                columns += [[None] * batch.num_rows] * (len(plan.KNOWN) - len(columns))
                yield from zip(*columns, strict=True)


def quarantined_keys(store: Lake, engine: str, date: str) -> Iterator[str]:
    """The keys of the images in quarantine."""
    fields = pa.schema([plan.KNOWN.field("image_key")])
    files = live_files(store, layout.QUARANTINE, engine, date)
    for batch in read_rows(store, files, fields):
        yield from batch["image_key"].to_pylist()


def digest_files(files: DateFiles) -> str:
    """A digest of the names of the files that `known_images` reads, and of their deleted rows.

    It changes with every commit of a run of the engine and date.
    """
    known = [*files[layout.PREDICTIONS], *files[layout.QUARANTINE]]
    names = [f.key if f.kept is None else f"{f.key} {f.kept.hex()}" for f in known]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
