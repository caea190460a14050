"""Which of the listed images a plan is of: those without a row or an entry, and changed ones.

Images are compared in groups of keys (`partitions`), so that memory does not grow with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import interrupt
from steel_batch.database import renewed
from steel_batch.lake import Lake
from steel_batch.runs.in_order import BATCH_ROWS, SORTED, with_second_keys
from steel_batch.runs.other_keys import NEW, ROWS, find_other_keys
from steel_batch.runs.packed_file import rows_of
from steel_batch.runs.partitions import GROUP_BYTES, PART_BYTES, Partitions
from steel_batch.runs.plan import KNOWN, RETRY
from steel_batch.sources.arrays import of_flags, of_numbers, scalar_of
from steel_batch.sources.look_up import look_up

if TYPE_CHECKING:
    import duckdb

OF_A_MOMENT: Final = ("missing", "changed")
"""Codes that state nothing about the bytes listed under that etag: they were never read."""
FORMER_KEY: Final = r"\.tar#[0-7]{11,}/"
"""In GNU tar's incremental backups, earlier builds took a time for the beginning of a name."""
_IN_TAR: Final = "contains(image_key, '.tar#')"
_KEY: Final = (
    f"CASE WHEN {_IN_TAR} THEN regexp_replace(image_key, '{FORMER_KEY}', '.tar#') "
    "ELSE image_key END"
)
"""What images are grouped by: a former key is in the group of the key of today."""
_TABLES: Final = {"known": KNOWN, "listed": SORTED, "former": ROWS}
CHOSEN: Final = pa.schema([*SORTED, pa.field("is_retried", pa.bool_())])
"""A chosen image, and whether it is in quarantine."""


@dataclass(slots=True)
class Counts:
    """How many images there are; see `PlanInfo`."""

    num_listed: int = 0
    num_wanted: int = 0
    num_committed: int = 0
    num_changed: int = 0
    num_retried: int = 0
    num_gone: int = 0
    num_other_keys: int = 0
    example_other_keys: tuple[str, str] | None = None


def choose(
    con: duckdb.DuckDBPyConnection,
    known: Iterable[pa.RecordBatch],
    listed: Iterable[pa.RecordBatch],
    settings: dict[str, Any],
    counts: Counts,
    *,
    is_seen: bool,
    rows: Callable[[], Iterable[pa.RecordBatch]],
    lake: Lake | None,
    part_bytes: int = PART_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Leave out the images that have a row or an entry already.

    Args:
        con: A scratch database.
        known: See `planning.build_plan`, as the other arguments.
        listed: `SORTED` batches.
        settings: Those of the plan.
        counts: Filled in.
        is_seen: Whether the images come from a listing.
        rows: Yields the committed rows.
        lake: Root of the images.
        part_bytes: See `Partitions`.
        group_bytes: The same.

    Yields:
        `CHOSEN` batches, in no particular order.
    """
    again = "known.etag <> listed.etag"
    if settings.get(RETRY):
        again = "true"
    elif is_seen:
        again += f" OR known.error_code IN {OF_A_MOMENT}"
    retried = f"(known.error_code IS NOT NULL AND ({again}))"
    wanted = f"(known.etag IS NULL OR {retried}"
    wanted += " OR known.etag <> listed.etag)" if settings["rescore_changed"] else ")"
    joined = "FROM listed LEFT JOIN known USING (image_key)"
    count = (
        f"SELECT count(*), count(*) FILTER ({wanted}), "
        f"count(*) FILTER (known.etag = listed.etag AND NOT {retried}), "
        f"count(*) FILTER (known.etag <> listed.etag AND NOT {retried}), "
        f"count(*) FILTER ({retried}) {joined}"
    )
    select = f"SELECT number, {retried} AS is_retried {joined} WHERE {wanted} ORDER BY number"
    num_known = 0
    sums = np.zeros(5, np.int64)
    tables = {name: (fields, _KEY) for name, fields in _TABLES.items()}
    with Partitions(con, tables, part_bytes=part_bytes, group_bytes=group_bytes) as images:
        for batch in known:
            images.add("known", batch)
        for batch in listed:
            images.add("listed", batch)
        with contextlib.closing(renewed(con)) as databases:
            for group, database in zip(images.groups(), databases, strict=False):
                if lake is not None:
                    group["listed"] = _look_up_known(lake, group["listed"], group["known"])
                with _loaded(database, group) as num:
                    num_known += num
                    sums += database.execute(count).fetchall()[0]
                    chosen = database.execute(select).fetchnumpy()
                if len(chosen["number"]):
                    batch = rows_of(group["listed"], of_numbers(chosen["number"]))
                    columns = [*batch.columns, of_flags(chosen["is_retried"])]
                    yield pa.RecordBatch.from_arrays(columns, schema=CHOSEN)
        (
            counts.num_listed,
            counts.num_wanted,
            counts.num_committed,
            counts.num_changed,
            counts.num_retried,
        ) = sums.tolist()
        counts.num_gone = num_known - int(sums[2:].sum())
        if counts.num_gone:
            for batch in rows():
                images.add("former", batch)
            found = find_other_keys(con, _gone_and_new(con, images))
            counts.num_other_keys, counts.example_other_keys = found


@contextlib.contextmanager
def _loaded(con: duckdb.DuckDBPyConnection, group: dict[str, pa.RecordBatch]) -> Iterator[int]:
    """Let queries in the block read a group: the tables `known`, `listed` and `former`.

    Yields:
        How many known images there are.
    """
    listed = pa.table(group["listed"].columns, group["listed"].schema)
    numbers = of_numbers(np.arange(listed.num_rows))
    con.register("listed", listed.drop_columns("tags").append_column("number", numbers))
    con.register("former", pa.table(group["former"].columns, ROWS))
    con.register("rows", pa.table(group["known"].columns, KNOWN))
    try:
        con.execute("CREATE TABLE known AS FROM rows")
        con.execute(  # a row outranks an entry that its commit has yet to remove
            "DELETE FROM known WHERE error_code IS NOT NULL AND image_key IN "
            "(SELECT image_key FROM known WHERE error_code IS NULL)"
        )
        [(num_known,)] = con.execute("SELECT count(*) FROM known").fetchall()
        _recognise_former_keys(con)
        yield num_known
        con.execute("DROP TABLE known")
    finally:
        for name in ("listed", "former", "rows"):
            con.unregister(name)


def _recognise_former_keys(con: duckdb.DuckDBPyConnection) -> None:
    """Recognise images of the same tar that were committed under a key of an earlier build."""
    is_former = f"({_IN_TAR} AND regexp_matches(image_key, $1))"
    [(num_former,)] = con.execute(
        f"SELECT count(*) FROM known WHERE {is_former}",  # noqa: S608 - ours
        [FORMER_KEY],
    ).fetchall()
    if num_former:
        con.execute(
            "INSERT INTO known SELECT DISTINCT listed.image_key, listed.etag, former.error_code "  # noqa: S608 - ours
            f"FROM (FROM known WHERE {is_former}) AS former JOIN listed "
            "ON regexp_replace(former.image_key, $1, '.tar#') = listed.image_key "
            "AND former.etag = listed.etag "
            "WHERE former.image_key NOT IN (SELECT image_key FROM listed) "
            "AND listed.image_key NOT IN (SELECT image_key FROM known)",
            [FORMER_KEY],
        )


def _look_up_known(lake: Lake, listed: pa.RecordBatch, known: pa.RecordBatch) -> pa.RecordBatch:
    """Find out whether images have changed that have a row, if nothing listed states it."""
    is_stated = pc.not_equal(listed["etag"], scalar_of(""))
    is_unknown = pc.and_not(pc.is_null(listed["offset"]), is_stated)
    if not pc.any(is_unknown).as_py():
        return listed
    is_known = pc.is_in(listed["image_key"], value_set=known["image_key"])
    is_unknown = pc.and_(is_unknown, is_known)
    unknown = with_second_keys(listed.filter(is_unknown))
    found: list[pa.RecordBatch] = []
    for start in range(0, unknown.num_rows, BATCH_ROWS):
        interrupt.check()
        found += look_up(lake, [unknown.slice(start, BATCH_ROWS)])
    for name in ("bytes", "etag"):
        place = listed.schema.get_field_index(name)
        values = pa.concat_arrays([unknown[name].slice(0, 0), *(batch[name] for batch in found)])
        column = pc.replace_with_mask(listed.column(place), is_unknown, values)
        listed = listed.set_column(place, listed.schema.field(place), column)
    return listed


def _gone_and_new(
    con: duckdb.DuckDBPyConnection, images: Partitions
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Of each group, the rows whose keys are not listed, and the listed images without a row."""
    names = ", ".join(NEW.names)
    with contextlib.closing(renewed(con)) as databases:
        for group, database in zip(images.groups(), databases, strict=False):
            with _loaded(database, group):
                gone = database.sql("FROM former ANTI JOIN listed USING (image_key)")
                new = database.sql(f"SELECT {names} FROM listed ANTI JOIN known USING (image_key)")  # noqa: S608 - ours
                yield gone.to_arrow_table().cast(ROWS), new.to_arrow_table().cast(NEW)
