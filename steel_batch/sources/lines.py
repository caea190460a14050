"""Lines of text with a length limit, also of compressed text, which may expand to any size."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, Final, TypeVar

from steel_batch.config import Limits
from steel_batch.errors import InputError

Item = TypeVar("Item")
READ_BYTES: Final = 1 << 20
BLOCK_ROWS: Final = 8192
FREE_BYTES: Final = 64 << 20
"""Decompressed size that is always allowed."""


class Lines(Iterator[str]):
    """The lines of a text, for a CSV reader, which may take several lines for one row.

    Args:
        text: Open for reading.
        limits: `line_bytes` is the limit of the lines of one row together.
    """

    def __init__(self, text: IO[str], limits: Limits) -> None:
        self._text, self._limits, self._of_row = text, limits, 0

    def __next__(self) -> str:
        """Return the next line.

        Raises:
            InputError: A row exceeds its limit.
        """
        most = self._limits.line_bytes
        line = self._text.readline(most + 1)
        self._of_row += len(line)
        if self._of_row > most:
            raise InputError(
                f"a row of more than {most:,} characters (limit line-bytes): a quotation mark may "
                "be missing."
            )
        if not line:
            raise StopIteration
        return line

    def rows(self, *, strict: bool, skips_blanks: bool = False) -> Iterator[list[str]]:
        """Yield the remaining rows, by the rules of CSV.

        Raises:
            InputError: A value or row exceeds its limit.
            csv.Error: The text is not CSV.
        """
        self._of_row = 0
        for row in csv.reader(self, strict=strict, skipinitialspace=skips_blanks):
            self._of_row = 0
            longest = max(map(len, row), default=0)
            if longest > self._limits.text_bytes:
                raise InputError(
                    f"a value of {longest:,} characters, at most {self._limits.text_bytes:,} are "
                    "read (limit text-bytes)."
                )
            yield row


def in_blocks(
    items: Iterator[Item],
    weigh: Callable[[Item], float] = lambda _: 1.0,
    *,
    most: float = BLOCK_ROWS,
) -> Iterator[list[Item]]:
    """Items, many at a time; those before an error are yielded before it is raised.

    Args:
        items: Rows, or batches of rows.
        weigh: How many rows an item counts as.
        most: How many rows a block has.
    """
    error: Exception | None = None
    while error is None:
        block: list[Item] = []
        total = 0.0
        try:
            for item in items:
                block.append(item)
                total += weigh(item)
                if total >= most:
                    break
        except Exception as found:  # noqa: BLE001 - raised below
            error = found
        if block:
            yield block
        elif error is None:
            return
    raise error


class Unpacked(io.RawIOBase):
    """A gzip file while it is decompressed, up to a limit.

    Args:
        stream: The compressed file.
        limits: `expansion` is the limit of the decompressed size, relative to the compressed size.
    """

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        size_bytes = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self._gzip = gzip.GzipFile(fileobj=io.BufferedReader(stream, READ_BYTES))  # type: ignore[type-var]
        self._most_bytes = max(FREE_BYTES, size_bytes * limits.expansion)
        self._num_bytes = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Decompress as much as fits in the buffer.

        Raises:
            InputError: The decompressed size exceeds its limit.
            OSError: It is damaged.
        """
        data = self._gzip.read(len(buffer))
        self._num_bytes += len(data)
        if self._num_bytes > self._most_bytes:
            raise InputError(
                f"more than {self._most_bytes:,} bytes when unpacked (limit expansion)."
            )
        buffer[: len(data)] = data
        return len(data)
