"""How much the values of a Parquet file need, found out before they are read.

Some kilobytes of Parquet may expand to gigabytes: a page that compresses well, a value that many
rows refer to, a repeated row of nulls. The footer's sizes may be false; what Arrow allocates is
what each page's own header states. So the headers of a column's pages are read first, from the same
bytes that Arrow then decodes, and a column that would become too large is refused.

Source: parquet.thrift of apache/parquet-format.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.config import Limits
from steel_batch.lake.seekable import Seekable
from steel_batch.sources.image_column import is_leaf_of
from steel_batch.sources.page_headers import DICTIONARY_PAGE, page_headers
from steel_batch.sources.plain_values import plain_values
from steel_batch.sources.thrift import Compact

FREE_BYTES: Final = 64 << 20
"""Decoded size that is always allowed, and that is decoded at once of larger columns."""
BATCH_ROWS: Final = 8192
_LEVEL_BYTES: Final = 16
"""Bytes per value in addition to its content: levels, an offset, a bit."""
_NUMBER_BYTES: Final = 8
_MAGIC, _TAIL_BYTES = b"PAR1", 8
_CACHED_BYTES: Final = 1 << 20
"""Footers up to this are kept for the next shard of the same file."""
MAX_FOOTER_BYTES: Final = 16 << 20
_DICTIONARIES, _DELTA_STRINGS, _PLAIN = frozenset({2, 8}), 7, frozenset({0, 6})
"""Encodings: by dictionary, by the difference from the value before, plain."""
_LEAF: Final = {1: None, 3: [None], 4: None, 6: None, 7: None, 9: None, 11: None}
_FOOTER: Final = {3: None, 4: [{1: [{1: None, 3: _LEAF}], 3: None}]}
"""Fields of the footer: rows; per row group, its rows and columns; per column, type, path, codec,
unpacked and packed bytes, and where pages and dictionary begin."""
_BYTE_ARRAY, _FIXED_BYTE_ARRAY, _UNCOMPRESSED = 6, 7, 0


class TooMuchError(Exception):
    """A Parquet file exceeds a limit; the message is a phrase that names what exceeds it."""


class Held(Seekable):
    """A stream that can keep some bytes in memory until they are read, to fetch them only once."""

    def __init__(self, stream: BinaryIO, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self._stream = stream
        self._kept: dict[int, bytes | memoryview] = {}
        self._room = memoryview(b"")
        """Of the buffer for what is kept next."""

    def reserve(self, size_bytes: int) -> None:
        """Have a buffer for what is kept next, as far as it has room; none for 0 bytes."""
        self._room = memoryview(pa.allocate_buffer(size_bytes)).cast("B")

    def keep(self, start: int, length: int) -> memoryview:
        """Fetch some bytes and keep them."""
        self._stream.seek(start)
        if 0 < length <= len(self._room):
            taken, self._room = self._room[:length], self._room[length:]
            num_read = cast(io.BufferedIOBase, self._stream).readinto(taken)
            if num_read < length:
                raise pa.ArrowInvalid(
                    f"it ends early: only {num_read:,} of {length:,} bytes at byte {start:,}"
                )
            self._kept[start] = taken.toreadonly()
        else:
            self._kept[start] = self._stream.read(length)
        return memoryview(self._kept[start])

    def kept(self, start: int) -> memoryview:
        """The bytes that are kept from an offset on; none if none are."""
        return memoryview(self._kept.get(start, b""))

    def forget(self) -> None:
        """Discard the bytes that are kept."""
        self._kept.clear()

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, fewer at the end."""
        size = self.left_of(size)
        data: Any = self._kept.get(self._position, b"")
        if len(data) == size and size:
            del self._kept[self._position]  # Arrow reads a column once
        elif len(data) > size:
            data = data[:size]
        else:
            self._stream.seek(self._position)
            data = self._stream.read(size)
        self._position += len(data)
        return cast(bytes, data)  # or a view: Arrow copies neither


@dataclass(slots=True)
class Room:
    """The memory that the pages of some columns of row groups need."""

    packed_bytes: int = 0
    """As they are stored."""
    page_bytes: int = 0
    """Decompressed size of all pages."""
    largest_bytes: int = 0
    """Decompressed size of the largest page: no value is longer than its page or its dictionary."""
    most_bytes: int = 0
    """Upper bound of the size of all values together."""

    def add(self, other: Room) -> None:
        """Count the pages of another row group, too."""
        self.packed_bytes += other.packed_bytes
        self.page_bytes += other.page_bytes
        self.largest_bytes = max(self.largest_bytes, other.largest_bytes)
        self.most_bytes += other.most_bytes


class ParquetFront:
    """A Parquet file that is read only within `Limits`.

    Args:
        stream: The file.
        size_bytes: Its size.
        limits: The limits of reading it.

    Raises:
        TooMuchError: Its footer exceeds a limit, or states too many rows.
        pa.ArrowException: It is damaged; raised here and by each method.
    """

    def __init__(self, stream: BinaryIO, size_bytes: int, limits: Limits) -> None:
        self._held, self._limits, self._size_bytes = Held(stream, size_bytes), limits, size_bytes
        footer = self._read_footer(stream)
        groups = footer.get(4, [])
        self.num_rows = [int(group.get(3, 0)) for group in groups]
        """Number of rows of each row group."""
        self._leaves = [[column.get(3, {}) for column in group.get(1, ())] for group in groups]
        num_rows, most = int(footer.get(3, 0)), size_bytes * limits.rows_per_byte
        if min(self.num_rows, default=0) < 0 or sum(self.num_rows) != num_rows:
            raise pa.ArrowInvalid(f"{num_rows:,} rows in row groups of {self.num_rows[:8]}")
        if num_rows > most:
            raise TooMuchError(
                f"{num_rows:,} rows in {size_bytes:,} bytes, at most {most:,} (limit rows-per-byte)"
            )
        self.file = pq.ParquetFile(cast(BinaryIO, self._held))
        found = (self.file.num_row_groups, int(self.file.metadata.num_rows))
        if found != (len(groups), num_rows):
            raise pa.ArrowInvalid(f"a footer that is read in two ways: {found}")

    def __enter__(self) -> ParquetFront:
        """Nothing more is opened."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.file.close()

    def open_group(
        self, group: int, columns: Sequence[str]
    ) -> tuple[Room, Iterator[pa.RecordBatch]]:
        """Check some columns of a row group, and return their rows, divided into batches.

        Raises:
            TooMuchError: They exceed the limits.
        """
        self._held.forget()
        if not self.num_rows[group]:  # its footer need not say where its pages are
            return Room(), iter(())
        room = self._room(group, columns)
        return room, self._decoded([group], columns, room)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows of some columns in file order; small row groups are decoded together.

        Dictionaries have indices of 32 bits, so that those of several batches can be joined.

        Raises:
            TooMuchError: A row group exceeds the limits.
        """
        fields = [field for field in self.file.schema_arrow if field.name in columns]
        most_rows = 1 if any(_nests_dictionary(field.type) for field in fields) else BATCH_ROWS
        groups: list[int] = []
        room, num_rows = Room(), 0
        for group, in_group in enumerate(self.num_rows):
            if in_group:
                room.add(self._room(group, columns))
                groups.append(group)
                num_rows += in_group
            is_enough = num_rows >= most_rows or room.most_bytes > FREE_BYTES
            if groups and (is_enough or group == len(self.num_rows) - 1):
                yield from map(_joinable, self._decoded(groups, columns, room))
                self._held.forget()
                groups, room, num_rows = [], Room(), 0

    def _decoded(
        self, groups: Sequence[int], columns: Sequence[str], room: Room
    ) -> Iterator[pa.RecordBatch]:
        """The rows of some row groups whose pages need `room`, divided into batches."""
        rows = BATCH_ROWS
        if room.most_bytes > FREE_BYTES:
            rows = max(1, min(rows, FREE_BYTES // max(1, room.largest_bytes)))
        batches: Iterator[pa.RecordBatch] = self.file.iter_batches(
            rows, row_groups=list(groups), columns=list(columns), use_threads=False
        )
        return batches

    def reserve(self, groups: Sequence[int], column: str, most_bytes: int) -> bool:
        """Let a column of some row groups lie in one buffer, which are opened next.

        Returns:
            Whether it will; not if Arrow must decode it, or the buffer would be larger than
            `most_bytes` or the file.
        """
        self._held.reserve(0)
        leaves = [leaf for group in groups for leaf in self._leaves_of(group, [column])]
        lengths = [int(leaf.get(7, -1)) for leaf in leaves]
        is_stored = (
            all(_is_stored(leaf, column) for leaf in leaves)
            and max(self.num_rows[group] for group in groups) <= BATCH_ROWS
            and min(lengths, default=-1) >= 0
            and max(lengths) <= self._limits.column_bytes
        )
        if not is_stored or sum(lengths) > min(most_bytes, self._size_bytes):
            return False
        try:
            self._held.reserve(sum(lengths))
        except MemoryError:
            return False  # one after the other they may be read
        return True

    def stored_values(self, group: int, column: str) -> list[memoryview] | None:
        """All values of a column of bytes as views of the file's own, after `open_group`.

        None if they are stored in another form, which Arrow then reads.
        """
        leaves, schema = self._leaves[group], self.file.schema
        # Arrow finds a leaf by its place in the schema, whatever name the leaf has.
        places = [i for i in range(len(schema)) if schema.column(i).path == column]
        if len(leaves) != len(schema) or len(places) != 1:
            return None
        leaf, levels = leaves[places[0]], schema.column(places[0])
        if not _is_stored(leaf, column) or levels.max_repetition_level:
            return None
        num_rows = self.num_rows[group]
        if num_rows > BATCH_ROWS:  # Arrow reads these in batches
            return None
        chunk = self._held.kept(int(leaf.get(9, -1)))
        is_nullable = bool(levels.max_definition_level)
        return plain_values(chunk, page_headers(chunk), num_rows, is_nullable=is_nullable)

    def _room(self, group: int, columns: Sequence[str]) -> Room:
        room = Room()
        for leaf in self._leaves_of(group, columns):
            self._add(room, leaf, self.num_rows[group])
        expanded = max(FREE_BYTES, room.packed_bytes * self._limits.expansion)
        for name, most in (
            ("column-bytes", self._limits.column_bytes * max(1, len(columns))),
            ("expansion", expanded),
        ):
            if room.page_bytes > most:
                raise TooMuchError(
                    f"{room.page_bytes:,} bytes of values in {room.packed_bytes:,} bytes of a row "
                    f"group, at most {most:,} (limit {name})"
                )
        return room

    def unpacked_bytes(self, group: int, column: str) -> int:
        """Return the decompressed size of a column in a row group, as stated in the footer."""
        return sum(int(leaf.get(6, 0)) for leaf in self._leaves_of(group, [column]))

    def _leaves_of(self, group: int, columns: Sequence[str]) -> Iterator[dict[int, Any]]:
        for leaf in self._leaves[group]:
            path = b".".join(leaf.get(3, ())).decode("utf-8", "replace")
            if any(is_leaf_of(path, column) for column in columns):
                yield leaf

    def _read_footer(self, stream: BinaryIO) -> dict[int, Any]:
        """Read the footer, which must be complete."""
        stream.seek(max(0, self._size_bytes - _TAIL_BYTES))
        tail = stream.read(_TAIL_BYTES)
        if len(tail) < _TAIL_BYTES or tail[4:] != _MAGIC:
            return {}  # Arrow reports what is wrong with it
        (length,) = struct.unpack_from("<I", tail)
        most = min(self._limits.index_bytes, MAX_FOOTER_BYTES)
        if most < length <= self._size_bytes:
            raise TooMuchError(
                f"a footer of {length:,} bytes, at most {most:,} (limit index-bytes)"
            )
        start = self._size_bytes - _TAIL_BYTES - length
        if start < len(_MAGIC):
            return {}
        try:
            data = bytes(self._held.keep(start, length))
            return (
                _parse_footer(data) if length <= _CACHED_BYTES else _parse_footer.__wrapped__(data)
            )
        except (IndexError, ValueError) as error:
            raise pa.ArrowInvalid(f"its footer is damaged ({error})") from error

    def _add(self, room: Room, leaf: dict[int, Any], num_rows: int) -> None:
        start, length = int(leaf.get(9, -1)), int(leaf.get(7, -1))
        if 0 < int(leaf.get(11, 0)) < start:
            start = int(leaf[11])
        if start < 0 or length < 0 or start + length > self._size_bytes:
            raise pa.ArrowInvalid(f"a column that ends at byte {start + length:,}")
        stated = max(int(leaf.get(6, 0)), length)
        if stated > self._limits.column_bytes:
            raise TooMuchError(
                f"{stated:,} bytes of a column in a row group, at most "
                f"{self._limits.column_bytes:,} (limit column-bytes)"
            )
        is_number = leaf.get(1) not in (_BYTE_ARRAY, _FIXED_BYTE_ARRAY)
        pages, dictionary_bytes, num_values = self._held.keep(start, length), 0, 0
        room.packed_bytes += length
        for header in page_headers(pages):
            unpacked = header.unpacked_bytes
            # A few bytes can encode long runs of one number, which a page's size does not show.
            room.page_bytes += max(unpacked, header.num_values * _NUMBER_BYTES * is_number)
            room.largest_bytes = max(room.largest_bytes, unpacked)
            if header.kind == DICTIONARY_PAGE:
                dictionary_bytes = unpacked
                continue
            num_values += header.num_values
            if is_number:
                room.most_bytes += header.num_values * _NUMBER_BYTES
            elif header.encoding in _DICTIONARIES:
                room.most_bytes += header.num_values * dictionary_bytes
            elif header.encoding in _PLAIN:
                room.most_bytes += unpacked
            else:
                room.most_bytes += header.num_values * unpacked
            room.most_bytes += header.num_values * _LEVEL_BYTES
        # A list of numbers needs memory for its values, however few rows are read at once.
        most_values = self._limits.column_bytes // _NUMBER_BYTES
        if not is_number or num_values <= num_rows:
            most_values = self._size_bytes * self._limits.rows_per_byte
        if num_values > most_values:
            raise TooMuchError(
                f"{num_values:,} values in a column of {length:,} bytes, at most {most_values:,} "
                "(limits column-bytes and rows-per-byte)"
            )


def _is_stored(leaf: dict[int, Any], column: str) -> bool:
    """Whether a column itself holds bytes, neither compressed nor in a dictionary."""
    is_plain = (leaf.get(1), leaf.get(4)) == (_BYTE_ARRAY, _UNCOMPRESSED)
    return is_plain and leaf.get(3) == [column.encode()] and int(leaf.get(11, 0)) <= 0


def _joinable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose dictionaries have room for the values of others."""
    columns = [
        column.cast(pa.dictionary(pa.int32(), column.type.value_type, column.type.ordered))
        if pa.types.is_dictionary(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _nests_dictionary(kind: pa.DataType) -> bool:
    """Whether a type has a dictionary inside, which Arrow reads of one row group only."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return any(pa.types.is_dictionary(found) or _nests_dictionary(found) for found in inner)


@functools.lru_cache(maxsize=1)
def _parse_footer(data: bytes) -> dict[int, Any]:
    """Parse a footer; each shard of a file reads it again."""
    return Compact(memoryview(data)).struct(_FOOTER)
