"""From a plan's references to compressed bytes: the read stage, without Ray.

A shard travels as one row (`WIRE`): its references as an Arrow IPC stream and one compressed image
each, or the code and message of what made an image unreadable. Nothing in it is pickled.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch.errors import (
    ChangedObjectError,
    DecodeError,
    ImageError,
    LakeError,
    MissingObjectError,
    TransientLakeError,
)
from steel_batch.lake import Lake, ReadRequest

WIRE = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("plan_digest", pa.string()),
        pa.field("shard", pa.int32()),
        pa.field("refs", pa.large_binary()),
        pa.field("contents", pa.large_list(pa.large_binary())),
        pa.field("errors", pa.list_(pa.string())),
        pa.field("failure", pa.string()),
        pa.field("transient", pa.bool_()),
    ]
)
"""`errors` holds "code: message" or null per image; `failure` says why a shard was not read."""


_OF_AN_IMAGE = (MissingObjectError, ChangedObjectError)
"""What costs one image; any other failure of the lake costs the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInput:
    """One shard's images, read but not decoded."""

    run_id: str
    plan_digest: str
    shard: int
    refs: pa.Table
    """The plan's rows of the shard."""
    contents: Sequence[pa.LargeBinaryScalar]
    """Per image, its compressed bytes; null where `errors` says why not."""
    errors: Sequence[ImageError | None]
    failure: str | None = None
    """Why the whole shard could not be read."""
    transient: bool = False
    """Whether reading it again may help."""

    def to_wire(self) -> pa.Table:
        """The shard as one row of `WIRE`."""
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self.refs.schema) as writer:
            writer.write_table(self.refs)
        errors = [None if e is None else f"{e.code}: {e.message}" for e in self.errors]
        return pa.table(
            [
                pa.array([self.run_id]),
                pa.array([self.plan_digest]),
                pa.array([self.shard], pa.int32()),
                pa.array([sink.getvalue()], pa.large_binary()),
                pa.LargeListArray.from_arrays([0, len(self.contents)], self.contents),
                pa.array([errors], pa.list_(pa.string())),
                pa.array([self.failure], pa.string()),
                pa.array([self.transient]),
            ],
            schema=WIRE,
        )

    @classmethod
    def from_wire(cls, table: pa.Table, row: int = 0) -> ShardInput:
        """Read back a row of `WIRE`; the images' bytes are not copied."""
        refs = pa.ipc.open_stream(table["refs"][row].as_buffer()).read_all()
        texts = table["errors"][row].as_py()
        errors = [None if t is None else _error_of(t) for t in texts]
        return cls(
            run_id=table["run_id"][row].as_py(),
            plan_digest=table["plan_digest"][row].as_py(),
            shard=table["shard"][row].as_py(),
            refs=refs,
            contents=table["contents"][row].values,
            errors=errors,
            failure=table["failure"][row].as_py(),
            transient=table["transient"][row].as_py(),
        )


def _error_of(text: str) -> ImageError:
    code, _, message = text.partition(": ")
    return DecodeError(message, code=code)


def read_shards(
    lake: Lake, run_id: str, plan_digest: str, refs: pa.Table, shards: Collection[int]
) -> Iterator[ShardInput]:
    """Read some shards of one row group of a plan.

    Args:
        lake: Where the images lie.
        run_id: The run whose plan it is.
        plan_digest: The plan's digest, which goes into the receipts.
        refs: The row group's rows (`schema.PLAN`).
        shards: Which shards to read.

    Yields:
        One shard after the other. An image that is gone or was replaced since planning is an
        error of that image; a store that keeps failing, a failure of the shard.
    """
    for shard in sorted(shards):
        rows = refs.filter(pc.equal(refs["shard"], shard)).combine_chunks()
        yield _read_shard(lake, run_id, plan_digest, shard, rows)


def _read_shard(
    lake: Lake, run_id: str, plan_digest: str, shard: int, refs: pa.Table
) -> ShardInput:
    results = _read_images(lake, refs)
    failures = [r for r in results if isinstance(r, LakeError) and not isinstance(r, _OF_AN_IMAGE)]
    if failures:
        failure = failures[0]
        return ShardInput(
            run_id=run_id,
            plan_digest=plan_digest,
            shard=shard,
            refs=refs.slice(0, 0),
            contents=pa.array([], pa.large_binary()),
            errors=[],
            failure=f"{type(failure).__name__}: {failure}",
            transient=isinstance(failure, TransientLakeError),
        )
    contents = [r if isinstance(r, bytes) else None for r in results]
    return ShardInput(
        run_id=run_id,
        plan_digest=plan_digest,
        shard=shard,
        refs=refs,
        contents=pa.array(contents, pa.large_binary()),
        errors=[_image_error(r) for r in results],
    )


def _read_images(lake: Lake, refs: pa.Table) -> list[bytes | LakeError]:
    keys, offsets = refs["object_key"].to_pylist(), refs["offset"].to_pylist()
    sizes, etags = refs["bytes"].to_pylist(), refs["etag"].to_pylist()
    requests: list[ReadRequest] = []
    where: list[int] = []
    results: list[bytes | LakeError] = [b""] * len(keys)
    rows_of: dict[str, list[int]] = {}
    for i, (key, offset, size, etag) in enumerate(zip(keys, offsets, sizes, etags, strict=True)):
        if offset is None:
            requests.append(ReadRequest(key=key, etag=etag))
            where.append(i)
        elif key.endswith(".parquet"):
            rows_of.setdefault(key, []).append(i)
        else:
            requests.append(ReadRequest(key=key, offset=offset, length=size, etag=etag))
            where.append(i)
    for i, result in zip(where, lake.read_many(requests), strict=True):
        results[i] = result
    for key, members in rows_of.items():
        read = _read_parquet(lake, key, [offsets[i] for i in members])
        for i, result in zip(members, read, strict=True):
            results[i] = result
    return results


def _read_parquet(lake: Lake, key: str, rows: Sequence[int]) -> list[bytes | LakeError]:
    """Some rows of a Parquet file's image column, reading each row group once."""
    try:
        with lake.open_input(key) as stream, pq.ParquetFile(stream) as file:
            column = image_column(file.schema_arrow, key)
            read: dict[int, bytes] = {}
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = [row for row in rows if start <= row < stop]
                if wanted:
                    table = file.read_row_group(group, columns=[column])
                    taken = table[0].take([row - start for row in wanted])
                    read.update(zip(wanted, taken.to_pylist(), strict=True))
                start = stop
        return [read[row] for row in rows]
    except (pa.ArrowInvalid, KeyError) as error:
        changed = ChangedObjectError(f"{key} is not the Parquet file that was planned: {error}.")
        return [changed] * len(rows)
    except LakeError as error:
        return [error] * len(rows)


def image_column(fields: pa.Schema, key: str) -> str:
    """The column of a Parquet shard that holds compressed images.

    Raises:
        DecodeError: There is no binary column, or several without one named `image`.
    """
    binary = [
        f.name for f in fields if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
    ]
    if "image" in binary:
        return "image"
    if len(binary) != 1:
        raise DecodeError(
            f"{key} has {len(binary)} binary columns and none named 'image'; expected one with "
            "each image's compressed bytes.",
            code="no_image_column",
        )
    return str(binary[0])


def _image_error(result: bytes | LakeError) -> ImageError | None:
    if isinstance(result, bytes):
        return None
    code = "missing" if isinstance(result, MissingObjectError) else "changed"
    return DecodeError(f"{result} It was there when the run was planned.", code=code)
