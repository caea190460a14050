"""What the driver knows about a run's shards: a few numbers each, however many images they have."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from steel_batch.runs.events import Progress, Rate
from steel_batch.runs.plan import ShardRange
from steel_batch.runs.receipt import Receipt
from steel_batch.runs.record import RunRecord


class KeySet:
    """A set of keys that answers "is this key in it?", at eight bytes per key.

    Args:
        keys: Read once.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = np.unique(np.fromiter(map(hash, keys), np.int64))

    def __contains__(self, key: str) -> bool:
        """Return whether the key, or one with the same hash, is in the set."""
        place = int(np.searchsorted(self._hashes, hash(key)))
        return place < len(self._hashes) and int(self._hashes[place]) == hash(key)


class Tally:
    """Counts receipts, and keeps the sums that are read after each of them.

    Args:
        record: The run.
        num_classes: Number of classes of its engine.
        known_bad: Keys of images that were in quarantine when the run was planned.
    """

    def __init__(
        self, record: RunRecord, *, num_classes: int, known_bad: KeySet | None = None
    ) -> None:
        self._known_bad = known_bad or KeySet()
        self._record = record
        self._done = np.zeros(record.num_shards, bool)
        self.staged_bytes = np.zeros(record.num_shards, np.int64)
        self._images = np.zeros(record.num_shards, np.int32)
        self._bad = np.zeros(record.num_shards, np.int32)
        self._bad_again = np.zeros(record.num_shards, np.int32)
        self._defective = np.zeros((record.num_shards, num_classes), np.int32)
        self._num_images_done = 0
        self.num_shards_done = 0
        """Shards with a receipt."""
        self.num_quarantined = 0
        """Number of quarantined images."""
        self.num_bad_again = 0
        """How many of those were in quarantine before the run."""
        self.bad_codes: Counter[str] = Counter()
        self.bad_example = ""
        self.num_resumed = 0
        self.num_resumed_images = 0
        self.first_receipt = 0.0
        self._last_receipt = 0.0
        self._first_images = 0
        self._first_seconds = 0.0
        self._num_new = 0
        self._rate = Rate()

    def add(self, receipt: Receipt, *, resumed: bool = False) -> None:
        """Count a receipt, once; receipts of an earlier attempt do not count for the speed."""
        shard = receipt.shard
        if self._done[shard]:
            return
        self._done[shard] = True
        self.staged_bytes[shard] = receipt.staged_bytes
        self._images[shard] = receipt.num_images
        self._bad[shard] = len(receipt.quarantined)
        self._defective[shard] = receipt.num_defective
        self.num_shards_done += 1
        self._num_images_done += receipt.num_images
        self.num_quarantined += len(receipt.quarantined)
        for image in receipt.quarantined:
            if image.image_key in self._known_bad:
                self._bad_again[shard] += 1
                continue
            self.bad_codes[image.error_code] += 1
            self.bad_example = self.bad_example or f"{image.image_key}: {image.message}"
        self.num_bad_again += int(self._bad_again[shard])
        if resumed:
            self.num_resumed += 1
            self.num_resumed_images += receipt.num_images
            return
        self._last_receipt = time.monotonic()
        self._num_new += receipt.num_images
        if not self.first_receipt:
            self.first_receipt, self._first_images = self._last_receipt, receipt.num_images
            self._first_seconds = receipt.seconds

    def forget(self, shards: Sequence[int]) -> None:
        """Discount shards that must be scored again."""
        shards = list(shards)
        self.num_shards_done -= len(shards)
        self._num_images_done -= int(self._images[shards].sum())
        self.num_quarantined -= int(self._bad[shards].sum())
        self.num_bad_again -= int(self._bad_again[shards].sum())
        self._done[shards] = False
        self.staged_bytes[shards] = 0
        self._bad[shards] = 0
        self._bad_again[shards] = 0

    def pending(self, ranges: Sequence[ShardRange]) -> dict[int, list[int]]:
        """Return the shards without a receipt, per row group of the plan."""
        found = {}
        for r in ranges:
            todo = np.flatnonzero(~self._done[r.first_shard : r.last_shard + 1]) + r.first_shard
            if len(todo):
                found[r.group] = todo.tolist()
        return found

    @property
    def is_complete(self) -> bool:
        """Return whether every shard has its receipt."""
        return self.num_shards_done == self._record.num_shards

    @property
    def bad_shards(self) -> list[int]:
        """Return the shards that have quarantined images."""
        return [int(shard) for shard in np.flatnonzero(self._bad)]

    @property
    def num_rows(self) -> int:
        """Number of images that have a row."""
        return self._num_images_done - self.num_quarantined

    @property
    def num_defective(self) -> npt.NDArray[np.int64]:
        """Number of images with that defect, per class."""
        return np.asarray(self._defective[self._done].sum(axis=0), np.int64)

    @property
    def images_per_second(self) -> float:
        """Throughput in steady state: from this attempt's first receipt to its last.

        With a single receipt, over the duration of its shard; 0 without one.
        """
        num_images = self._num_new - self._first_images
        seconds = self._last_receipt - self.first_receipt
        if not num_images:
            num_images, seconds = self._first_images, self._first_seconds
        return num_images / seconds if seconds > 0 else 0.0

    def progress(self, step: str) -> Progress:
        """Return the run's progress."""
        num_done = self._num_images_done
        num_left = self._record.num_images - num_done
        # Waiting for the first shard is start-up; after the last one, nothing is scored.
        rate = self._rate.add(num_done) if self.first_receipt and num_left else 0.0
        left = num_left / rate if rate else None
        return Progress(
            step=step,
            num_done=num_done,
            num_images=self._record.num_images,
            num_quarantined=self.num_quarantined,
            images_per_second=rate,
            seconds_left=left,
        )
