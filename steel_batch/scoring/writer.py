"""Makes a shard's rows and stages them with its receipt, in this process or in child processes.

A child (`scoring.child`) opens the store itself, with the credentials of its environment. If it
ends, its shard is written again by another one: staged rows are named after their content, and of
two receipts the first one stands.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

from steel_batch import errors
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.runs.events import Meter
from steel_batch.runs.receipt import Receipt, put_receipt, stage
from steel_batch.scoring.child import Child, serve
from steel_batch.scoring.description import DEFECTS
from steel_batch.scoring.rows import ScoredShard, quarantined_of, rows_of


class Writer(Protocol):
    """Writes one shard at a time. Used by one thread at a time."""

    def write(self, shard: ScoredShard) -> Receipt:
        """Stage a shard's rows and write its receipt.

        Returns:
            The valid receipt, which may be that of another attempt.

        Raises:
            LakeError: The store could not be written; nothing of the shard is counted.
        """

    def take_counts(self) -> Counter[str]:
        """Counts of other processes' requests (`Lake.counts`) since the last call; thread-safe."""

    def close(self) -> None:
        """Free the processes."""


class LocalWriter:
    """Writes in the calling thread."""

    def __init__(self, store: Lake) -> None:
        self._store = store

    def write(self, shard: ScoredShard) -> Receipt:
        """See `Writer`."""
        rows = rows_of(shard)
        key, sha256, num_bytes = None, "", 0
        if rows.num_rows:
            sink = io.BytesIO()
            pq.write_table(rows, sink, compression="zstd")
            key, sha256 = stage(self._store, shard.run_id, shard.shard, sink.getvalue())
            num_bytes = sink.tell()
        class_ids = rows[DEFECTS].combine_chunks().flatten().field("class_id").to_numpy()
        num_defective = np.bincount(class_ids, minlength=shard.scored_by.num_classes + 1)[1:]
        receipt = Receipt(
            run_id=shard.run_id,
            plan_digest=shard.plan_digest,
            shard=shard.shard,
            num_images=len(shard.refs),
            num_rows=rows.num_rows,
            staged=key,
            staged_bytes=num_bytes,
            staged_sha256=sha256,
            num_defective=tuple(num_defective.tolist()),
            quarantined=tuple(quarantined_of(shard.refs, shard.scores.shapes)),
            seconds=round(time.monotonic() - shard.started_seconds, 3),
            scored_at=shard.scored_at,
            scorer=shard.scored_by.scorer,
        )
        return put_receipt(self._store, receipt)

    def take_counts(self) -> Counter[str]:
        """Nothing: the requests are this process's."""
        return Counter()

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class ChildWriter:
    """Writes in a child process.

    Args:
        store: Where rows are staged and receipts are written.

    Raises:
        ClusterError: The process cannot be started.
    """

    def __init__(self, store: Lake) -> None:
        place = {
            "url": store.url,
            "endpoint_url": store.endpoint_url,
            "retry": dataclasses.asdict(store.retry),
            "single_writer": store.single_writer,
            "follow_links": store.follow_links,
        }
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._child = Child(__name__, [json.dumps(place)], work="writes rows")

    def write(self, shard: ScoredShard) -> Receipt:
        """See `Writer`.

        Raises:
            ClusterError: The process ended, and so did its replacement.
        """
        answer = json.loads(self._child.ask(*shard.to_parts()))
        with self._lock:
            self._counts.update(answer["counts"])
        if "receipt" not in answer:
            raise getattr(errors, answer["error_kind"], SteelBatchError)(answer["message"])
        return Receipt.from_json(answer["receipt"], source="what a child process answered")

    def take_counts(self) -> Counter[str]:
        """See `Writer`; requests of a child that ended before its answer are not counted."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    @property
    def pid(self) -> int | None:
        """The child's process; None once it is closed."""
        return self._child.pid

    def close(self) -> None:
        """End the process; idempotent."""
        self._child.close()


def _answers(place: str) -> Callable[[bytes], bytes]:
    """What the child makes of its argument: a function from a shard to its receipt."""
    settings = json.loads(place)
    store = Lake(**{**settings, "retry": Retry(**settings["retry"])})
    meter = Meter(store)  # loads what requests need, while the engine is being loaded
    writer = LocalWriter(store)

    def answer(request: bytes) -> bytes:
        found: dict[str, object]
        try:
            receipt = writer.write(ScoredShard.from_bytes(request))
            found = {"receipt": receipt.to_json().decode()}
        except SteelBatchError as error:
            found = {"error_kind": type(error).__name__, "message": error.message}
        return json.dumps({**found, "counts": meter.take()}).encode()

    return answer


if __name__ == "__main__":
    serve(_answers(sys.argv[1]))
