"""Finds images that have a row under another key, e.g. after packing or moving: duplicates.

An image is identified by its key. Two keys are taken to be one image if the name (`image_id`), line
and size are equal, or the etag of a single file that was moved, and if the earlier key is no longer
listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import duckdb
import pyarrow as pa

from steel_batch import schema
from steel_batch.database import load_stream

ROWS: Final = pa.schema(
    [schema.PREDICTIONS.field(name) for name in ("image_key", "image_id", "line", "bytes", "etag")]
)
"""The columns of committed rows that are compared."""
_GONE: Final = "(FROM former ANTI JOIN listed USING (image_key))"
_NEW: Final = "(FROM listed ANTI JOIN known USING (image_key))"


def find_other_keys(
    con: duckdb.DuckDBPyConnection, rows: Iterable[pa.RecordBatch]
) -> tuple[int, tuple[str, str] | None]:
    """Find images of the lake that have a row under a key that is no longer listed.

    Args:
        con: A planning database with the tables ``listed`` and ``known``; a listed image that is
            an object by itself has no ``object_key``.
        rows: `ROWS` batches of every committed row of the date.

    Returns:
        Their number, and one example: its key now, and the key of its row.
    """
    load_stream(con, "former", ROWS, rows)
    by_name = "gone.image_id = new.image_id AND gone.bytes = new.bytes AND new.bytes > 0"
    found = con.execute(
        "SELECT count(DISTINCT now), min_by(now, now), min_by(before, now) FROM ("  # noqa: S608
        "SELECT new.image_key AS now, gone.image_key AS before "
        f"FROM {_NEW} AS new JOIN {_GONE} AS gone ON {by_name} "
        "WHERE gone.line IS NOT DISTINCT FROM new.line "
        "UNION ALL SELECT new.image_key, gone.image_key "
        f"FROM {_NEW} AS new JOIN {_GONE} AS gone ON gone.etag = new.etag "
        "WHERE gone.bytes = new.bytes AND new.etag <> '' "
        "AND new.object_key IS NULL AND NOT contains(gone.image_key, '#'))"
    ).fetchall()
    num, now, before = found[0]
    return num, (now, before) if num else None
