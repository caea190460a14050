"""The index beside a tar: what it holds and where, so that planning reads no headers.

``<shard>.idx`` is JSON lines: first what the shard is (`ShardHead`), then of each image ``[name,
offset, bytes, sha256]``. It is believed only for a tar of the stated size whose last bytes are the
stated ones: one that was replaced is read by its headers. `pack` writes it beside a Parquet file as
well, as the proof that this one is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake

INDEX_SUFFIX: Final = ".idx"
TAIL_BYTES: Final = 16 << 10
FORMAT: Final = "steel-batch-index"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHead:
    """What a shard is: the first line of its index."""

    format: str = FORMAT
    version: int = 1
    bytes: int
    """The shard's size."""
    tail_sha256: str
    """Of its last `TAIL_BYTES`."""
    inputs_sha256: str
    """Of the keys, sizes and etags that it was packed from, in order."""
    num_images: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a shard."""

    name: str
    offset: int
    """Its first byte in a tar; its row in a Parquet file."""
    bytes: int
    sha256: str
    """Of the image's bytes."""


def index_bytes(head: ShardHead, entries: list[Entry]) -> bytes:
    """An index as it is written: the same bytes for the same content."""
    lines = [json.dumps(dataclasses.asdict(head), sort_keys=True)]
    lines += [
        json.dumps([e.name, e.offset, e.bytes, e.sha256], ensure_ascii=False) for e in entries
    ]
    return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Index:
    """An index that was read.

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
            ConfigError: It is of no index that is known here.
        """
        try:
            head = ShardHead(**json.loads(self.data.partition(b"\n")[0]))
        except (ValueError, TypeError) as error:
            raise self._damaged(str(error)) from error
        if head.format != FORMAT or head.version != 1:
            raise self._damaged(f"format {head.format!r}, version {head.version!r}")
        return head

    def entries(self) -> Iterator[Entry]:
        """Every image, in the shard's order.

        Raises:
            ConfigError: A line is damaged, or there are more or fewer than the head says.
        """
        head = self.head
        lines = self.data.decode(errors="replace").splitlines()[1:]
        if len(lines) != head.num_images or not self.data.endswith(b"\n"):
            raise self._damaged(f"{len(lines)} entries, expected {head.num_images}")
        for number, line in enumerate(lines, 2):
            try:
                entry = Entry(*json.loads(line))
                fits = entry.offset >= 0 and entry.bytes >= 0 and isinstance(entry.name, str)
            except (ValueError, TypeError) as error:
                raise self._damaged(f"line {number}: {error}") from error
            if not fits:
                raise self._damaged(f"line {number}: {line}")
            yield entry

    def _damaged(self, what: str) -> ConfigError:
        return InputError(
            f"the index {self.key} is damaged ({what}). Delete it to have the shard's own headers "
            "read, or pack the shard anew."
        )


def tail_sha256(lake: Lake, key: str, size_bytes: int, etag: str | None) -> str:
    """The digest of an object's last bytes, which tells it from another of its size."""
    length = min(size_bytes, TAIL_BYTES)
    data = lake.read(key, offset=size_bytes - length, length=length, etag=etag)
    return hashlib.sha256(data).hexdigest()
