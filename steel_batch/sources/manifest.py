"""Images that are listed in a manifest: a CSV file, a Parquet file or an S3 Inventory.

A CSV or Parquet manifest has a column ``key`` and optionally ``size``, ``etag``, ``line``, ``date``
and ``image_id``, in any case; every other column becomes a tag. Keys are relative to the root of
the manifest's bucket, or to its folder on a disk. A row that cannot be used stops planning; the
error states its number (the first row after the header is 1). An Inventory lists whole buckets, so
objects that do not match the key pattern are skipped, as in a listing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import (
    ConfigError,
    InputError,
    NoImagesError,
)
from steel_batch.lake import Lake
from steel_batch.sources.arrays import scalar_of
from steel_batch.sources.contract import NotThere, span_of
from steel_batch.sources.duplicate_keys import DuplicateKeys, Numbered
from steel_batch.sources.image_ref import ImageRef, refs_of
from steel_batch.sources.inventory import Inventory
from steel_batch.sources.kept import Kept
from steel_batch.sources.key_pattern import IMAGE_SUFFIXES, KeyPattern
from steel_batch.sources.look_up import look_up
from steel_batch.sources.manifest_columns import RowBlock
from steel_batch.sources.manifest_images import LeftOut, RowImages
from steel_batch.sources.manifest_rows import read_csv, read_parquet


def place_of_manifest(
    images: str, endpoint_url: str | None, *, follow_links: bool
) -> tuple[Lake, str]:
    """The folder or prefix that `--images` lies in, and its name there; '' for a bucket."""
    folder, name = _split(images)
    return Lake(folder, endpoint_url=endpoint_url, follow_links=follow_links), name


def is_manifest(place: Lake, name: str) -> bool:
    """Whether an object exists whose name is a manifest's, by its suffix.

    Raises:
        ConfigError: It names a single tar.
        LakeError: It is not a regular file, or a link that leads out of its folder.
    """
    if not name.endswith((".csv", ".parquet", ".tar")) and name != "manifest.json":
        return False
    if place.stat(name) is None:
        return False
    if name.endswith(".tar"):
        raise ConfigError(
            f"--images {place.uri(name)} is a single tar: give its folder as --images and its name "
            f"as --key-pattern {name!r}."
        )
    return True


def open_manifest(
    place: Lake,
    name: str,
    pattern: KeyPattern,
    *,
    companion: str = "",
    limits: Limits = LIMITS,
    inventory_buckets: Collection[str] = (),
    needs_etags: bool = False,
) -> ManifestSource:
    """Open a manifest as a source.

    Args:
        place: The folder or prefix of the manifest.
        name: Its name there.
        pattern: Key pattern; every key must match.
        companion: Suffix of objects in an Inventory that are not counted as left out.
        limits: What may be read of it.
        inventory_buckets: Buckets that an Inventory may name; see `Inventory.open`.
        needs_etags: Whether etags that it lacks are looked up.

    Raises:
        ConfigError: It is not a manifest.
    """
    images = place.uri(name)
    if name == "manifest.json":
        inventory = Inventory.open(place, name, limits=limits, buckets=inventory_buckets)
        return ManifestSource(
            inventory.lake,
            pattern,
            images,
            inventory.rows,
            is_whole=False,
            companion=companion,
            needs_etags=needs_etags,
        )
    lake = place
    if place.is_s3:
        bucket = place.url.removeprefix("s3://").partition("/")[0]
        lake = Lake(f"s3://{bucket}", endpoint_url=place.endpoint_url)
    read = read_csv if name.endswith(".csv") else read_parquet
    return ManifestSource(
        lake, pattern, images, lambda: read(place, name, limits), needs_etags=needs_etags
    )


def _split(images: str) -> tuple[str, str]:
    folder, _, name = images.rstrip("/").rpartition("/")
    if folder.endswith((":/", "://")):
        return images, ""  # a bucket
    return folder or ("/" if images.startswith("/") else "."), name


@dataclass(frozen=True, slots=True)
class KeptRows:
    """All rows of a manifest, and counts of what else it lists."""

    images: Kept
    """The images; sizes and etags may still have to be looked up."""
    left_out: LeftOut
    repeated: str | None
    """The error about a key that is listed twice; None if there is none."""


@dataclass(slots=True)
class ManifestSource:
    """The objects listed in a manifest; see `Source`."""

    lake: Lake
    pattern: KeyPattern
    place: str
    read_rows: Callable[[], Iterator[RowBlock]]
    is_whole: bool = True
    """Whether every row must be a usable image (or container)."""
    companion: str = ""
    needs_etags: bool = False
    """Whether etags that it lacks are looked up; if not, they are those of what is read later."""
    kept: KeptRows | None = field(default=None, init=False)
    """What `dates` read; later selections use it."""

    @property
    def is_seen(self) -> bool:
        """See `Source`; no, since listed objects may be gone."""
        return False

    def dates(self) -> list[str]:
        """See `Source`; reads the whole manifest once, and nothing else."""
        if self.kept is None:
            self.kept = self._read()
        found = self.kept.images.dates
        if not found:
            raise Rows(self, None, self.kept.left_out).explain_empty()
        if found == {None}:
            raise ConfigError(
                f"--date all takes the dates from the images, but {self.place} has no column 'date'"
                " and --key-pattern has no {date}: give --date YYYY-MM-DD."
            )
        return sorted(date for date in found if date is not None)

    def select(self, date: str | None) -> Rows:
        """See `Source`."""
        return Rows(self, date)

    def _read(self) -> KeptRows:
        rows = Rows(self, None)
        with rows.duplicates() as duplicates:
            images = Kept(_Stream(duplicates.watch(rows.numbered())))
            return KeptRows(images, rows.left_out, duplicates.find())


@dataclass(frozen=True, slots=True)
class _Stream:
    """Images as columns; see `ImageColumns`."""

    stream: Iterator[pa.RecordBatch]

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self.stream


@dataclass(slots=True)
class Rows:
    """The images of one date in a manifest; see `Selection`."""

    source: ManifestSource
    date: str | None
    left_out: LeftOut = field(default_factory=LeftOut)
    other_dates: set[str] = field(default_factory=set)
    """Dates other than `date` of images that were found."""
    not_there: NotThere = field(default_factory=NotThere)
    """Images that were looked up, as the manifest does not state their size, and do not exist."""

    @property
    def num_left_out(self) -> int:
        """See `Selection`."""
        return self.left_out.num

    @property
    def example_left_out(self) -> str | None:
        """See `Selection`."""
        return self.left_out.example

    def __iter__(self) -> Iterator[ImageRef]:
        """See `Selection`."""
        return refs_of(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """See `ImageColumns`; sizes that the manifest lacks are looked up, and etags if needed."""
        all_etags = self.source.needs_etags or not self.source.pattern.names_images
        return look_up(
            self.source.lake, self._images(), all_etags=all_etags, not_there=self.not_there
        )

    def duplicates(self) -> DuplicateKeys:
        """What finds a key that is listed twice among the rows."""
        return DuplicateKeys(self.source.place, lambda: Rows(self.source, self.date).numbered())

    def numbered(self) -> Iterator[Numbered]:
        """Yield the numbers (from 1) of all rows that are images, and the images, in blocks."""
        return self.row_images().numbered(self.source.read_rows())

    def row_images(self) -> RowImages:
        """What reads images from rows; it counts in `left_out`."""
        return RowImages(
            lake=self.source.lake,
            place=self.source.place,
            pattern=self.source.pattern,
            is_whole=self.source.is_whole,
            companion=self.source.companion,
            left_out=self.left_out,
        )

    def explain_empty(self) -> ConfigError:
        """See `Selection`."""
        if self.other_dates:
            return NoImagesError(
                f"{self.source.place} lists no image of {self.date}, only images of "
                f"{span_of(self.other_dates)}. Give another --date."
            )
        if not self.num_left_out:
            what = "has no rows" if self.source.is_whole else "lists no objects"
            return ConfigError(
                f"{self.source.place} {what}, expected one for each image. Write it again, or give "
                "another --images."
            )
        example = f", for example {self.example_left_out!r}" if self.example_left_out else ""
        pattern = self.source.pattern.text
        expected = (
            f"whose name ends in {', '.join(IMAGE_SUFFIXES)}"
            if pattern is None
            else f"that matches the key pattern {pattern!r}"
        )
        return ConfigError(
            f"{self.source.place} lists no image{f' of {self.date}' if self.date else ''} "
            f"{expected}; it lists {self.num_left_out:,} other objects{example}. Change "
            "--key-pattern or --date."
        )

    def _images(self) -> Iterator[pa.RecordBatch]:
        """Yield the date's images as the manifest describes them, each key once."""
        kept = self.source.kept
        if kept is None:
            with self.duplicates() as duplicates:
                for images in duplicates.watch(self.numbered()):
                    yield self._of_date(images)
                repeated = duplicates.find()
        else:
            self.left_out = kept.left_out
            self.other_dates = {date for date in kept.images.dates if date not in (None, self.date)}
            yield from kept.images.select(self.date)
            repeated = kept.repeated
        if repeated is not None:
            raise InputError(repeated)

    def _of_date(self, images: pa.RecordBatch) -> pa.RecordBatch:
        if self.date is None:
            return images
        is_other = pc.fill_null(
            pc.not_equal(images["date"], scalar_of(self.date)), scalar_of(False)
        )
        if not pc.any(is_other).as_py():
            return images
        self.other_dates.update(pc.unique(images["date"].filter(is_other)).to_pylist())
        return images.filter(pc.invert(is_other))
