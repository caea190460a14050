"""Keys that a manifest lists twice, found on disk: memory does not grow with rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import pyarrow as pa

from steel_batch.database import scratch_database
from steel_batch.sources.image_ref import ImageRef

BATCH_ROWS: Final = 8192


class Repeats:
    """Notes a manifest's keys; a `with` block holds the place on disk.

    Args:
        place: The manifest, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._scratch = scratch_database()

    def __enter__(self) -> Repeats:
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
        """Note each row on its way."""
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            noted = pa.table(
                {"number": [n for n, _ in batch], "key": [ref.object_key for _, ref in batch]}
            )
            self._con.register("noted", noted)
            self._con.execute("INSERT INTO keys SELECT number, key FROM noted")
            self._con.unregister("noted")
            yield from (ref for _, ref in batch)

    def find(self) -> str | None:
        """What is wrong with a key that was listed twice, naming both rows; None without one."""
        twice = self._con.execute(
            "SELECT key, min(number), max(number) FROM keys GROUP BY key HAVING count(*) > 1 "
            "ORDER BY 3 LIMIT 1"
        ).fetchone()
        if twice is None:
            return None
        key, first, second = twice
        return (
            f"{self._place}, row {second}: the key {key!r} stands in row {first} already; each "
            "image is listed once. Nothing was planned."
        )
