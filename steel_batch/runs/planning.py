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

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.database import load_stream, name_of, scratch_database
from steel_batch.lake import Lake
from steel_batch.runs.in_order import (
    BATCH_ROWS,
    COLUMNS,
    LISTED,
    ORDER,
    SORTED,
    in_order,
    without_second_keys,
)
from steel_batch.runs.other_keys import find_other_keys
from steel_batch.runs.plan import FOOTER_KEY, FORMAT, KNOWN, RETRY, PlanInfo, text_of
from steel_batch.sources.arrays import numbers_in, of_numbers, of_texts, scalar_of
from steel_batch.sources.image_ref import ImageColumns, ImageRef, ref_batches
from steel_batch.sources.look_up import look_up

MAX_GROUPS: Final = 1024
"""Maximum number of row groups of a plan: each is one read task, and the footer lists all."""
FIRST_IMAGES: Final = 16
"""Most images of the first shard: a run that cannot go well shows it soon, and on a CPU a shard of
512 images takes seconds."""
REPEATED: Final = ["shard", "line", "tags.key_value.key", "tags.key_value.value", "object_key"]
"""Columns of a plan whose values repeat; a dictionary of the others is made in vain."""
OF_A_MOMENT: Final = ("missing", "changed")
"""Codes that state nothing about the bytes listed under that etag: they were never read."""

FORMER_KEY: Final = r"\.tar#[0-7]{11,}/"
"""In GNU tar's incremental backups, earlier builds took a time for the beginning of a name."""


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
    listed = ref_batches(refs, LISTED)
    stream = iter(known)
    first = next((batch for batch in stream if batch.num_rows), None)
    if first is None:
        with in_order(listed, limit) as sorted_images:
            num = sorted_images.num_images
            return _write(sorted_images.batches, _Counts(num, num), settings, path)
    with scratch_database() as con:
        load_stream(con, "known", KNOWN, itertools.chain([first], stream))
        load_stream(con, "listed", SORTED, without_second_keys(listed))
        if lake is not None:
            _look_up_known(con, lake)
        chosen, counts = _choose(con, settings, is_seen=is_seen, rows=rows)
        query = f"SELECT {COLUMNS} {chosen}"
        return _write(con.sql(query).to_arrow_reader(BATCH_ROWS), counts, settings, path)


def _look_up_known(con: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """Find out whether images have changed that have a row, if nothing listed states it."""
    place = name_of(con)
    unknown = (
        "SELECT image_key, coalesce(object_key, image_key) AS object_key, bytes, etag "  # noqa: S608 - a name of ours
        f"FROM {place}.listed SEMI JOIN {place}.known USING (image_key) "
        "WHERE etag = '' AND \"offset\" IS NULL"
    )
    with con.cursor() as reader:
        batches = reader.sql(unknown).to_arrow_reader(BATCH_ROWS)
        load_stream(con, "seen", batches.schema, look_up(lake, batches))
    con.execute(
        "UPDATE listed SET bytes = seen.bytes, etag = seen.etag FROM seen "
        "WHERE listed.image_key = seen.image_key"
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many images there are; see `PlanInfo`."""

    num_listed: int
    num_wanted: int
    num_committed: int = 0
    num_changed: int = 0
    num_retried: int = 0
    num_gone: int = 0
    num_other_keys: int = 0
    example_other_keys: tuple[str, str] | None = None


def _choose(
    con: duckdb.DuckDBPyConnection,
    settings: dict[str, Any],
    *,
    is_seen: bool,
    rows: Callable[[], Iterable[pa.RecordBatch]],
) -> tuple[str, _Counts]:
    """Leave out the images that have a row or an entry already.

    Returns:
        The rest of a ``SELECT`` of the chosen images, in order.
    """
    con.execute(  # a row outranks an entry that its commit has yet to remove
        "DELETE FROM known WHERE error_code IS NOT NULL AND image_key IN "
        "(SELECT image_key FROM known WHERE error_code IS NULL)"
    )
    [(num_known,)] = con.sql("SELECT count(*) FROM known").fetchall()
    _recognise_former_keys(con)
    joined = "FROM listed LEFT JOIN known USING (image_key)"
    again = "known.etag <> listed.etag"
    if settings.get(RETRY):
        again = "true"
    elif is_seen:
        again += f" OR known.error_code IN {OF_A_MOMENT}"
    retried = f"(known.error_code IS NOT NULL AND ({again}))"
    wanted = f"(known.etag IS NULL OR {retried}"
    wanted += " OR known.etag <> listed.etag)" if settings["rescore_changed"] else ")"
    counts = con.sql(
        f"SELECT count(*) FILTER (known.etag = listed.etag AND NOT {retried}), "
        f"count(*) FILTER (known.etag <> listed.etag AND NOT {retried}), "
        f"count(*) FILTER ({retried}), count(*) FILTER ({wanted}), count(*) {joined}"
    ).fetchall()
    num_committed, num_changed, num_retried, num_wanted, num_listed = counts[0]
    num_gone = num_known - num_committed - num_changed - num_retried
    num_other, example = find_other_keys(con, rows()) if num_gone else (0, None)
    chosen = f"{joined} WHERE {wanted} {ORDER}"
    if settings.get("max_images") is not None:
        chosen += f" LIMIT {int(settings['max_images'])}"
        [(num_retried,)] = con.sql(
            f"SELECT count(*) FILTER (tried) FROM (SELECT {retried} AS tried {chosen})"  # noqa: S608 - constants and a number
        ).fetchall()
    return chosen, _Counts(
        num_listed, num_wanted, num_committed, num_changed, num_retried, num_gone, num_other,
        example,
    )  # fmt: skip


def _write(
    ordered: Iterable[pa.RecordBatch], counts: _Counts, settings: dict[str, Any], path: Path
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
            digest.update(text_of(group, FORMAT.newest))
            num_images += group.num_rows
            num_bytes += pc.sum(group["bytes"]).as_py()
            writer.write_table(group, row_group_size=group.num_rows)
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


def _recognise_former_keys(con: duckdb.DuckDBPyConnection) -> None:
    """Recognise images of the same tar that were committed under a key of an earlier build."""
    [(num_former,)] = con.execute(
        "SELECT count(*) FROM known WHERE regexp_matches(image_key, $1)", [FORMER_KEY]
    ).fetchall()
    if num_former:
        con.execute(
            "INSERT INTO known SELECT DISTINCT listed.image_key, listed.etag, former.error_code "
            "FROM known AS former JOIN listed "
            "ON regexp_replace(former.image_key, $1, '.tar#') = listed.image_key "
            "AND former.etag = listed.etag WHERE regexp_matches(former.image_key, $1) "
            "AND former.image_key NOT IN (SELECT image_key FROM listed) "
            "AND listed.image_key NOT IN (SELECT image_key FROM known)",
            [FORMER_KEY],
        )


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
            yield pa.concat_tables(pending).combine_chunks()
            pending, start = [], stop
        pending.append(table.slice(start))
    if pending:
        yield pa.concat_tables(pending).combine_chunks()
