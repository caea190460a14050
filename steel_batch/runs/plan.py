"""The plan: the frozen, ordered list of a run's images, cut into shards.

Images are ordered by line and key, so a shard is a contiguous range of what will be committed, and
merging is concatenation. Sorting spills to disk: memory grows with neither images nor shards. The
plan is one Parquet file whose row groups hold whole shards. Its footer holds the settings and a
digest of settings and images: the same inputs and settings give the same plan, digest and shards.
digest over both, so the same inputs and settings give the same plan, digest and shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
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

from steel_batch import layout, schema
from steel_batch.config import canonical_place
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import LakeError, PlanMismatchError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json, record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.runs.other_keys import find_other_keys
from steel_batch.sources.image_ref import ImageRef, ref_batches

MAX_GROUPS: Final = 1024
"""Maximum number of row groups of a plan: each is one read task, and the footer lists all."""
BATCH_ROWS: Final = 8192
FORMAT: Final = FileFormat("the plan of a run", 2)
"""Of the footer's entry and of the columns; in format 1 the digest left out `_NAMES` and tags."""
_KEYS: Final = ("shard", "image_key", "line", "offset", "bytes", "etag")
_NAMES: Final = ("image_id", "object_key")
_KEY: Final = b"steel_batch.plan"
_RETRY: Final = "retry_quarantined"
_LISTED: Final = pa.schema([f for f in schema.PLAN if f.name != "shard"])
_DAMAGE: Final = (
    pa.ArrowException, OSError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""What reading a damaged plan raises, in Parquet or for the contents of its footer."""
KNOWN: Final = pa.schema(
    [
        schema.PLAN.field("image_key"),
        schema.PLAN.field("etag"),
        pa.field("error_code", pa.string()),
    ]
)
"""What planning needs about committed images; those without a row have a code."""
_OF_A_MOMENT: Final = "('missing', 'changed')"
"""Codes that state nothing about the bytes listed under that etag: they were never read."""

_FORMER_KEY: Final = r"\.tar#[0-7]{11,}/"
"""In GNU tar's incremental backups, earlier builds took a time for the beginning of a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInfo:
    """Contents of a plan's footer."""

    digest: str
    num_images: int
    num_shards: int
    bytes: int
    num_committed: int = 0
    """Images of the lake that are left out because their rows are already committed."""
    num_changed: int = 0
    """Images whose etag differs from the committed one; left out unless they are rescored."""
    num_retried: int = 0
    """Images of the plan that are in quarantine: all of them on a retry, else only those that have
    changed since."""
    num_gone: int = 0
    """Committed images that are no longer in the lake, or not under the same key."""
    num_other_keys: int = 0
    """Images of the plan that seem to be some of those, under other keys."""
    example_other_keys: tuple[str, str] | None = None
    """The key of one of them, and the key of its row."""
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShardRange:
    """The shards in one row group of a plan, both ends included."""

    group: int
    first_shard: int
    last_shard: int


def build_plan(
    refs: Iterable[ImageRef],
    settings: dict[str, Any],
    path: Path,
    *,
    known: Iterable[pa.RecordBatch] = (),
    is_seen: bool = False,
    rows: Callable[[], Iterable[pa.RecordBatch]] = tuple,
) -> PlanInfo:
    """Sort images, leave out the committed ones, cut shards, and write the plan.

    Args:
        refs: Every image of the date, in any order; read once, never held in memory.
        settings: What the digest covers in addition to the images; `shard_images`, `shard_bytes`,
            `rescore_changed` and `retry_quarantined` are used here.
        path: The local file to write.
        known: `KNOWN` batches of the committed images. One that is in quarantine is planned again
            if its etag has changed, as it may have been half written then.
        is_seen: Whether `refs` come from a listing: an image that was missing then exists now.
        rows: Yields `other_keys.ROWS` batches of the committed rows; called if some of them are no
            longer listed.

    Returns:
        The contents of the footer. A plan without images is written as well.
    """
    with scratch_database() as con:
        load_stream(con, "listed", _LISTED, ref_batches(refs, _LISTED))
        load_stream(con, "known", KNOWN, known)
        return _write(con, settings, path, is_seen=is_seen, rows=rows)


def _write(
    con: duckdb.DuckDBPyConnection,
    settings: dict[str, Any],
    path: Path,
    *,
    is_seen: bool,
    rows: Callable[[], Iterable[pa.RecordBatch]],
) -> PlanInfo:
    con.execute(  # a row outranks an entry that its commit has yet to remove
        "DELETE FROM known WHERE error_code IS NOT NULL AND image_key IN "
        "(SELECT image_key FROM known WHERE error_code IS NULL)"
    )
    [(num_known,)] = con.sql("SELECT count(*) FROM known").fetchall()
    _recognise_former_keys(con)
    joined = "FROM listed LEFT JOIN known USING (image_key)"
    again = "known.etag <> listed.etag"
    if settings.get(_RETRY):
        again = "true"
    elif is_seen:
        again += f" OR known.error_code IN {_OF_A_MOMENT}"
    retried = f"(known.error_code IS NOT NULL AND ({again}))"
    counts = con.sql(
        f"SELECT count(*) FILTER (known.etag = listed.etag AND NOT {retried}), "
        f"count(*) FILTER (known.etag <> listed.etag AND NOT {retried}), "
        f"count(*) FILTER ({retried}), count(*) {joined}"
    ).fetchall()
    num_committed, num_changed, num_retried, num_listed = counts[0]
    num_gone = num_known - num_committed - num_changed - num_retried
    num_other, example = find_other_keys(con, rows()) if num_gone else (0, None)
    wanted = f"known.etag IS NULL OR {retried}"
    if settings["rescore_changed"]:
        wanted += " OR known.etag <> listed.etag"
    columns = ", ".join(f"listed.{name}" for name in _LISTED.names)
    ordered = con.sql(
        f"SELECT {columns} {joined} WHERE {wanted} ORDER BY line NULLS FIRST, image_key"
    ).to_arrow_reader(BATCH_ROWS)

    shard_images = int(settings["shard_images"])
    cutter = _Cutter(max_images=shard_images, max_bytes=int(settings["shard_bytes"]))
    shards_per_group = max(1, math.ceil(num_listed / shard_images / MAX_GROUPS))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    num_images = num_bytes = 0
    with pq.ParquetWriter(
        path, schema.PLAN, compression="zstd", write_page_checksum=True
    ) as writer:
        for group in _groups(_distinct(ordered), cutter, shards_per_group):
            digest.update(_text_of(group, FORMAT.newest))
            num_images += group.num_rows
            num_bytes += pc.sum(group["bytes"]).as_py()
            writer.write_table(group, row_group_size=group.num_rows)
        info = PlanInfo(
            digest=digest.hexdigest(),
            num_images=num_images,
            num_shards=cutter.shard + 1 if num_images else 0,
            bytes=num_bytes,
            num_committed=num_committed,
            num_changed=num_changed,
            num_retried=num_retried,
            num_gone=num_gone,
            num_other_keys=num_other,
            example_other_keys=example,
            settings=settings,
        )
        writer.add_key_value_metadata({_KEY: FORMAT.dump(dataclasses.asdict(info))})
    return info


def _recognise_former_keys(con: duckdb.DuckDBPyConnection) -> None:
    """Recognise images of the same tar that were committed under a key of an earlier build."""
    [(num_former,)] = con.execute(
        "SELECT count(*) FROM known WHERE regexp_matches(image_key, $1)", [_FORMER_KEY]
    ).fetchall()
    if num_former:
        con.execute(
            "INSERT INTO known SELECT DISTINCT listed.image_key, listed.etag, former.error_code "
            "FROM known AS former JOIN listed "
            "ON regexp_replace(former.image_key, $1, '.tar#') = listed.image_key "
            "AND former.etag = listed.etag WHERE regexp_matches(former.image_key, $1) "
            "AND former.image_key NOT IN (SELECT image_key FROM listed) "
            "AND listed.image_key NOT IN (SELECT image_key FROM known)",
            [_FORMER_KEY],
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
            fit = int(np.searchsorted(ends, before + self.max_bytes - self.num_bytes, "right"))
            stop = min(start + self.max_images - self.num_images, fit)
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
        before = pa.concat_arrays([pa.array([last], keys.type), keys.slice(0, len(keys) - 1)])
        last = keys[-1].as_py()
        rows = batch.filter(pc.fill_null(pc.not_equal(keys, before), True))
        if rows.num_rows:
            yield rows


def _groups(
    batches: Iterable[pa.RecordBatch], cutter: _Cutter, shards_per_group: int
) -> Iterator[pa.Table]:
    """Yield tables of `shards_per_group` whole shards each."""
    pending: list[pa.Table] = []
    group = 0
    for batch in batches:
        shards = cutter.assign(batch["bytes"].to_numpy())
        columns = [pa.array(shards), *batch.columns]
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


def _text_of(group: pa.Table, form: int) -> bytes:
    """A canonical text of a group's rows, one line per row, for the digest."""
    names = [*_KEYS, *_NAMES] if form > 1 else _KEYS
    columns = [pc.fill_null(pc.cast(group[name], pa.string()), "") for name in names]
    lines = pc.binary_join_element_wise(*columns, "\t").to_pylist()
    if form > 1:
        lines += _tags_of(group["tags"].combine_chunks())
    return ("\n".join(lines) + "\n").encode()


def _tags_of(tags: pa.MapArray) -> list[str]:
    """How many tags each row has, and one line for each tag."""
    ends = tags.offsets.to_numpy()
    first, number = int(ends[0]), int(ends[-1] - ends[0])
    names, values = (part.slice(first, number) for part in (tags.keys, tags.items))
    found = pc.binary_join_element_wise(names, pc.fill_null(values, ""), "\t").to_pylist()
    return [" ".join(map(str, np.diff(ends).tolist())), *found]


class Plan:
    """A plan in a store. Reading it costs its footer, then one row group at a time.

    Args:
        store: The store.
        run_id: The run that owns the plan.
        digest: The digest that the run started with; None accepts any.

    Raises:
        PlanMismatchError: Its footer has another digest.
        FormatError: It has a newer format.
        LakeError: It cannot be read, here or in a method; the message states the reason.
    """

    def __init__(self, store: Lake, run_id: str, *, digest: str | None = None) -> None:
        key = layout.run_file(run_id, "plan.parquet")
        self._url = store.uri(key)
        with self._readable():
            self._file = pq.ParquetFile(store.open_input(key), page_checksum_verification=True)
            footer = parse_json(self._file.metadata.metadata[_KEY])
            self.info = record_of(PlanInfo, FORMAT.open(footer, source=self._url))
            self._format = FORMAT.check(footer.get("format", 1), source=self._url)
        if digest not in (None, self.info.digest):
            raise PlanMismatchError(
                f"the plan of run {run_id} has digest {self.info.digest[:12]}, but the run started "
                f"with {digest[:12]}: another plan has overwritten it. Run with --fresh to plan "
                "again."
            )

    def check(self) -> None:
        """Make sure that the rows are those that the digest is of; reads them all.

        Raises:
            PlanMismatchError: They are others.
        """
        settings = json.dumps(self.info.settings, sort_keys=True)
        digest, num_images = hashlib.sha256(settings.encode()), 0
        last_shard = -1
        for group in self:
            with self._readable():
                if group.schema.remove_metadata() != schema.PLAN.remove_metadata():
                    raise ValueError("its columns are not those of a plan")
                shards = group["shard"].to_numpy()
                if (np.diff(shards, prepend=last_shard) < 0).any():
                    raise ValueError("its shards are not in order")
                last_shard = int(shards[-1]) if len(shards) else last_shard
                digest.update(_text_of(group, self._format))
                num_images += group.num_rows
        found = (digest.hexdigest(), num_images, last_shard + 1)
        if found != (self.info.digest, self.info.num_images, self.info.num_shards):
            raise PlanMismatchError(
                f"{self._url} was changed: {num_images:,} images in {last_shard + 1:,} shards with "
                f"digest {found[0][:12]}, and it was written with {self.info.num_images:,} in "
                f"{self.info.num_shards:,} with {self.info.digest[:12]}. Run with --fresh to plan "
                "anew."
            )

    def ranges(self) -> list[ShardRange]:
        """The shards in each row group."""
        found = []
        with self._readable():
            metadata = self._file.metadata
            for group in range(metadata.num_row_groups):
                statistics = metadata.row_group(group).column(0).statistics
                first, last = int(statistics.min), int(statistics.max)
                if not 0 <= first <= last < self.info.num_shards:
                    raise ValueError(f"row group {group} has the shards {first} to {last}")
                found.append(ShardRange(group, first, last))
        return found

    def read_group(self, group: int) -> pa.Table:
        """The rows of one row group."""
        with self._readable():
            return self._file.read_row_group(group)

    def __iter__(self) -> Iterator[pa.Table]:
        """Every row group's rows, one after the other."""
        for group in range(self._file.metadata.num_row_groups):
            yield self.read_group(group)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = str(error).rstrip(".")
            raise LakeError(
                f"{self._url} is damaged: {reason}. Unless rows of its run are committed, --fresh "
                "abandons the run and plans again."
            ) from error


def check_settings(run_id: str, planned: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Raises:
        PlanMismatchError: Settings differ; the message shows each.
    """
    differing = [
        f"{key} was {planned.get(key)!r} and is now {wanted.get(key)!r}"
        for key in sorted(planned.keys() | wanted.keys())
        if planned.get(key) != wanted.get(key)
        # Records of earlier builds hold the folder as the user wrote it.
        and not (key == "images" and canonical_place(str(planned.get(key))) == wanted.get(key))
    ]
    if planned.get(_RETRY) != wanted.get(_RETRY):
        begun, other = "score", "quarantine retry"
        if planned.get(_RETRY):
            begun, other = other, begun
        raise PlanMismatchError(
            f"run {run_id} is unfinished and was started by `{begun}`, not by `{other}`: finish it "
            "with that command first, or give --fresh to abandon it and start again."
        )
    if differing:
        raise PlanMismatchError(
            f"run {run_id} is unfinished and was planned differently: {'; '.join(differing)}. "
            "Give the same settings to resume it, or --fresh to abandon it and start again."
        )
