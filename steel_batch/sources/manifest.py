"""Images that are listed in a manifest: a CSV file, a Parquet file or an S3 Inventory.

A CSV or Parquet manifest has a column ``key`` and optionally ``size``, ``etag``, ``line``, ``date``
and ``image_id``, in any case; every other column becomes a tag. Keys are relative to the root of
the manifest's bucket, or to its folder on a disk. A row that cannot be used stops planning; the
error states its number (the first row after the header is 1). An Inventory lists whole buckets, so
objects that do not match the key pattern are skipped, as in a listing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import (
    ConfigError,
    InputError,
    NoImagesError,
)
from steel_batch.lake import Lake, LakeObject, why_unusable
from steel_batch.sources.columns import BadValueError, date_from, shown, size_from, text_of
from steel_batch.sources.contract import span_of
from steel_batch.sources.dates import EXPECTED
from steel_batch.sources.duplicate_keys import DuplicateKeys, Numbered
from steel_batch.sources.image_ref import IMAGES, ImageRef, ref_batches, ref_of, refs_of
from steel_batch.sources.inventory import Inventory
from steel_batch.sources.kept import Kept
from steel_batch.sources.key_columns import read_keys
from steel_batch.sources.key_pattern import IMAGE_SUFFIXES, KeyPattern
from steel_batch.sources.look_up import look_up
from steel_batch.sources.manifest_columns import (
    KNOWN_COLUMNS,
    Mask,
    Row,
    RowBlock,
    dates_of,
    described_tags,
    merged,
    sizes_of,
)
from steel_batch.sources.manifest_rows import read_csv, read_parquet
from steel_batch.sources.stray import by_product_reason


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
    num_left_out: int
    example_left_out: str | None
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
            raise Rows(self, None).explain_empty()
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
            return KeptRows(images, rows.num_left_out, rows.example_left_out, duplicates.find())


@dataclass(frozen=True, slots=True)
class _Stream:
    """Images as columns; see `ImageColumns`."""

    stream: Iterator[pa.RecordBatch]

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self.stream


def _in_rows(found: list[Numbered]) -> Numbered:
    """Put images in the order of their rows."""
    numbers = pa.concat_arrays([numbers for numbers, _ in found] or [pa.array([], pa.int64())])
    images = pa.Table.from_batches([images for _, images in found], IMAGES)
    order = pc.sort_indices(numbers)
    ordered = images.take(order).combine_chunks()
    columns = [column.combine_chunks() for column in ordered.columns]
    return numbers.take(order), pa.RecordBatch.from_arrays(columns, schema=IMAGES)


@dataclass(slots=True)
class Rows:
    """The images of one date in a manifest; see `Selection`."""

    source: ManifestSource
    date: str | None
    num_left_out: int = 0
    example_left_out: str | None = None
    other_dates: set[str] = field(default_factory=set)
    """Dates other than `date` of images that were found."""

    def __iter__(self) -> Iterator[ImageRef]:
        """See `Selection`."""
        return refs_of(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """See `ImageColumns`; sizes that the manifest lacks are looked up, and etags if needed."""
        all_etags = self.source.needs_etags or not self.source.pattern.names_images
        return look_up(self.source.lake, self._images(), all_etags=all_etags)

    def duplicates(self) -> DuplicateKeys:
        """What finds a key that is listed twice among the rows."""
        return DuplicateKeys(self.source.place, lambda: Rows(self.source, self.date).numbered())

    def numbered(self) -> Iterator[Numbered]:
        """Yield the numbers (from 1) of all rows that are images, and the images, in blocks."""
        first = 1
        for block in self.source.read_rows():
            numbers = pa.array(np.arange(first, first + block.num_rows))
            described = self._as_columns(block)
            is_read = np.zeros(block.num_rows, np.bool_) if described is None else described[1]
            if described is not None and is_read.all():
                yield numbers, described[0]
            else:
                found = self._decided(block, np.flatnonzero(~is_read), first)
                if described is not None:
                    mask = pa.array(is_read)
                    found.append((numbers.filter(mask), described[0].filter(mask)))
                yield _in_rows(found)
            first += block.num_rows

    def _decided(
        self, block: RowBlock, places: npt.NDArray[np.int64], first: int
    ) -> list[Numbered]:
        """Decide rows one by one: those that are bad, unusual or no images."""
        numbers, refs = list[int](), list[ImageRef]()
        for place, row in zip(places.tolist(), block.rows(places), strict=True):
            ref = self._ref(first + place, row)
            if ref is not None:
                numbers.append(first + place)
                refs.append(ref)
        images = pa.Table.from_batches(ref_batches(refs, IMAGES), IMAGES).combine_chunks()
        return [(pa.array(numbers, pa.int64()), batch) for batch in images.to_batches()]

    def _as_columns(self, block: RowBlock) -> tuple[pa.RecordBatch, Mask] | None:
        """What `_ref` makes of a block's rows, column by column.

        Returns:
            The images, and which of them are as `_ref` would make them: the others are left to it.
            None if all are.
        """
        columns = block.columns
        if columns["key"].type != pa.string():
            return None
        keys = pc.fill_null(columns["key"], "")
        said = read_keys(self.source.pattern, keys)
        is_read = said.is_read
        sizes, etags = pa.nulls(len(keys), pa.int64()), pa.nulls(len(keys), pa.string())
        if "size" in columns:
            sizes, is_odd = sizes_of(columns["size"])
            is_read = is_read & ~is_odd
        if "etag" in columns:
            bare = pc.utf8_trim(columns["etag"], characters='"')
            etags = pc.if_else(sizes.is_valid(), bare, None)
        stated = {"line": said.line, "date": said.date, "image_id": said.image_id}
        for name, of_key in stated.items():
            if name not in columns:
                continue
            value = columns[name]
            if name == "date":
                value, is_odd = dates_of(value)
                is_read = is_read & ~is_odd
            stated[name], disagrees = merged(value, of_key)
            # Without a pattern, the image's name is only a guess.
            if name != "image_id" or self.source.pattern.text:
                is_read = is_read & ~disagrees
        if "date" in columns:
            is_read = is_read & stated["date"].is_valid().to_numpy(zero_copy_only=False)
        tags, is_odd = described_tags(said.tags, columns)
        images = pa.RecordBatch.from_arrays(
            [
                keys, stated["image_id"], stated["line"], tags, keys,
                pa.nulls(len(keys), pa.int64()), pc.fill_null(sizes, 0),
                pc.fill_null(etags, ""), stated["date"],
            ],
            schema=IMAGES,
        )  # fmt: skip
        return images, is_read & ~is_odd

    def explain_empty(self) -> ConfigError:
        """See `Selection`."""
        if self.other_dates:
            return NoImagesError(
                f"{self.source.place} lists no image of {self.date}, only images of "
                f"{span_of(self.other_dates)}. Give another --date."
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
            self.num_left_out = kept.num_left_out
            self.example_left_out = kept.example_left_out
            self.other_dates = {date for date in kept.images.dates if date not in (None, self.date)}
            yield from kept.images.select(self.date)
            repeated = kept.repeated
        if repeated is not None:
            raise InputError(repeated)

    def _of_date(self, images: pa.RecordBatch) -> pa.RecordBatch:
        if self.date is None:
            return images
        is_other = pc.fill_null(pc.not_equal(images["date"], self.date), False)
        if not pc.any(is_other).as_py():
            return images
        self.other_dates.update(pc.unique(images["date"].filter(is_other)).to_pylist())
        return images.filter(pc.invert(is_other))

    def _ref(self, number: int, row: Row) -> ImageRef | None:
        key = row.get("key")
        if not isinstance(key, str) or not key:
            raise self._bad(number, f"its key is {key!r}, expected the key of an object")
        if not self.source.is_whole and key.endswith("/"):
            return None  # a folder marker
        unusable = why_unusable(key)
        if unusable is not None and self.source.is_whole:
            raise self._bad(
                number,
                f"its key is {key!r}; keys are relative to {self.source.lake.url}: {unusable}",
            )
        if unusable is not None or by_product_reason(key) is not None:
            self._count_left_out(key)
            return None
        fields = self.source.pattern.match(key)
        if fields is None:
            self._leave_out(number, key)
            return None
        size = self._size(number, row.get("size"))
        etag = str(row.get("etag") or "").strip('"') if size is not None else ""
        ref = ref_of(fields, LakeObject(key=key, size_bytes=size or 0, etag=etag))
        return self._described(number, row, ref)

    def _leave_out(self, number: int, key: str) -> None:
        if self.source.is_whole:
            expected = self.source.pattern.text or f"names ending in {', '.join(IMAGE_SUFFIXES)}"
            raise self._bad(
                number, f"its key {key!r} does not match --key-pattern; expected {expected}"
            )
        if not self.source.companion or not key.endswith(self.source.companion):
            self._count_left_out(key)

    def _count_left_out(self, key: str) -> None:
        self.num_left_out += 1
        self.example_left_out = self.example_left_out or key

    def _described(self, number: int, row: Row, ref: ImageRef) -> ImageRef:
        """Add what the row's other columns state, which must agree with its key."""
        said: dict[str, str | None] = {}
        for name in ("line", "date", "image_id"):
            value = row.get(name)
            if value is None or value == "":
                if name == "date" and "date" in row and ref.date is None:
                    raise self._bad(number, "its date is empty, expected YYYY-MM-DD")
                continue
            said[name] = text = self._date(number, value) if name == "date" else str(value)
            # Without a pattern, the image's name is only a guess.
            of_key = None if name == "image_id" and not self.source.pattern.text else ref
            if of_key is not None and getattr(of_key, name) not in (None, "", text):
                raise self._bad(
                    number, f"its {name} is {text!r}, but its key states {getattr(ref, name)!r}"
                )
        return dataclasses.replace(ref, **said, tags=self._tags(number, row, ref))  # type: ignore[arg-type]

    def _tags(self, number: int, row: Row, ref: ImageRef) -> dict[str, str]:
        """The tags from the key, from a column `tags` and from columns without another meaning."""
        tags = dict(ref.tags)
        others = {k: v for k, v in row.items() if k not in KNOWN_COLUMNS and v not in (None, "")}
        found = others.pop("tags", {})
        both = found if isinstance(found, dict) else {"tags": found}
        for name, value in (*both.items(), *others.items()):
            if tags.setdefault(name, value) != value:
                raise self._bad(
                    number, f"its tag {name!r} has two values, {value!r} and {tags[name]!r}"
                )
        return tags

    def _size(self, number: int, value: Any) -> int | None:
        if value is None or value == "":
            return None
        try:
            return None if text_of(value) is None else size_from(value)
        except BadValueError as error:
            raise self._bad(
                number, f"its size is {shown(value)}, expected a number of bytes"
            ) from error

    def _date(self, number: int, value: Any) -> str:
        try:
            return date_from(value)
        except BadValueError as error:
            raise self._bad(number, f"its date is {shown(value)}, expected {EXPECTED}") from error

    def _bad(self, number: int, what: str) -> ConfigError:
        return InputError(f"{self.source.place}, row {number}: {what}. Nothing was planned.")
