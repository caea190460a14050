"""Writes a shard as tar or Parquet; the same images give the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from typing import Any, BinaryIO, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.sources.tar_index import TAIL_BYTES

ROW_GROUP_BYTES: Final = 8 << 20
"""Size of a row group's images; a reader of one image reads a whole row group."""
END_BYTES: Final = 2 * tarfile.BLOCKSIZE
"""The end mark of a tar."""

COLUMNS: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("line", pa.string()),
        pa.field("date", pa.string()),
        pa.field("tags", schema.TAGS, nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)
"""Columns of a Parquet shard; `key` is the image's key before it was packed. A column without a
value for any image of the shard is left out."""


class ShardWriter(Protocol):
    """Writes one shard's images in order."""

    def add(self, row: dict[str, Any], data: bytes) -> int:
        """Write an image; return its first byte or its row."""

    def close(self) -> None:
        """Write what comes after the last image; the stream stays open."""

    def abandon(self) -> None:
        """Free the writer's memory if the shard is given up; the stream accepts no more bytes."""


class TarWriter:
    """A USTAR archive, with PAX headers for names that USTAR cannot hold."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def add(self, row: dict[str, Any], data: bytes) -> int:
        """See `ShardWriter`."""
        header = tar_header(row["image_key"], len(data))
        start = self._position + len(header)
        self._stream.write(header)
        self._stream.write(data)
        self._stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        self._position += tar_bytes(row["image_key"], len(data))
        return start

    def close(self) -> None:
        """See `ShardWriter`."""
        self._stream.write(bytes(END_BYTES))

    def abandon(self) -> None:
        """See `ShardWriter`."""


def tar_header(name: str, size: int) -> bytes:
    """Header of a regular file, without an owner or a time of change."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def tar_bytes(name: str, size: int) -> int:
    """Size of a file in a tar, with its header and padding."""
    return len(tar_header(name, size)) + size + -size % tarfile.BLOCKSIZE


class ParquetWriter:
    """A Parquet file whose row groups can each be read as one range; images are not compressed."""

    def __init__(self, stream: BinaryIO, *, left_out: frozenset[str] = frozenset()) -> None:
        self._schema = pa.schema([f for f in COLUMNS if f.name not in left_out])
        self._writer = pq.ParquetWriter(
            stream,
            self._schema,
            compression={f.name: "none" if f.name == "image" else "zstd" for f in self._schema},
            use_dictionary=["line", "date"],
            write_statistics=["key", "image_id", "line", "date"],
        )
        self._rows: list[dict[str, Any]] = []
        self._row = self._num_bytes = 0

    def add(self, row: dict[str, Any], data: bytes) -> int:
        """See `ShardWriter`."""
        if self._rows and self._num_bytes + len(data) > ROW_GROUP_BYTES:
            self._flush()
        self._rows.append({**row, "key": row["image_key"], "bytes": len(data), "image": data})
        self._num_bytes += len(data)
        self._row += 1
        return self._row - 1

    def close(self) -> None:
        """See `ShardWriter`."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """See `ShardWriter`; pyarrow's writer would write its footer when it is collected."""
        with contextlib.suppress(pa.ArrowException, OSError, ValueError):
            self._writer.close()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._num_bytes = [], 0


class CountedStream(io.RawIOBase):
    """Passes bytes through, and keeps their number and the digest of the last ones."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""
        self._is_abandoned = False
        self.num_bytes = 0

    def abandon(self) -> None:
        """Pass nothing through any more."""
        self._is_abandoned = True

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Number of bytes written."""
        return self.num_bytes

    def write(self, data: Any) -> int:
        """Write all of it."""
        chunk = bytes(data)
        if self._is_abandoned:
            return len(chunk)
        self._stream.write(chunk)
        self._tail = (self._tail + chunk[-TAIL_BYTES:])[-TAIL_BYTES:]
        self.num_bytes += len(chunk)
        return len(chunk)

    def tail_sha256(self) -> str:
        """The digest that `tar_index.tail_sha256` will compute."""
        return hashlib.sha256(self._tail).hexdigest()
