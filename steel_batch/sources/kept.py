"""Keeps images by date on disk, for sources that must be read as a whole to find their dates."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator

import pyarrow as pa

from steel_batch.database import name_of, reading, scratch_database
from steel_batch.sources.image_ref import (
    BATCH_ROWS,
    IMAGES,
    ImageColumns,
    ImageRef,
    ref_batches,
)


class Kept:
    """Images in a scratch database; selecting a date reads only that date's images.

    Memory does not grow with the number of images. Thread-safe. The database is deleted with the
    object, or when the process ends.

    Args:
        images: Read once, never held in memory.
    """

    def __init__(self, images: ImageColumns | Iterable[ImageRef]) -> None:
        with contextlib.ExitStack() as undo:
            self._con = undo.enter_context(scratch_database())
            self._table = f"{name_of(self._con)}.images"  # as other connections need it
            # Sorted, so that DuckDB skips blocks without the date.
            with reading(self._con, "stream", IMAGES, ref_batches(images, IMAGES)):
                self._con.execute("CREATE TABLE images AS SELECT * FROM stream ORDER BY date")
            dates = self._con.execute("SELECT DISTINCT date FROM images").fetchall()
            self.dates: set[str | None] = {date for (date,) in dates}
            """The images' dates; None is among them if some images have none."""
            weakref.finalize(self, undo.pop_all().close)

    def select(self, date: str | None) -> Iterator[pa.RecordBatch]:
        """The `IMAGES` of a date; None selects all. Images without a date belong to every date."""
        query = f"SELECT * FROM {self._table} WHERE $date IS NULL OR date IS NULL OR date = $date"  # noqa: S608 - a name of ours
        with self._con.cursor() as con:
            for batch in con.sql(query, params={"date": date}).to_arrow_reader(BATCH_ROWS):
                yield batch.cast(IMAGES)
