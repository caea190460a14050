"""The images that the rows of a manifest describe.

Rows are read column by column. Those that are bad, unusual or no images are decided one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake, LakeObject, why_unusable
from steel_batch.sources.arrays import flags_in, of_flags, of_numbers, scalar_of
from steel_batch.sources.columns import BadValueError, date_from, shown, size_from, text_of
from steel_batch.sources.dates import EXPECTED
from steel_batch.sources.duplicate_keys import Numbered
from steel_batch.sources.image_ref import IMAGES, ImageRef, ref_batches, ref_of
from steel_batch.sources.key_columns import read_keys
from steel_batch.sources.key_pattern import IMAGE_SUFFIXES, KeyPattern
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
from steel_batch.sources.stray import by_product_reason


@dataclass(slots=True)
class LeftOut:
    """Listed objects that are no images by the key pattern."""

    num: int = 0
    example: str | None = None
    """The first."""

    def add(self, key: str) -> None:
        """Count one."""
        self.num += 1
        self.example = self.example or key


@dataclass(frozen=True, slots=True, kw_only=True)
class RowImages:
    """Reads images from the rows of a manifest, and counts what it leaves out.

    Raises:
        InputError: A row cannot be used; the message states its number.
    """

    lake: Lake
    place: str
    """The manifest, for messages."""
    pattern: KeyPattern
    is_whole: bool
    """Whether every row must be a usable image (or container)."""
    companion: str
    """Suffix of objects that are not counted as left out; '' for none."""
    left_out: LeftOut = field(default_factory=LeftOut)

    def numbered(self, blocks: Iterable[RowBlock]) -> Iterator[Numbered]:
        """Yield the numbers (from 1) of all rows that are images, and the images, in blocks."""
        first = 1
        for block in blocks:
            numbers = of_numbers(np.arange(first, first + block.num_rows))
            described = self._as_columns(block)
            is_read = np.zeros(block.num_rows, np.bool_) if described is None else described[1]
            if described is not None and is_read.all():
                yield numbers, described[0]
            else:
                found = self._decided(block, np.flatnonzero(~is_read), first)
                if described is not None:
                    mask = of_flags(is_read)
                    found.append((numbers.filter(mask), described[0].filter(mask)))
                yield _in_rows(found)
            first += block.num_rows

    def _decided(
        self, block: RowBlock, places: npt.NDArray[np.int64], first: int
    ) -> list[Numbered]:
        """Decide rows one by one: those that are bad, unusual or no images."""
        numbers, refs = list[int](), list[ImageRef]()
        for place, row in zip(places.tolist(), block.rows(places), strict=True):
            ref = self.ref(first + place, row)
            if ref is not None:
                numbers.append(first + place)
                refs.append(ref)
        images = pa.Table.from_batches(ref_batches(refs, IMAGES), IMAGES).combine_chunks()
        return [(pa.array(numbers, pa.int64()), batch) for batch in images.to_batches()]

    def _as_columns(self, block: RowBlock) -> tuple[pa.RecordBatch, Mask] | None:
        """What `ref` makes of a block's rows, column by column.

        Returns:
            The images, and which of them are as `ref` would make them: it decides the others. None
            if it decides all.
        """
        columns = block.columns
        if columns["key"].type != pa.string():
            return None
        keys = pc.fill_null(columns["key"], scalar_of(""))
        said = read_keys(self.pattern, keys)
        is_read = said.is_read
        sizes, etags = pa.nulls(len(keys), pa.int64()), pa.nulls(len(keys), pa.string())
        if "size" in columns:
            sizes, is_odd = sizes_of(columns["size"])
            is_read = is_read & ~is_odd
        if "etag" in columns:
            bare = pc.utf8_trim(columns["etag"], characters='"')
            etags = pc.if_else(sizes.is_valid(), bare, pa.NA)
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
            if name != "image_id" or self.pattern.text:
                is_read = is_read & ~disagrees
        if "date" in columns:
            is_read = is_read & flags_in(stated["date"].is_valid())
        tags, is_odd = described_tags(said.tags, columns)
        images = pa.RecordBatch.from_arrays(
            [
                keys, stated["image_id"], stated["line"], tags, keys,
                pa.nulls(len(keys), pa.int64()), pc.fill_null(sizes, scalar_of(0)),
                pc.fill_null(etags, scalar_of("")), stated["date"],
            ],
            schema=IMAGES,
        )  # fmt: skip
        return images, is_read & ~is_odd

    def ref(self, number: int, row: Row) -> ImageRef | None:
        """The image of one row; None for what is no image, which is counted as left out."""
        key = row.get("key")
        if not isinstance(key, str) or not key:
            raise self._bad(number, f"its key is {key!r}, expected the key of an object")
        if not self.is_whole and key.endswith("/"):
            return None  # a folder marker
        unusable = why_unusable(key)
        if unusable is not None and self.is_whole:
            raise self._bad(
                number,
                f"its key is {key!r}; keys are relative to {self.lake.url}: {unusable}",
            )
        if unusable is not None or by_product_reason(key) is not None:
            self.left_out.add(key)
            return None
        fields = self.pattern.match(key)
        if fields is None:
            self._leave_out(number, key)
            return None
        size = self._size(number, row.get("size"))
        etag = str(row.get("etag") or "").strip('"') if size is not None else ""
        ref = ref_of(fields, LakeObject(key=key, size_bytes=size or 0, etag=etag))
        return self._described(number, row, ref)

    def _leave_out(self, number: int, key: str) -> None:
        if self.is_whole:
            expected = self.pattern.text or f"names ending in {', '.join(IMAGE_SUFFIXES)}"
            raise self._bad(
                number, f"its key {key!r} does not match --key-pattern; expected {expected}"
            )
        if not self.companion or not key.endswith(self.companion):
            self.left_out.add(key)

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
            of_key = None if name == "image_id" and not self.pattern.text else ref
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
        return InputError(
            f"{self.place}, row {number}: {what}. Nothing was planned: correct the row, or remove "
            "it."
        )


def _in_rows(found: list[Numbered]) -> Numbered:
    """Put images in the order of their rows."""
    numbers = pa.concat_arrays([numbers for numbers, _ in found] or [pa.array([], pa.int64())])
    images = pa.Table.from_batches([images for _, images in found], IMAGES)
    order = pc.sort_indices(numbers)
    ordered = images.take(order).combine_chunks()
    columns = [column.combine_chunks() for column in ordered.columns]
    return numbers.take(order), pa.RecordBatch.from_arrays(columns, schema=IMAGES)
