"""Keeps images by date on disk, for sources that must be read as a whole to find their dates."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping

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
    """Images in a scratch database; selecting a date reads that date's images and few others.

    Dates with few images are read together with those that follow, as they are mostly selected in
    order, and a query takes longer than reading some thousand images.

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
            counted = self._con.execute("SELECT date, count(*) FROM images GROUP BY date")
            self._num_images: dict[str | None, int] = dict(counted.fetchall())
            self._reading = threading.Lock()
            self._together = collections.deque[Mapping[str, pa.RecordBatch]](maxlen=2)
            """Images of dates that were read together, by date."""
            weakref.finalize(self, undo.pop_all().close)

    @property
    def dates(self) -> set[str | None]:
        """The images' dates; None is among them if some images have none."""
        return set(self._num_images)

    def select(self, date: str | None) -> Iterator[pa.RecordBatch]:
        """The `IMAGES` of a date; None selects all. Images without a date belong to every date."""
        if date is None or None in self._num_images or self._num_images.get(date, 0) > BATCH_ROWS:
            yield from self._query(date)
        elif date in self._num_images:
            yield self._with_others(date)

    def _with_others(self, date: str) -> pa.RecordBatch:
        """The images of a date, which are read together with those of the dates that follow."""
        with self._reading:
            for batches in self._together:
                if date in batches:
                    return batches[date]
            later = sorted(other for other in self._num_images if other and other >= date)
            ends = list(itertools.accumulate(self._num_images[other] for other in later))
            dates = [other for other, end in zip(later, ends, strict=True) if end <= BATCH_ROWS]
            query = f"SELECT * FROM {self._table} WHERE date BETWEEN $first AND $last"  # noqa: S608 - a name of ours
            with self._con.cursor() as con:
                found = con.sql(query, params={"first": dates[0], "last": dates[-1]})
                rows = found.to_arrow_table().cast(IMAGES).sort_by("date").combine_chunks()
            starts = (0, *ends)
            batches = {
                other: rows.slice(start, end - start).to_batches()[0]
                for other, start, end in zip(dates, starts, ends, strict=False)
            }
            self._together.append(batches)
            return batches[date]

    def _query(self, date: str | None) -> Iterator[pa.RecordBatch]:
        query = f"SELECT * FROM {self._table} WHERE $date IS NULL OR date IS NULL OR date = $date"  # noqa: S608 - a name of ours
        with self._con.cursor() as con:
            for batch in con.sql(query, params={"date": date}).to_arrow_reader(BATCH_ROWS):
                yield batch.cast(IMAGES)
