"""Images that have a row under another key, as after packing or moving: they would count twice.

An image is known by its key. What tells that two keys are of one image is its name (`image_id`),
its line and its size, or the etag of a loose file that was moved; and that the earlier key is
listed no more.
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
"""What is looked at of the images that have rows."""
_GONE: Final = "(FROM former ANTI JOIN listed USING (image_key))"
_NEW: Final = "(FROM listed ANTI JOIN known USING (image_key))"


def find_other_keys(
    con: duckdb.DuckDBPyConnection, rows: Iterable[pa.RecordBatch]
) -> tuple[int, tuple[str, str] | None]:
    """Look for images of the lake that have a row under a key that is not listed.

    Args:
        con: A planning database with the tables ``listed`` and ``known``.
        rows: `ROWS` batches of every committed row of the date.

    Returns:
        How many there are; and the key of one now, and that of its row.
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
        "AND new.object_key = new.image_key AND NOT contains(gone.image_key, '#'))"
    ).fetchall()
    num, now, before = found[0]
    return num, (now, before) if num else None
