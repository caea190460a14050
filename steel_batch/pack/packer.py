"""One shard, written whole with its index behind it, or found to be there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from steel_batch.config import Limits
from steel_batch.errors import (
    ConfigError,
    ImageError,
    InputError,
    LakeError,
    LargeObjectError,
    MissingObjectError,
)
from steel_batch.lake import Lake, LakeObject
from steel_batch.pack.shards import IMAGE_FIELDS, Format, Shard
from steel_batch.pack.writers import CountedStream, ParquetWriter, ShardWriter, TarWriter
from steel_batch.sources.fetch import read_images
from steel_batch.sources.image_ref import ref_of
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.tar_index import (
    INDEX_SUFFIX,
    Entry,
    Index,
    ShardHead,
    index_bytes,
    tail_sha256,
)

READ_BYTES: Final = 16 << 20
"""Bytes of images that each thread holds in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedShard:
    """One complete shard, with its index."""

    key: str
    num_images: int
    size_bytes: int
    is_new: bool
    """Whether it was written now; otherwise it was kept."""


class Packer:
    """Writes one shard after the other; used by several threads.

    Args:
        lake: Where the images are.
        out: Where the shards are to be.
        form: What the shards are to be.
        key_pattern: How the images' keys read.
        limits: What is read of an image or an index.
    """

    def __init__(
        self, lake: Lake, out: Lake, form: Format, key_pattern: str | None, limits: Limits
    ) -> None:
        self._limits = limits
        self._lake, self._out, self._format = lake, out, form
        self._members = KeyPattern(key_pattern) if form == "tar" else None

    def pack(self, shard: Shard) -> Iterator[PackedShard]:
        """Write a shard and its index, or find that they exist.

        Raises:
            ConfigError: A tar would lose what its members' names do not say.
            InputError: An image cannot be read as what it is listed as.
            LakeError: An image changed meanwhile, or a store failed.
        """
        rows = shard.refs.to_pylist()
        self._check_names(rows)
        inputs = _inputs_sha256(rows)
        found = self._find(shard.key, inputs)
        if found is not None:
            yield PackedShard(
                key=shard.key, num_images=found.num_images, size_bytes=found.bytes, is_new=False
            )
            return
        # An index must never be next to a shard that it does not describe.
        self._out.delete([shard.key + INDEX_SUFFIX])
        entries: list[Entry] = []
        with self._out.open_output(shard.key) as stream:
            counted = CountedStream(stream)
            writer = self._writer(cast(BinaryIO, counted), rows)
            try:
                for row, data in self._contents(shard.refs, rows):
                    offset = writer.add(row, data)
                    digest = hashlib.sha256(data).hexdigest()
                    entries.append(Entry(row["image_key"], offset, len(data), digest))
                writer.close()
            except BaseException:
                counted.abandon()
                writer.abandon()
                raise
        written = self._out.stat(shard.key)
        if written is None or written.size_bytes != counted.num_bytes:
            raise LakeError(
                f"{self._out.uri(shard.key)} has {written.size_bytes if written else 'no'} bytes "
                f"after {counted.num_bytes} were written: check whether another program writes to "
                "--out, then run again."
            )
        head = ShardHead(
            bytes=counted.num_bytes,
            tail_sha256=counted.tail_sha256(),
            inputs_sha256=inputs,
            num_images=len(entries),
        )
        self._out.write(shard.key + INDEX_SUFFIX, index_bytes(head, entries))
        yield PackedShard(
            key=shard.key, num_images=len(entries), size_bytes=counted.num_bytes, is_new=True
        )

    def _find(self, key: str, inputs: str) -> ShardHead | None:
        """The index, if it and the shard exist and belong to these images."""
        index = key + INDEX_SUFFIX
        try:
            data = self._out.read(index, max_bytes=self._limits.index_bytes)
            head = Index(data, index).head
        except (MissingObjectError, LargeObjectError, ConfigError):
            return None
        found = self._out.stat(key)
        if head.inputs_sha256 != inputs or found is None or found.size_bytes != head.bytes:
            return None
        tail = tail_sha256(self._out, key, found.size_bytes, found.etag)
        return head if tail == head.tail_sha256 else None

    def _writer(self, stream: BinaryIO, rows: list[dict[str, Any]]) -> ShardWriter:
        if self._format == "tar":
            return TarWriter(stream)
        absent = {n for n in ("line", "date") if all(row[n] is None for row in rows)}
        return ParquetWriter(stream, left_out=frozenset(absent))

    def _contents(
        self, refs: pa.Table, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield each image's bytes, some images at a time."""
        start = num_bytes = 0
        for stop, row in enumerate(rows, 1):
            num_bytes += row["bytes"]
            if num_bytes < READ_BYTES and stop < len(rows):
                continue
            read = read_images(self._lake, refs.slice(start, stop - start), self._limits)
            for member, data in zip(rows[start:stop], read, strict=True):
                yield member, self._checked(member, data)
            start, num_bytes = stop, 0

    def _checked(self, row: dict[str, Any], data: bytes | LakeError | ImageError) -> bytes:
        if isinstance(data, LakeError):
            raise data
        if isinstance(data, ImageError):
            raise InputError(
                f"{row['image_key']} cannot be packed: {data.message} Give a --key-pattern that "
                "excludes it, or remove it."
            )
        # The size of a Parquet row is only known if its file states it.
        is_row = row["offset"] is not None and row["object_key"].endswith(".parquet")
        if not is_row and len(data) != row["bytes"]:
            raise LakeError(
                f"{self._lake.uri(row['object_key'])}: read {len(data)} bytes of "
                f"{row['image_key']}, but {row['bytes']} were listed. Run again; in a manifest, "
                "correct its size."
            )
        return data

    def _check_names(self, rows: list[dict[str, Any]]) -> None:
        """Refuse what a tar would lose, as it keeps only names."""
        if self._members is None:
            return
        for row in rows:
            fields = self._members.match(row["image_key"])
            said = None
            if fields is not None:
                said = ref_of(fields, LakeObject(key=row["image_key"], size_bytes=0, etag=""))
            if said is None or (said.image_id, said.tags) != (row["image_id"], dict(row["tags"])):
                raise ConfigError(
                    f"{row['image_key']} has an image_id or tags that are not in its name, and "
                    "members of a tar keep only their names: use --format parquet."
                )


def _inputs_sha256(rows: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        values = (row[f.name] for f in IMAGE_FIELDS)
        digest.update(("\t".join(map(str, values)) + "\n").encode())
    return digest.hexdigest()
