"""The index file of a tar: what the tar holds and where, so that planning reads no headers.

``<shard>.idx`` is JSON lines: first a description of the shard (`ShardHead`), then for each image
``[name, offset, bytes, sha256]``. It is used only if the tar has the stated size and its last bytes
match the stated digest; a tar that was replaced is read by its headers. `pack` also writes an index
for each Parquet file, as proof that the file is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json, record_of
from steel_batch.lake.format_version import FileFormat

INDEX_SUFFIX: Final = ".idx"
TAIL_BYTES: Final = 16 << 10
NAME: Final = "steel-batch-index"
MAX_HEAD_BYTES: Final = 4096
FORMAT: Final = FileFormat("the index of a shard")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHead:
    """Description of a shard: the first line of its index."""

    bytes: int
    """The shard's size."""
    tail_sha256: str
    """Digest of its last `TAIL_BYTES`."""
    inputs_sha256: str
    """Digest of the keys, sizes and etags of the images it was packed from, in order."""
    num_images: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a shard."""

    name: str
    offset: int
    """Its first byte in a tar; its row in a Parquet file."""
    bytes: int
    sha256: str
    """Digest of the image's bytes."""


def index_bytes(head: ShardHead, entries: list[Entry]) -> bytes:
    """Serialise an index; the same content always gives the same bytes."""
    fields = {"format": NAME, "version": FORMAT.newest, **dataclasses.asdict(head)}
    lines = [json.dumps(fields, sort_keys=True)]
    lines += [
        json.dumps([e.name, e.offset, e.bytes, e.sha256], ensure_ascii=False) for e in entries
    ]
    return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Index:
    """An index read from the store.

    Args:
        data: The object's bytes.
        key: Its key, for messages.
    """

    data: bytes
    key: str

    @property
    def head(self) -> ShardHead:
        """The first line.

        Raises:
            FormatError: It has a newer format.
            ConfigError: It is not an index, or damaged.
        """
        try:
            fields = parse_json(self.data[: self._end_of_head])
            if not isinstance(fields, dict):
                raise ValueError(f"its first line is {str(fields)[:40]!r}")
            if fields.pop("format", None) != NAME:
                raise ValueError(f"its first line does not state the format {NAME!r}")
            FORMAT.check(fields.pop("version", None), source=f"the index {self.key}")
            return record_of(ShardHead, fields)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def entries(self) -> Iterator[Entry]:
        """Yield every image, in the shard's order.

        Raises:
            ConfigError: A line is damaged, or the number of lines differs from the head.
        """
        head = self.head
        lines = io.BytesIO(self.data)
        lines.readline()
        num_lines = self.data.count(b"\n") - 1
        if num_lines != head.num_images or not self.data.endswith(b"\n"):
            raise self._damaged(f"{num_lines} entries, expected {head.num_images}")
        num_bytes = 0
        for number, line in enumerate(lines, 2):
            try:
                raw = parse_json(line)
                if not isinstance(raw, list) or list(map(type, raw)) != [str, int, int, str]:
                    raise ValueError(f"{line[:80]!r} is no entry")
                entry = Entry(*raw)
                if not entry.name.encode():
                    raise ValueError(f"{line[:80]!r} has no name")
                num_bytes += entry.bytes
                # A Parquet file's rows may be larger than the file.
                is_inside = entry.offset + entry.bytes <= head.bytes and num_bytes <= head.bytes
                if min(entry.offset, entry.bytes) < 0 or not (is_inside or not self.is_of_tar):
                    raise ValueError(f"{line[:80]!r} lies outside of the tar")
            except ValueError as error:
                raise self._damaged(f"line {number}: {error}") from error
            yield entry

    @property
    def is_of_tar(self) -> bool:
        """Whether it lies beside a tar."""
        return self.key.endswith(f".tar{INDEX_SUFFIX}")

    @property
    def _end_of_head(self) -> int:
        end = self.data.find(b"\n", 0, MAX_HEAD_BYTES)
        return end if end >= 0 else MAX_HEAD_BYTES

    def _damaged(self, what: str) -> ConfigError:
        return InputError(
            f"the index {self.key} is damaged ({what}). Delete it to have the shard's own headers "
            "read, or pack the shard again."
        )


def tail_sha256(lake: Lake, key: str, size_bytes: int, etag: str | None) -> str:
    """Digest of an object's last bytes, which distinguishes it from others of the same size."""
    length = min(size_bytes, TAIL_BYTES)
    data = lake.read(key, offset=size_bytes - length, length=length, etag=etag)
    return hashlib.sha256(data).hexdigest()
