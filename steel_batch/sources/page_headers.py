"""Headers of the pages of a Parquet column.

Source: parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from steel_batch.sources.thrift import Compact

DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
"""PageType."""
_MAX_CHUNK_HEADERS: Final = 1_000_000
_VALUES: Final = {1: None, 2: None, 4: None}
_PAGE: Final = {1: None, 2: None, 3: None, 5: _VALUES, 7: _VALUES, 8: _VALUES}
"""Fields of a page's header: kind, unpacked and packed bytes; by kind, values and encoding."""
_STATED: Final = {DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}


@dataclass(frozen=True, slots=True)
class PageHeader:
    """What a page's header states."""

    kind: int
    """PageType."""
    begin: int
    """Where the page's content begins, in the column's bytes."""
    end: int
    """Where it ends."""
    unpacked_bytes: int
    num_values: int
    encoding: int


def page_headers(chunk: memoryview) -> Iterator[PageHeader]:
    """The headers of the pages of a column in a row group.

    Args:
        chunk: The column's bytes.

    Raises:
        pa.ArrowInvalid: One is damaged.
    """
    position = 0
    for _ in range(_MAX_CHUNK_HEADERS):
        if position >= len(chunk):
            return
        reader = Compact(chunk, position)
        try:
            fields = reader.struct(_PAGE)
            position = reader.at
            kind, unpacked, packed = (int(fields[number]) for number in (1, 2, 3))
            stated = fields.get(_STATED.get(kind, -1), {})
            num_values = int(stated.get(1, 0))
            encoding = int(stated.get(4 if kind == DATA_PAGE_V2 else 2, -1))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise pa.ArrowInvalid(f"a page's header is damaged ({error!r})") from error
        if min(unpacked, packed, num_values) < 0 or position + packed > len(chunk):
            raise pa.ArrowInvalid(f"a page of {packed:,} bytes, which are not there")
        begin, position = position, position + packed
        yield PageHeader(kind, begin, position, unpacked, num_values, encoding)
    raise pa.ArrowInvalid(f"more than {_MAX_CHUNK_HEADERS:,} pages in a column")
