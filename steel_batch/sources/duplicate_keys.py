"""Finds keys that a manifest lists twice, on disk, so that memory does not grow with rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import pyarrow as pa

from steel_batch.database import scratch_database
from steel_batch.sources.image_ref import ImageRef

BATCH_ROWS: Final = 8192


class DuplicateKeys:
    """Records a manifest's keys; the `with` block holds its scratch database.

    Args:
        place: The manifest, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._scratch = scratch_database()

    def __enter__(self) -> DuplicateKeys:
        self._con = self._scratch.__enter__()
        self._con.execute("CREATE TABLE keys (number BIGINT, key VARCHAR)")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scratch.__exit__(kind, error, trace)

    def watch(self, rows: Iterator[tuple[int, ImageRef]]) -> Iterator[ImageRef]:
        """Record each row as it passes."""
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            noted = pa.table(
                {"number": [n for n, _ in batch], "key": [ref.object_key for _, ref in batch]}
            )
            self._con.register("noted", noted)
            self._con.execute("INSERT INTO keys SELECT number, key FROM noted")
            self._con.unregister("noted")
            yield from (ref for _, ref in batch)

    def find(self) -> str | None:
        """The error about a key that is listed twice, naming both rows; None if there is none."""
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
