"""Finds keys that a manifest lists twice, on disk, so that memory does not grow with rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final

import pyarrow as pa

from steel_batch.database import scratch_database

NOTED_ROWS: Final = 65_536

Numbered = tuple[pa.Int64Array, pa.RecordBatch]
"""The row numbers in a manifest of some images, and `IMAGES`."""


class DuplicateKeys:
    """Records a hash of each of a manifest's keys; the `with` block holds its scratch database.

    Args:
        place: The manifest, for messages.
        read_again: Reads the rows once more; called only if two keys have the same hash.
    """

    def __init__(self, place: str, read_again: Callable[[], Iterator[Numbered]]) -> None:
        self._place, self._read_again = place, read_again
        self._scratch = scratch_database()
        self._pending: list[pa.Array] = []
        self._num_pending = 0

    def __enter__(self) -> DuplicateKeys:
        self._con = self._scratch.__enter__()
        self._con.execute("CREATE TABLE hashes (hash UBIGINT)")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.__exit__(kind, error, trace)

    def watch(self, rows: Iterator[Numbered]) -> Iterator[pa.RecordBatch]:
        """Record the rows as they pass."""
        for _, images in rows:
            self._pending.append(images["object_key"])
            self._num_pending += images.num_rows
            if self._num_pending >= NOTED_ROWS:
                self._record()
            yield images

    def _record(self) -> None:
        keys = pa.table({"key": pa.chunked_array(self._pending, pa.string())})
        self._pending, self._num_pending = [], 0
        self._con.register("noted", keys)
        self._con.execute("INSERT INTO hashes SELECT hash(key) FROM noted")
        self._con.unregister("noted")

    def find(self) -> str | None:
        """The error about a key that is listed twice, naming both rows; None if there is none."""
        self._record()
        self._con.execute(
            "CREATE TABLE suspects AS SELECT hash FROM hashes GROUP BY hash HAVING count(*) > 1"
        )
        if not self._con.sql("SELECT count(*) FROM suspects").fetchall()[0][0]:
            return None
        self._con.execute("CREATE TABLE keys (number BIGINT, key VARCHAR)")
        for numbers, images in self._read_again():
            noted = pa.table({"number": numbers, "key": images["object_key"]})
            self._con.register("noted", noted)
            self._con.execute(
                "INSERT INTO keys SELECT number, key FROM noted SEMI JOIN suspects "
                "ON hash(noted.key) = suspects.hash"
            )
            self._con.unregister("noted")
        twice = self._con.execute(
            "SELECT key, min(number), max(number) FROM keys GROUP BY key HAVING count(*) > 1 "
            "ORDER BY 3 LIMIT 1"
        ).fetchone()
        if twice is None:
            return None
        key, first, second = twice
        return (
            f"{self._place}, row {second}: the key {key!r} is already in row {first}; each image "
            "must be listed once. Remove one of the rows. Nothing was planned."
        )
