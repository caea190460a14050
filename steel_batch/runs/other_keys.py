"""Finds images that have a row under another key, e.g. after packing or moving: duplicates.

An image is identified by its key. Two keys are taken to be one image if the name (`image_id`), line
and size are equal, or the etag of a single file that was moved, and if the earlier key is no longer
listed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.database import renewed
from steel_batch.runs.in_order import SORTED
from steel_batch.runs.partitions import Partitions
from steel_batch.sources.arrays import scalar_of

if TYPE_CHECKING:
    import duckdb

ROWS: Final = pa.schema(
    [schema.PREDICTIONS.field(name) for name in ("image_key", "image_id", "line", "bytes", "etag")]
)
"""The columns of committed rows that are compared."""
NEW: Final = pa.schema([SORTED.field(name) for name in (*ROWS.names, "object_key")])
"""Those of listed images; one that is an object by itself has no ``object_key``."""
_SAME_NAME: Final = "image_id, bytes, line"
_SAME_ETAG: Final = "etag, bytes"
_FOUND: Final = pa.schema([("now", pa.string()), ("before", pa.string())])


def _wide(fields: pa.Schema) -> pa.Schema:
    """Text without the limit of 2 GiB: any number of images may have one name, or one etag."""
    text = {pa.string(): pa.large_string()}
    return pa.schema([field.with_type(text.get(field.type, field.type)) for field in fields])


_COMPARED: Final = {"gone": _wide(ROWS), "new": _wide(NEW)}


def find_other_keys(
    con: duckdb.DuckDBPyConnection, images: Iterable[tuple[pa.Table, pa.Table]]
) -> tuple[int, tuple[str, str] | None]:
    """Find images of the lake that have a row under a key that is no longer listed.

    Args:
        con: A scratch database.
        images: Pairs of `ROWS` whose keys are no longer listed, and `NEW` images without a row.

    Returns:
        Their number, and one example: its key now, and the key of its row.
    """
    with (
        Partitions(con, {n: (of, _SAME_NAME) for n, of in _COMPARED.items()}) as by_name,
        Partitions(con, {n: (of, _SAME_ETAG) for n, of in _COMPARED.items()}) as by_etag,
        Partitions(con, {"found": (_FOUND, "now")}) as found,
    ):
        for former, listed in images:
            gone, new = former.cast(_COMPARED["gone"]), listed.cast(_COMPARED["new"])
            is_file = pc.invert(pc.match_substring(gone["image_key"], "#"))
            is_stated = pc.not_equal(new["etag"], scalar_of(""))
            _add(by_name, "gone", gone)
            _add(by_name, "new", new.filter(pc.greater(new["bytes"], scalar_of(0))))
            _add(by_etag, "gone", gone.filter(is_file))
            is_object = pc.and_(is_stated, pc.is_null(new["object_key"]))
            _add(by_etag, "new", new.filter(is_object))
        for images_by, key in ((by_name, _SAME_NAME), (by_etag, _SAME_ETAG)):
            same = " AND ".join(f"gone.{c} IS NOT DISTINCT FROM new.{c}" for c in key.split(", "))
            # One row for each value first: thousands of images may have the same.
            select = (
                "SELECT new.image_key AS now, min(before) AS before "  # noqa: S608 - ours
                f"FROM new JOIN (SELECT {key}, min(image_key) AS before FROM gone GROUP BY ALL)"
                f" AS gone ON {same} GROUP BY now"
            )
            with contextlib.closing(renewed(con)) as databases:
                for group, database in zip(images_by.groups(), databases, strict=False):
                    for name, batch in group.items():
                        database.register(name, pa.table(batch.columns, batch.schema))
                    pairs = database.sql(select).to_arrow_table()
                    _add(found, "found", pairs.cast(_FOUND))
        num, example = 0, None
        for group in found.groups():
            con.register("found", pa.table(group["found"].columns, _FOUND))
            more, now, before = con.sql(
                "SELECT count(DISTINCT now), min(now), min_by(before, now) FROM found"
            ).fetchall()[0]
            num += more
            if more and (example is None or now < example[0]):
                example = (now, before)
        for name in ("gone", "new", "found"):
            con.unregister(name)
    return num, example


def _add(partitions: Partitions, name: str, table: pa.Table) -> None:
    for batch in table.to_batches():
        partitions.add(name, batch)
