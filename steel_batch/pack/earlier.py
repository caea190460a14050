"""Shards of an earlier packing: none is written again that holds an image which is now gone.

A shard's name says nothing about its images, so packing again writes other images to the same
names. That loses nothing while every image of the earlier shards is packed again. An image that is
no longer listed may exist only in its shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from steel_batch.config import Limits
from steel_batch.database import reading
from steel_batch.errors import (
    ConfigError,
    InputError,
    LargeObjectError,
    MissingObjectError,
)
from steel_batch.lake import Lake, LakeObject
from steel_batch.pack.shards import Format, folder_of
from steel_batch.sources.image_ref import repeated
from steel_batch.sources.parallel import expand_parallel
from steel_batch.sources.parquet_front import ParquetFront, TooMuchError
from steel_batch.sources.tar_index import INDEX_SUFFIX, Index, tail_sha256
from steel_batch.sources.tar_walk import tar_members

_HELD: Final = pa.schema([pa.field("shard", pa.string()), pa.field("image_key", pa.string())])
"""An image that an existing shard holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierShards:
    """Finds the shards in the folders that are packed into.

    Args:
        out: Where the shards are.
        form: What the shards are.
        limits: What is read of an index or a shard.
        num_threads: How many are read at once.
    """

    out: Lake
    form: Format
    limits: Limits
    num_threads: int

    def check(self, con: duckdb.DuckDBPyConnection) -> set[str]:
        """Compare the images in existing shards with those that are to be packed.

        Reads indexes, or what a shard without one says of its images, but no image. Memory grows
        with the number of shards, not of images.

        Args:
            con: A database whose table ``images`` has `shards.IMAGE_FIELDS`.

        Returns:
            The keys of the existing shards.

        Raises:
            ConfigError: A shard holds images that are not to be packed, or cannot be read.
        """
        found: dict[str, LakeObject] = {}
        places = con.sql(
            "SELECT line, date, any_value(image_key) AS image_key FROM images GROUP BY line, date"
        )
        for row in places.to_arrow_table().to_pylist():
            folder = folder_of(row)
            for item in self.out.list_objects(f"{folder}shard-"):
                name = item.key.removeprefix(folder)
                if name.endswith(f".{self.form}") and "/" not in name:
                    found[item.key] = item
        if found:
            self._refuse_gone(con, list(found.values()))
        return set(found)

    def _refuse_gone(self, con: duckdb.DuckDBPyConnection, shards: list[LakeObject]) -> None:
        held = expand_parallel(iter(shards), self._held, num_threads=self.num_threads, chunk=1)
        with reading(con, "held", _HELD, held):
            counted = con.execute(
                "SELECT count(DISTINCT image_key), min(image_key), arg_min(shard, image_key) "
                "FROM held ANTI JOIN images USING (image_key)"
            )
            [(num_images, example, shard)] = counted.fetchall()
        if num_images:
            raise ConfigError(
                f"{num_images:,} images in existing shards of {self.out.url} are not among those "
                f"to pack, for example {example!r} in {shard}. Packing writes these shards again "
                "and would lose such images, so nothing was written. Pack images that came later "
                "into another --out folder; `score` reads several with '*/' at the beginning of "
                "--key-pattern. Or keep all packed images under --images and select them with "
                "--key-pattern and --date. If nobody needs those images, delete the shards that "
                "hold them, and their indexes."
            )

    def _held(self, shard: LakeObject) -> Iterator[pa.RecordBatch]:
        """Yield the images of one shard as a `_HELD` batch."""
        names = self._names(shard)
        columns = [repeated(shard.key, len(names)), pa.array(names, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, schema=_HELD)

    def _names(self, shard: LakeObject) -> list[str]:
        """The keys that a shard's images had before they were packed.

        A damaged shard holds what its index says.
        """
        index, names = self._indexed(shard.key)
        if index is not None and index.head.bytes == shard.size_bytes:
            tail = tail_sha256(self.out, shard.key, shard.size_bytes, shard.etag)
            if tail == index.head.tail_sha256:
                return names
        read = self._in_tar if self.form == "tar" else self._in_parquet
        try:
            return read(shard)
        except (InputError, TooMuchError, pa.ArrowException, OSError, ValueError) as error:
            if index is not None:
                return names
            raise ConfigError(
                f"{self.out.uri(shard.key)} has no index and cannot be read, so its images are not "
                f"known ({error}). Packing may overwrite it, so nothing was written: move it out "
                "of --out, or delete it."
            ) from error

    def _indexed(self, key: str) -> tuple[Index | None, list[str]]:
        """A shard's index and the names in it; None if it has none that can be read."""
        try:
            data = self.out.read(key + INDEX_SUFFIX, max_bytes=self.limits.index_bytes)
            index = Index(data, key + INDEX_SUFFIX)
            return index, [entry.name for entry in index.entries()]
        except (MissingObjectError, LargeObjectError, ConfigError):
            return None, []

    def _in_tar(self, shard: LakeObject) -> list[str]:
        members = tar_members(self.out, shard.key, shard.size_bytes, shard.etag, self.limits)
        names = (member.name.encode("utf-8", "surrogateescape") for member in members)
        return [name.decode("utf-8", "backslashreplace") for name in names]

    def _in_parquet(self, shard: LakeObject) -> list[str]:
        names: list[str] = []
        with (
            self.out.open_input(shard.key) as stream,
            ParquetFront(stream, shard.size_bytes, self.limits) as front,
        ):
            if "key" not in front.file.schema_arrow.names:
                raise InputError("it has no column 'key'")
            for group in range(len(front.num_rows)):
                _, batches = front.open_group(group, ["key"])
                for batch in batches:
                    names += map(str, batch["key"].to_pylist())
        return names


def refuse_left_over(out: Lake, others: set[str]) -> None:
    """Refuse shards that are left from an earlier packing.

    Args:
        out: Where they are.
        others: Their keys; all of their images are in other shards, too.

    Raises:
        InputError: There are some.
    """
    if others:
        raise InputError(
            f"{len(others):,} shards in {out.url} are from an earlier packing, for example "
            f"{min(others)}. Their images would count twice, as all of them were now packed into "
            "other shards. In each folder, delete the shards with greater numbers than this "
            "packing has written, and their indexes; or pack into an empty --out folder."
        )
