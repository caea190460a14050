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
    chunk: memoryview, headers: Iterable[PageHeader], *, is_nullable: bool
) -> list[memoryview] | None:
    """The values of a column of byte arrays in a row group, without a copy.

    Args:
        chunk: The column's bytes, not compressed.
        headers: The headers of its pages.
        is_nullable: Whether the column may hold nulls, so that its pages state where.

    Returns:
        None if a page is of another form or holds a null.
    """
    values: list[memoryview] = []
    for header in headers:
        page = chunk[header.begin : header.end]
        found = _of_page(page, header.num_values, is_nullable=is_nullable)
        if header.kind != DATA_PAGE or header.encoding != PLAIN or found is None:
            return None
        values += found
    return values


def _of_page(page: memoryview, num_values: int, *, is_nullable: bool) -> list[memoryview] | None:
    position = 0
    if is_nullable:
        levels = _without_nulls(num_values)
        if bytes(page[: len(levels)]) != levels:
            return None
        position = len(levels)
    values = []
    while position + _LENGTH.size <= len(page):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(page, position)[0]
        values.append(page[start:position])
    return values if len(values) == num_values and position == len(page) else None


def _without_nulls(num_values: int) -> bytes:
    """What a page without nulls begins with: one run of as many levels of 1."""
    run, number = b"", num_values << 1
    while number > 0x7F:
        run, number = run + bytes([number & 0x7F | 0x80]), number >> 7
    run += bytes([number, 1])
    return _LENGTH.pack(len(run)) + run
