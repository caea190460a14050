"""How a plan is made: images sorted, known ones left out, shards cut.

Sorting spills to disk: memory grows with neither images nor shards. The same inputs and settings
give the same plan, digest and shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.database import scratch_database
from steel_batch.lake import Lake
from steel_batch.runs.choosing import CHOSEN, Counts, choose
from steel_batch.runs.in_order import LISTED, SORTED, in_order, without_second_keys
from steel_batch.runs.plan import FOOTER_KEY, FORMAT, PlanInfo, texts_of
from steel_batch.sources.arrays import flags_in, numbers_in, of_numbers, of_texts, scalar_of
from steel_batch.sources.image_ref import ImageColumns, ImageRef, ref_batches

MAX_GROUPS: Final = 1024
"""Maximum number of row groups of a plan: each is one read task, and the footer lists all."""
FIRST_IMAGES: Final = 8
"""Most images of the first shard: a run that cannot go well shows it soon, and on a CPU a shard of
512 images takes seconds."""
REPEATED: Final = ["shard", "line", "tags.key_value.key", "tags.key_value.value", "object_key"]
"""Columns of a plan whose values repeat; a dictionary of the others is made in vain."""


def build_plan(
    refs: ImageColumns | Iterable[ImageRef],
    settings: dict[str, Any],
    path: Path,
    *,
    known: Iterable[pa.RecordBatch] = (),
    is_seen: bool = False,
    rows: Callable[[], Iterable[pa.RecordBatch]] = tuple,
    lake: Lake | None = None,
) -> PlanInfo:
    """Sort images, leave out the committed ones, cut shards, and write the plan.

    Args:
        refs: Every image of the date, in any order; read once, never held in memory.
        settings: What the digest covers in addition to the images; `shard_images`, `shard_bytes`,
            `max_images`, `rescore_changed` and `retry_quarantined` are used here.
        path: The local file to write.
        known: `KNOWN` batches of the committed images. One that is in quarantine is planned again
            if its etag has changed, as it may have been half written then.
        is_seen: Whether `refs` come from a listing: an image that was missing then exists now.
        rows: Yields `other_keys.ROWS` batches of the committed rows; called if some of them are no
            longer listed.
        lake: Root of the images, where the etags of committed ones are looked up if `refs` state
            none; others get theirs when they are read.

    Returns:
        The contents of the footer. A plan without images is written as well.
    """
    limit = settings.get("max_images")
    listed = without_second_keys(ref_batches(refs, LISTED))
    stream = iter(known)
    first = next((batch for batch in stream if batch.num_rows), None)
    if first is None:
        with in_order(listed, SORTED, limit) as images:
            counts = Counts(num_listed=images.num_images, num_wanted=images.num_images)
            return _write(images.batches, counts, settings, path)
    counts = Counts()
    with scratch_database() as con:
        chosen = choose(
            con, itertools.chain([first], stream), listed, settings, counts,
            is_seen=is_seen, rows=rows, lake=lake,
        )  # fmt: skip
        with in_order(chosen, CHOSEN, limit) as images:
            return _write(_count_retried(images.batches, counts), counts, settings, path)


def _count_retried(batches: Iterable[pa.RecordBatch], counts: Counts) -> Iterator[pa.RecordBatch]:
    """Count the images up to the limit that are in quarantine; yield `LISTED` batches."""
    counts.num_retried = 0
    for batch in batches:
        counts.num_retried += int(np.count_nonzero(flags_in(batch["is_retried"])))
        yield batch.select(LISTED.names)


def _write(
    ordered: Iterable[pa.RecordBatch], counts: Counts, settings: dict[str, Any], path: Path
) -> PlanInfo:
    limit = settings.get("max_images")
    shard_images = int(settings["shard_images"])
    cutter = _Cutter(max_images=shard_images, max_bytes=int(settings["shard_bytes"]))
    shards_per_group = max(1, math.ceil(counts.num_listed / shard_images / MAX_GROUPS))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    num_images = num_bytes = 0
    with pq.ParquetWriter(
        path,
        schema.PLAN,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=REPEATED,
    ) as writer:
        for group in _groups(_distinct(ordered), cutter, shards_per_group):
            for text in texts_of(group, FORMAT.newest):
                digest.update(text)
            num_images += group.num_rows
            num_bytes += pc.sum(group["bytes"]).as_py()
            writer.write_table(group, row_group_size=group.num_rows)
            del group  # before the next one is made
        info = PlanInfo(
            digest=digest.hexdigest(),
            num_images=num_images,
            num_shards=cutter.shard + 1 if num_images else 0,
            bytes=num_bytes,
            num_committed=counts.num_committed,
            num_changed=counts.num_changed,
            num_retried=counts.num_retried,
            num_beyond_limit=0 if limit is None else max(0, counts.num_wanted - int(limit)),
            num_gone=counts.num_gone,
            num_other_keys=counts.num_other_keys,
            example_other_keys=counts.example_other_keys,
            settings=settings,
        )
        writer.add_key_value_metadata({FOOTER_KEY: FORMAT.dump(dataclasses.asdict(info))})
    return info


@dataclass(slots=True)
class _Cutter:
    """Assigns shards to a stream of image sizes; cuts depend on nothing else."""

    max_images: int
    max_bytes: int
    shard: int = 0
    num_images: int = 0
    num_bytes: int = 0

    def assign(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The shard of each of the next images."""
        shards = np.empty(len(sizes), np.int32)
        ends = np.cumsum(sizes)
        start = 0
        while start < len(sizes):
            before = int(ends[start - 1]) if start else 0
            most = self.max_images if self.shard else min(self.max_images, FIRST_IMAGES)
            fit = int(np.searchsorted(ends, before + self.max_bytes - self.num_bytes, "right"))
            stop = min(start + most - self.num_images, fit)
            if stop <= start and self.num_images:
                self.shard += 1
                self.num_images = self.num_bytes = 0
                continue
            stop = max(stop, start + 1)
            shards[start:stop] = self.shard
            self.num_images += stop - start
            self.num_bytes += int(ends[stop - 1]) - before
            start = stop
        return shards


def _distinct(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Drop an image that repeats the previous one: a changing listing may show an object twice."""
    last: str | None = None
    for batch in batches:
        keys = batch["image_key"]
        if len(keys) == 0:
            continue
        before = pa.concat_arrays([of_texts([last]), keys.slice(0, len(keys) - 1)])
        last = keys[-1].as_py()
        is_new = pc.fill_null(pc.not_equal(keys, before), scalar_of(True))
        rows = batch if pc.all(is_new).as_py() else batch.filter(is_new)
        if rows.num_rows:
            yield rows


def _groups(
    batches: Iterable[pa.RecordBatch], cutter: _Cutter, shards_per_group: int
) -> Iterator[pa.Table]:
    """Yield tables of `shards_per_group` whole shards each."""
    pending: list[pa.Table] = []
    group = 0
    for batch in batches:
        shards = cutter.assign(numbers_in(batch["bytes"]))
        columns = [of_numbers(shards), *batch.columns]
        table = pa.Table.from_arrays(columns, names=schema.PLAN.names).cast(schema.PLAN)
        cuts = np.flatnonzero(np.diff(shards // shards_per_group, prepend=group)).tolist()
        group = int(shards[-1]) // shards_per_group
        start = 0
        for stop in cuts:
            pending.append(table.slice(start, stop - start))
            yield _taken_out(pending)
            start = stop
        pending.append(table.slice(start))
    if pending:
        yield _taken_out(pending)


def _taken_out(pending: list[pa.Table]) -> pa.Table:
    """One table of all, which are let go: nothing is in memory twice while it is written."""
    whole = pa.concat_tables(pending).combine_chunks()
    pending.clear()
    return whole
