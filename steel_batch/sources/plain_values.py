"""Reads the values of a Parquet column that are stored as they are, as views of its bytes.

Images are mostly stored so: one value after the other, not compressed and in no dictionary. Arrow
would copy each of them. What is not exactly of this form is left to Arrow.

Source: README.md and Encodings.md of apache/parquet-format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from steel_batch.sources.page_headers import DATA_PAGE, PageHeader

PLAIN: Final = 0
_LENGTH: Final = struct.Struct("<I")


def plain_values(
    chunk: memoryview, headers: Iterable[PageHeader], num_rows: int, *, is_nullable: bool
) -> list[memoryview] | None:
    """The values of a column of byte arrays in a row group, without a copy.

    Args:
        chunk: The column's bytes, not compressed.
        headers: The headers of its pages.
        num_rows: Number of rows of the row group.
        is_nullable: Whether the column may hold nulls, so that its pages state where.

    Returns:
        None if a page is of another form or holds a null, or there are more or fewer values.
    """
    values: list[memoryview] = []
    for header in headers:
        if (header.kind, header.encoding) != (DATA_PAGE, PLAIN):
            return None
        if len(values) + header.num_values > num_rows:
            return None
        page = chunk[header.begin : header.end]
        found = _of_page(page, header.num_values, is_nullable=is_nullable)
        if found is None:
            return None
        values += found
    return values if len(values) == num_rows else None


def _of_page(page: memoryview, num_values: int, *, is_nullable: bool) -> list[memoryview] | None:
    """The values of a page; None if they are not all there, or not all that is there."""
    position = 0
    if is_nullable:
        levels = _without_nulls(num_values)
        if bytes(page[: len(levels)]) != levels:
            return None
        position = len(levels)
    values = []
    for _ in range(num_values):
        start = position + _LENGTH.size
        if start > len(page):
            return None
        position = start + _LENGTH.unpack_from(page, position)[0]
        values.append(page[start:position])
    return values if position == len(page) else None


def _without_nulls(num_values: int) -> bytes:
    """What a page without nulls begins with: one run of as many levels of 1."""
    run, number = b"", num_values << 1
    while number > 0x7F:
        run, number = run + bytes([number & 0x7F | 0x80]), number >> 7
    run += bytes([number, 1])
    return _LENGTH.pack(len(run)) + run
