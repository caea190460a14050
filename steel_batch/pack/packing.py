"""Packing: sort, cut, write each shard completely, and its index last.

Images go into one folder per line and date, in key order, so the same images give the same shards
in whatever order they are listed. A shard whose index states that it was packed from the same keys,
sizes and etags is kept: the same command resumes a packing that was interrupted. A shard that holds
an image which is not packed now is never overwritten (`earlier`). Memory grows with the number of
shards, not of images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import duckdb

from steel_batch.config import ALL_DATES, LIMITS, Limits
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.layout import check_date
from steel_batch.pack.earlier import EarlierShards, refuse_left_over
from steel_batch.pack.packer import PackedShard, Packer
from steel_batch.pack.shards import FORMATS, IMAGE_FIELDS, Format, cut_shards
from steel_batch.sources.contract import Selection, Source
from steel_batch.sources.image_ref import ref_batches
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.open import open_source
from steel_batch.sources.parallel import expand_parallel
from steel_batch.sources.undated import ImagesByDate

MIN_SHARD_BYTES: Final = 1 << 10
FOLDER_NAMES: Final = {"line", "date", "year", "month", "day", "image_id"}
"""Placeholders whose values are also in the names of folders and members."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackConfig:
    """One `pack` command."""

    images: str
    """As in `score`."""
    key_pattern: str | None = None
    follow_links: bool = False
    """As of `score`."""
    inventory_buckets: tuple[str, ...] = ()
    """As of `score`."""
    date: str = ALL_DATES
    """YYYY-MM-DD, or ``all`` for every image, including those without a date."""
    out: str
    format: Format = "tar"
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
class PackResult:
    """Result of a packing."""

    out: str
    format: Format
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


def pack(config: PackConfig, observe: Callable[[PackedShard], None]) -> PackResult:
    """Pack images into shards.

    Args:
        config: The command.
        observe: Called with each finished shard.

    Raises:
        ConfigError: There are no images, or they cannot be packed this way; or `out` holds shards
            of images that are not among them, and nothing is written; or, at the end, `out` holds
            other shards of the same images.
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
        follow_links=config.follow_links,
        inventory_buckets=config.inventory_buckets,
        needs_etags=True,
    )
    out = Lake(config.out, endpoint_url=config.endpoint_url)
    packer = Packer(source.lake, out, config.format, config.key_pattern, config.limits)
    earlier = EarlierShards(
        out=out, form=config.format, limits=config.limits, num_threads=config.num_threads
    )
    shards: list[PackedShard] = []
    with scratch_database() as con:
        images, has_line, has_date = _load(con, config, source)
        existing = earlier.check(con)
        wanted = cut_shards(con, config.format, config.shard_bytes)
        for shard in expand_parallel(wanted, packer.pack, num_threads=config.num_threads):
            observe(shard)
            shards.append(shard)
    refuse_left_over(out, existing - {shard.key for shard in shards})
    return PackResult(
        out=out.url,
        format=config.format,
        num_images=sum(shard.num_images for shard in shards),
        num_shards=len(shards),
        num_kept=sum(not shard.is_new for shard in shards),
        bytes=sum(shard.size_bytes for shard in shards),
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
    refs = images if date is None else ImagesByDate(images, config.images, config.key_pattern, date)
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
