"""Lines of text of a stated length, also where what is compressed becomes any number of bytes."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from typing import IO, BinaryIO, Final

from steel_batch.config import Limits
from steel_batch.errors import InputError

READ_BYTES: Final = 1 << 20
FREE_BYTES: Final = 64 << 20
"""What a compressed file may always become."""


class Lines(Iterator[str]):
    """The lines of a text for a reader of CSV, which may take several for one row.

    Args:
        text: Open for reading.
        limits: Their `line_bytes` hold for the lines of one row together.
    """

    def __init__(self, text: IO[str], limits: Limits) -> None:
        self._text, self._limits, self._of_row = text, limits, 0

    def __next__(self) -> str:
        """The next line.

        Raises:
            InputError: A row is longer than it may be.
        """
        most = self._limits.line_bytes
        line = self._text.readline(most + 1)
        self._of_row += len(line)
        if self._of_row > most:
            raise InputError(
                f"a row of more than {most:,} characters, which is none that was meant (limit "
                "line-bytes)."
            )
        if not line:
            raise StopIteration
        return line

    def rows(self, *, strict: bool, skips_blanks: bool = False) -> Iterator[list[str]]:
        """The rows that are left, by the rules of CSV.

        Raises:
            InputError: A value or row is longer than it may be.
            csv.Error: The text is no CSV.
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


class Unpacked(io.RawIOBase):
    """A file compressed by gzip, as it is unpacked; no more than it may become.

    Args:
        stream: The compressed file.
        limits: How many times its size it may have is their `expansion`.
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
        """Unpack as much as the buffer holds.

        Raises:
            InputError: It became more than it may.
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
