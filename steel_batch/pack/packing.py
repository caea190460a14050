"""Packing: sort, cut, write each shard completely, and its index last.

Images go into one folder per line and date, in key order, so the same images give the same shards
in whatever order they are listed. A shard whose index states that it was packed from the same keys,
sizes and etags is kept: the same command resumes a packing that was interrupted. Memory grows with
neither images nor shards.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

import duckdb
import pyarrow as pa

from steel_batch import schema
from steel_batch.config import ALL_DATES, LIMITS, Limits
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import (
    ConfigError,
    ImageError,
    InputError,
    LakeError,
    LargeObjectError,
    MissingObjectError,
)
from steel_batch.lake import Lake, LakeObject
from steel_batch.layout import check_date
from steel_batch.pack.writers import (
    END_BYTES,
    CountedStream,
    ParquetWriter,
    ShardWriter,
    TarWriter,
    tar_bytes,
)
from steel_batch.sources.contract import Selection, Source
from steel_batch.sources.fetch import read_images
from steel_batch.sources.image_ref import ref_batches, ref_of
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.open import open_source
from steel_batch.sources.parallel import expand_parallel
from steel_batch.sources.tar_index import (
    INDEX_SUFFIX,
    Entry,
    Index,
    ShardHead,
    index_bytes,
    tail_sha256,
)
from steel_batch.sources.undated import Dated

FORMATS: Final = ("tar", "parquet")
MIN_SHARD_BYTES: Final = 1 << 10
MAX_SHARD_IMAGES: Final = 100_000
FOLDER_NAMES: Final = {"line", "date", "year", "month", "day", "image_id"}
"""Placeholders whose values are also in the names of folders and members."""
READ_BYTES: Final = 16 << 20
"""Bytes of images that each thread holds in memory."""
IMAGE_FIELDS: Final = pa.schema(
    [pa.field("date", pa.string()), *(f for f in schema.PLAN if f.name != "shard")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """One `pack` command."""

    images: str
    """As in `score`."""
    key_pattern: str | None = None
    date: str = ALL_DATES
    """YYYY-MM-DD, or ``all`` for every image, including those without a date."""
    out: str
    format: str = "tar"
    shard_bytes: int = 256 << 20
    """Maximum size of a shard (of its images, for Parquet); a larger image gets its own shard."""
    num_threads: int = 4
    """Shards that are written concurrently."""
    endpoint_url: str | None = None
    limits: Limits = LIMITS
    """What is read of an image, a container or a list."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.format not in FORMATS:
            raise ConfigError(f"--format is {self.format!r}, expected {' or '.join(FORMATS)}.")
        if self.shard_bytes < MIN_SHARD_BYTES:
            raise ConfigError(f"--shard-bytes is {self.shard_bytes}, expected {MIN_SHARD_BYTES}+.")
        if self.num_threads < 1:
            raise ConfigError(f"--threads is {self.num_threads}, expected 1 or more.")
        if self.date != ALL_DATES:
            check_date(self.date)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedShard:
    """One complete shard, with its index."""

    key: str
    num_images: int
    bytes: int
    is_new: bool
    """Whether it was written now; otherwise it was kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackResult:
    """Result of a packing."""

    out: str
    format: str
    num_images: int
    num_shards: int
    num_kept: int
    """Existing shards of the same images."""
    bytes: int
    key_pattern: str
    """The key pattern with which `score` reads the shards like their images."""
    seconds: float
    num_left_out: int = 0
    """Objects and folders that are not images, by the key pattern or by their names."""
    example_left_out: str | None = None


@dataclass(frozen=True, slots=True)
class _Shard:
    key: str
    refs: pa.Table


def pack(config: PackConfig, observe: Callable[[PackedShard], None]) -> PackResult:
    """Pack images into shards.

    Args:
        config: The command.
        observe: Called with each finished shard.

    Raises:
        ConfigError: There are no images, or they cannot be packed this way; or `out` holds other
            shards.
        LakeError: An image changed meanwhile, or a store failed. What is packed is complete; the
            same command resumes.
    """
    started = time.monotonic()
    _check_named(config)
    source = open_source(
        config.images,
        config.key_pattern,
        endpoint_url=config.endpoint_url,
        limits=config.limits,
    )
    out = Lake(config.out, endpoint_url=config.endpoint_url)
    packer = _Packer(config, source.lake, out)
    shards: list[PackedShard] = []
    with scratch_database() as con:
        images, has_line, has_date = _load(con, config, source)
        for shard in expand_parallel(
            _cut(con, config), packer.pack, num_threads=config.num_threads
        ):
            observe(shard)
            shards.append(shard)
    _refuse_others(out, config.format, {shard.key for shard in shards})
    return PackResult(
        out=out.url,
        format=config.format,
        num_images=sum(shard.num_images for shard in shards),
        num_shards=len(shards),
        num_kept=sum(not shard.is_new for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        key_pattern=_pattern(config, has_line=has_line, has_date=has_date),
        seconds=round(time.monotonic() - started, 3),
        num_left_out=images.num_left_out,
        example_left_out=images.example_left_out,
    )


def _check_named(config: PackConfig) -> None:
    """Refuse images in containers if a tar cannot hold their names.

    Raises:
        ConfigError: A tar cannot; the message states what to give instead.
    """
    objects, hash_, _ = (config.key_pattern or "").partition("#")
    if config.format != "tar":
        return
    if objects.endswith(".parquet"):
        raise ConfigError(
            f"--format tar cannot hold the images of {config.key_pattern!r}: rows of a Parquet "
            "file have no names, but members of a tar need them. Give --format parquet, or pack "
            "the original images again."
        )
    if objects.endswith(".tar") and not hash_:
        raise ConfigError(
            f"--format tar needs the names of the members of {config.key_pattern!r}: add a pattern "
            f"for them after '#', such as '{config.key_pattern}#"
            "{image_id}.jpg', with '*/' before {image_id} for each folder in them; or give "
            "--format parquet."
        )


def _load(
    con: duckdb.DuckDBPyConnection, config: PackConfig, source: Source
) -> tuple[Selection, bool, bool]:
    """List the images into a table; return what was listed, and whether it has lines and dates."""
    date = None if config.date == ALL_DATES else config.date
    images = source.select(date)
    refs = images if date is None else Dated(images, config.images, config.key_pattern, date)
    load_stream(con, "images", IMAGE_FIELDS, ref_batches(refs, IMAGE_FIELDS))
    counts = con.sql("SELECT count(*), count(line), count(date) FROM images").fetchall()
    num_images, *with_values = counts[0]
    if num_images == 0:
        raise images.explain_empty()
    for name, num in zip(("line", "date"), with_values, strict=True):
        if num not in (0, num_images):
            raise ConfigError(
                f"{num_images - num:,} of {num_images:,} images have no {name}, the others have one"
                ": a shard holds one line and date, so pack the two groups separately."
            )
    return images, with_values[0] > 0, with_values[1] > 0


def _cut(con: duckdb.DuckDBPyConnection, config: PackConfig) -> Iterator[_Shard]:
    """Yield shards of one line and date each, as large as allowed, in order."""
    reader = con.sql(
        "SELECT * FROM images ORDER BY date NULLS FIRST, line NULLS FIRST, image_key"
    ).to_arrow_reader(8192)
    rows: list[dict[str, Any]] = []
    folder, number, num_bytes = "", 0, END_BYTES
    for batch in reader:
        for row in batch.to_pylist():
            size = row["bytes"]
            if config.format == "tar":
                size = tar_bytes(row["image_key"], size)
            place = _folder(row)
            is_full = num_bytes + size > config.shard_bytes or len(rows) == MAX_SHARD_IMAGES
            if rows and (place != folder or is_full):
                yield _shard(folder, number, config.format, rows)
                number += 1
                rows, num_bytes = [], END_BYTES
            if place != folder:
                folder, number = place, 0
            rows.append(row)
            num_bytes += size
    yield _shard(folder, number, config.format, rows)


def _shard(folder: str, number: int, suffix: str, rows: list[dict[str, Any]]) -> _Shard:
    key = f"{folder}shard-{number:05d}.{suffix}"
    return _Shard(key, pa.Table.from_pylist(rows, schema=IMAGE_FIELDS))


def _folder(row: dict[str, Any]) -> str:
    parts = [f"{name}={row[name]}/" for name in ("line", "date") if row[name] is not None]
    if any(part.count("/") > 1 or "\\" in part or "\0" in part for part in parts):
        raise InputError(
            f"{row['image_key']} has the line {row['line']!r}, which cannot be a folder's name: "
            "change --key-pattern so that the line has no '/', '\\' or NUL."
        )
    return "".join(parts)


def _pattern(config: PackConfig, *, has_line: bool, has_date: bool) -> str:
    """The shortest pattern that reads from the shards what `config.key_pattern` read from images.

    Only that pattern can read a tar member's tags, or an image_id that is not its name without the
    suffix; line and date are in the folders.
    """
    folders = ("line={line}/" if has_line else "") + ("date={date}/" if has_date else "")
    members = ""
    if config.format == "tar" and config.key_pattern:
        pattern = KeyPattern(config.key_pattern)
        is_needed = pattern.names - FOLDER_NAMES or not pattern.is_named_by_file
        members = f"#{config.key_pattern}" if is_needed else ""
    return f"{folders}*.{config.format}{members}"


def _refuse_others(out: Lake, suffix: str, made: set[str]) -> None:
    """Refuse shards in the same folders from an earlier packing of images that are gone."""
    for folder in sorted({key.rpartition("shard-")[0] for key in made}):
        found = {o.key for o in out.list_objects(f"{folder}shard-") if o.key.endswith(f".{suffix}")}
        others = sorted(found - made)
        if others:
            raise InputError(
                f"{out.uri(others[0])} and {len(others) - 1} more shards are from an earlier "
                "packing and hold images that are now packed elsewhere, or are gone. All of "
                "today's are packed: delete those others and their indexes, or their images count "
                "twice."
            )


class _Packer:
    """Writes one shard after the other; used by several threads."""

    def __init__(self, config: PackConfig, lake: Lake, out: Lake) -> None:
        self._config, self._lake, self._out = config, lake, out
        self._members = KeyPattern(config.key_pattern) if config.format == "tar" else None

    def pack(self, shard: _Shard) -> Iterator[PackedShard]:
        """Write a shard and its index, or find that they exist."""
        rows = shard.refs.to_pylist()
        self._check_names(rows)
        inputs = _inputs_sha256(rows)
        found = self._find(shard.key, inputs)
        if found is not None:
            yield PackedShard(
                key=shard.key, num_images=found.num_images, bytes=found.bytes, is_new=False
            )
            return
        # An index must never be next to a shard that it does not describe.
        self._out.delete([shard.key + INDEX_SUFFIX])
        entries: list[Entry] = []
        with self._out.open_output(shard.key) as stream:
            counted = CountedStream(stream)
            writer = self._writer(cast(BinaryIO, counted), rows)
            try:
                for row, data in self._contents(shard.refs, rows):
                    offset = writer.add(row, data)
                    digest = hashlib.sha256(data).hexdigest()
                    entries.append(Entry(row["image_key"], offset, len(data), digest))
                writer.close()
            except BaseException:
                counted.abandon()
                writer.abandon()
                raise
        written = self._out.stat(shard.key)
        if written is None or written.size_bytes != counted.num_bytes:
            raise LakeError(
                f"{self._out.uri(shard.key)} has {written.size_bytes if written else 'no'} bytes "
                f"after {counted.num_bytes} were written: check whether another program writes to "
                "--out, then run again."
            )
        head = ShardHead(
            bytes=counted.num_bytes,
            tail_sha256=counted.tail_sha256(),
            inputs_sha256=inputs,
            num_images=len(entries),
        )
        self._out.write(shard.key + INDEX_SUFFIX, index_bytes(head, entries))
        yield PackedShard(
            key=shard.key, num_images=len(entries), bytes=counted.num_bytes, is_new=True
        )

    def _find(self, key: str, inputs: str) -> ShardHead | None:
        """The index, if it and the shard exist and belong to these images."""
        index = key + INDEX_SUFFIX
        try:
            data = self._out.read(index, max_bytes=self._config.limits.index_bytes)
            head = Index(data, index).head
        except (MissingObjectError, LargeObjectError, ConfigError):
            return None
        found = self._out.stat(key)
        if head.inputs_sha256 != inputs or found is None or found.size_bytes != head.bytes:
            return None
        tail = tail_sha256(self._out, key, found.size_bytes, found.etag)
        return head if tail == head.tail_sha256 else None

    def _writer(self, stream: BinaryIO, rows: list[dict[str, Any]]) -> ShardWriter:
        if self._config.format == "tar":
            return TarWriter(stream)
        absent = {n for n in ("line", "date") if all(row[n] is None for row in rows)}
        return ParquetWriter(stream, left_out=frozenset(absent))

    def _contents(
        self, refs: pa.Table, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield each image's bytes, some images at a time."""
        start = num_bytes = 0
        for stop, row in enumerate(rows, 1):
            num_bytes += row["bytes"]
            if num_bytes < READ_BYTES and stop < len(rows):
                continue
            read = read_images(self._lake, refs.slice(start, stop - start), self._config.limits)
            for member, data in zip(rows[start:stop], read, strict=True):
                yield member, self._checked(member, data)
            start, num_bytes = stop, 0

    def _checked(self, row: dict[str, Any], data: bytes | LakeError | ImageError) -> bytes:
        if isinstance(data, LakeError):
            raise data
        if isinstance(data, ImageError):
            raise InputError(
                f"{row['image_key']} cannot be packed: {data.message} Give a --key-pattern that "
                "excludes it, or remove it."
            )
        # The size of a Parquet row is only known if its file states it.
        is_row = row["offset"] is not None and row["object_key"].endswith(".parquet")
        if not is_row and len(data) != row["bytes"]:
            raise LakeError(
                f"{self._lake.uri(row['object_key'])}: read {len(data)} bytes of "
                f"{row['image_key']}, but {row['bytes']} were listed. Run again; in a manifest, "
                "correct its size."
            )
        return data

    def _check_names(self, rows: list[dict[str, Any]]) -> None:
        """Refuse what a tar would lose, as it keeps only names."""
        if self._members is None:
            return
        for row in rows:
            fields = self._members.match(row["image_key"])
            said = None
            if fields is not None:
                said = ref_of(fields, LakeObject(key=row["image_key"], size_bytes=0, etag=""))
            if said is None or (said.image_id, said.tags) != (row["image_id"], dict(row["tags"])):
                raise ConfigError(
                    f"{row['image_key']} has an image_id or tags that are not in its name, and "
                    "members of a tar keep only their names: use --format parquet."
                )


def _inputs_sha256(rows: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        values = (row[f.name] for f in IMAGE_FIELDS)
        digest.update(("\t".join(map(str, values)) + "\n").encode())
    return digest.hexdigest()
