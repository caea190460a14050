"""Finds keys that a manifest lists twice, on disk, so that memory does not grow with rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch import interrupt
from steel_batch.database import scratch_database, scratch_file

NOTED_ROWS: Final = 65_536
PART_HASHES: Final = 1 << 19
NUM_RANGES: Final = 64
"""One range of hashes at a time is searched for equal ones."""
_NONE: Final = np.array([], np.uint64)
_FIRST_OF_RANGE: Final = np.arange(NUM_RANGES, dtype=np.uint64) << np.uint64(58)

Hashes = npt.NDArray[np.uint64]
Numbered = tuple[pa.Int64Array, pa.RecordBatch]
"""The row numbers in a manifest of some images, and `IMAGES`."""


class DuplicateKeys:
    """Records a hash of each of a manifest's keys; the `with` block holds its temporary files.

    Args:
        place: The manifest, for messages.
        read_again: Reads the rows once more; called only if two keys have the same hash.
        noted_rows: How many keys are hashed at once.
        part_hashes: How many hashes are in memory before they are written.
    """

    def __init__(
        self,
        place: str,
        read_again: Callable[[], Iterator[Numbered]],
        *,
        noted_rows: int = NOTED_ROWS,
        part_hashes: int = PART_HASHES,
    ) -> None:
        self._place, self._read_again = place, read_again
        self._noted_rows, self._part_hashes = noted_rows, part_hashes
        self._held = contextlib.ExitStack()
        self._keys: list[pa.Array] = []
        self._num_keys = 0
        self._hashes: list[Hashes] = []
        self._num_hashes = 0
        self._edges: list[npt.NDArray[np.int64]] = []
        """For each sorted part of the file: where each range of hashes begins, and its end."""

    def __enter__(self) -> DuplicateKeys:
        self._con = self._held.enter_context(scratch_database())
        self._file = self._held.enter_context(scratch_file())
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def watch(self, rows: Iterator[Numbered]) -> Iterator[pa.RecordBatch]:
        """Record the rows as they pass."""
        for _, images in rows:
            self._keys.append(images["object_key"])
            self._num_keys += images.num_rows
            if self._num_keys >= self._noted_rows:
                self._record()
            yield images

    def _record(self) -> None:
        keys = pa.table({"key": pa.chunked_array(self._keys, pa.string())})
        self._keys, self._num_keys = [], 0
        self._con.register("noted", keys)
        hashes = self._con.execute("SELECT hash(key) AS hash FROM noted").fetchnumpy()["hash"]
        self._con.unregister("noted")
        self._hashes.append(hashes)
        self._num_hashes += len(hashes)
        if self._num_hashes >= self._part_hashes:
            self._write()

    def _write(self) -> None:
        """Append the hashes that are in memory to the file, sorted."""
        hashes = np.sort(np.concatenate([_NONE, *self._hashes]))
        self._hashes, self._num_hashes = [], 0
        start = int(self._edges[-1][-1]) if self._edges else 0
        edges = np.searchsorted(hashes, _FIRST_OF_RANGE)
        self._edges.append(np.append(edges, len(hashes)) + start)
        self._file.append(hashes.tobytes())

    def _suspects(self) -> Iterator[Hashes]:
        """Yield the hashes that occur more than once."""
        for number in range(NUM_RANGES):
            interrupt.check()
            found = []
            for edges in self._edges:
                start, stop = edges[number : number + 2].tolist()
                data = self._file.read(start * 8, (stop - start) * 8)
                found.append(np.frombuffer(data, np.uint64))
            hashes = np.sort(np.concatenate([_NONE, *found]))
            yield np.unique(hashes[1:][hashes[1:] == hashes[:-1]])

    def find(self) -> str | None:
        """The error about a key that is listed twice, naming both rows; None if there is none."""
        self._record()
        self._write()
        self._con.execute("CREATE TABLE suspects (hash UBIGINT)")
        num_suspects = 0
        for hashes in self._suspects():
            if len(hashes):
                num_suspects += len(hashes)
                self._con.register("found", pa.table({"hash": hashes}))
                self._con.execute("INSERT INTO suspects SELECT hash FROM found")
                self._con.unregister("found")
        if not num_suspects:
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
