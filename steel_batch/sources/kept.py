"""Keeps images by date on disk, for sources that must be read as a whole to find their dates."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa

from steel_batch import schema
from steel_batch.database import load_stream, scratch_database
from steel_batch.sources.image_ref import ImageRef, ref_batches

BATCH_ROWS: Final = 8192
_FIELDS: Final = pa.schema(
    [*(f for f in schema.PLAN if f.name != "shard"), pa.field("date", pa.string())]
)


class Kept:
    """Images in a scratch database; selecting a date reads only that date's images.

    Memory does not grow with the number of images. Thread-safe. The database is deleted with the
    object, or when the process ends.

    Args:
        images: Read once, never held in memory.
    """

    def __init__(self, images: Iterable[ImageRef]) -> None:
        with contextlib.ExitStack() as undo:
            self._con = undo.enter_context(scratch_database())
            load_stream(self._con, "listed", _FIELDS, ref_batches(images, _FIELDS))
            # Sorted, so that DuckDB skips blocks without the date.
            self._con.execute("CREATE TABLE images AS SELECT * FROM listed ORDER BY date")
            dates = self._con.execute("SELECT DISTINCT date FROM images").fetchall()
            self.dates: set[str | None] = {date for (date,) in dates}
            """The images' dates; None is among them if some images have none."""
            weakref.finalize(self, undo.pop_all().close)

    def select(self, date: str | None) -> Iterator[ImageRef]:
        """The images of a date; None selects all. Images without a date belong to every date."""
        query = "SELECT * FROM images WHERE $date IS NULL OR date IS NULL OR date = $date"
        with self._con.cursor() as con:
            for batch in con.sql(query, params={"date": date}).to_arrow_reader(BATCH_ROWS):
                for row in batch.to_pylist():
                    yield ImageRef(**row | {"tags": dict(row["tags"])})
