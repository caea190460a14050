"""From a plan's references to compressed bytes: the read stage, without Ray.

A shard travels as one row (`WIRE`): its references as an Arrow IPC stream and, per image, either
the compressed bytes or the code and message of the error. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.config import LIMITS, Limits
from steel_batch.errors import (
    ChangedObjectError,
    DecodeError,
    ImageError,
    LakeError,
    MissingObjectError,
    NotAFileError,
    OutsideLakeError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.images.decode import check_jpeg
from steel_batch.images.jpeg import is_plain_jpeg
from steel_batch.lake import Lake
from steel_batch.sources.fetch import Content, read_refs
from steel_batch.sources.image_column import binary_views

WIRE = pa.schema(
    [
        pa.field("head", pa.binary()),
        pa.field("refs", pa.large_binary()),
        pa.field("data", pa.large_binary()),
    ]
)
"""`head` is JSON: all fields except `refs` and `contents`, and where each image's bytes begin and
end in `data`. Each column costs the scoring actor as much as several images."""
MOST_BETWEEN: Final = 1 / 8
"""Bytes between images that may be sent with them, as a share of theirs, to save a copy."""


_OF_AN_IMAGE: Final[Mapping[type[LakeError], str]] = {
    MissingObjectError: "missing",
    ChangedObjectError: "changed",
    NotAFileError: "not_a_file",
    OutsideLakeError: "unsafe_link",
}
"""Errors that fail one image, with its code; any other error of the lake fails the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInput:
    """One shard's images, read but not decoded."""

    run_id: str
    plan_digest: str
    shard: int
    refs: pa.Table
    """The plan's rows of the shard."""
    contents: Sequence[bytes | memoryview | None]
    """Per image, its compressed bytes; None if `errors` holds its error."""
    errors: Sequence[ImageError | None]
    plain: Sequence[bool] | None = None
    """Per image, whether it is a JPEG that a GPU may decode; None if that was not checked."""
    failure: str | None = None
    """Why the whole shard could not be read."""
    transient: bool = False
    """Whether a retry may help."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Counts of the requests that read it; see `Lake.counts`."""

    @classmethod
    def failed(
        cls, run_id: str, plan_digest: str, shard: int, error: SteelBatchError
    ) -> ShardInput:
        """A shard that could not be read."""
        return cls(
            run_id=run_id,
            plan_digest=plan_digest,
            shard=shard,
            refs=schema.PLAN.empty_table(),
            contents=[],
            errors=[],
            failure=error.message,
            transient=isinstance(error, TransientLakeError),
        )

    def to_wire(self) -> pa.Table:
        """Serialise the shard as one row of `WIRE`."""
        starts, stops, data = _in_one_buffer(self.contents)
        head = {
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "shard": self.shard,
            "errors": {i: [e.code, e.message] for i, e in enumerate(self.errors) if e is not None},
            "plain": None if self.plain is None else list(self.plain),
            "failure": self.failure,
            "transient": self.transient,
            "counts": dict(self.counts),
            "starts": starts,
            "stops": stops,
        }
        refs = pa.BufferOutputStream()
        with pa.ipc.new_stream(refs, self.refs.schema) as writer:
            writer.write_table(self.refs)
        columns = [
            pa.array([json.dumps(head).encode()], WIRE.field("head").type),
            pa.array([refs.getvalue().to_pybytes()], WIRE.field("refs").type),
            pa.LargeBinaryArray.from_buffers(
                WIRE.field("data").type,
                1,
                [None, pa.py_buffer(np.array([0, data.size], np.int64)), data],
            ),
        ]
        return pa.table(columns, schema=WIRE)

    @classmethod
    def from_wire(cls, table: pa.Table, row: int = 0) -> ShardInput:
        """Deserialise a row of `WIRE`; the images' bytes are not copied."""
        head = json.loads(table["head"][row].as_py())
        (data,) = binary_views(table["data"].slice(row, 1).chunk(0))
        starts, stops = head.pop("starts"), head.pop("stops")
        contents = [
            None if start < 0 or data is None else data[start:stop]
            for start, stop in zip(starts, stops, strict=True)
        ]
        errors: list[ImageError | None] = [None] * len(contents)
        for index, (code, message) in head.pop("errors").items():
            errors[int(index)] = DecodeError(message, code=code)
        refs = pa.ipc.open_stream(table["refs"][row].as_buffer()).read_all()
        return cls(refs=refs, contents=contents, errors=errors, **head)


Places: TypeAlias = list[int]
"""Per image, an offset in a buffer; -1 for an image that is not there."""


def _in_one_buffer(
    contents: Sequence[bytes | memoryview | None],
) -> tuple[Places, Places, pa.Buffer]:
    """Images' bytes in one buffer: the one that they are in, unless it has much between them."""
    there = [content for content in contents if content is not None]
    num_bytes = sum(map(len, there))
    views = [content for content in there if isinstance(content, memoryview)]
    owners = {id(view.obj): view.obj for view in views}
    if len(views) == len(there) and len(owners) == 1 and num_bytes:
        whole = pa.py_buffer(*owners.values())
        addresses = [None if view is None else pa.py_buffer(view).address for view in contents]
        first = min(address for address in addresses if address is not None)
        starts = [-1 if address is None else address - first for address in addresses]
        stops = [start + len(view or b"") for start, view in zip(starts, contents, strict=True)]
        if max(stops) <= num_bytes * (1 + MOST_BETWEEN):
            return starts, stops, whole.slice(first - whole.address, max(stops))
    return _copied(contents)


def _copied(contents: Sequence[bytes | memoryview | None]) -> tuple[Places, Places, pa.Buffer]:
    """Images' bytes one after the other; `pa.array`, whose memory grows, takes twice as long."""
    edges = list(itertools.accumulate((len(content or b"") for content in contents), initial=0))
    data = pa.allocate_buffer(edges[-1])
    target = memoryview(data).cast("B")
    starts = []
    for content, (start, stop) in zip(contents, itertools.pairwise(edges), strict=True):
        if content is not None:
            target[start:stop] = content
        starts.append(-1 if content is None else start)
    return starts, edges[1:], data


def check_jpegs(shard: ShardInput, height: int, width: int, limits: Limits = LIMITS) -> ShardInput:
    """Check JPEGs where they are read, which relieves the scoring actor's threads.

    Broken ones are refused, with the same errors as decoding would give, and plain ones
    (`jpeg.is_plain_jpeg`) are marked.

    Args:
        shard: The shard as read.
        height: Input height of the engine.
        width: Input width of the engine.
        limits: What one image may take.
    """

    def refusal(content: Any) -> ImageError | None:
        try:
            check_jpeg(content, limits)
        except ImageError as error:
            return error
        except MemoryError:
            return DecodeError("there is no memory to look at its markers.", code="too_large")
        return None

    pairs = zip(shard.contents, shard.errors, strict=True)
    errors = [error or refusal(content) for content, error in pairs]
    plain = [is_plain_jpeg(content or b"", height, width) for content in shard.contents]
    return dataclasses.replace(shard, errors=errors, plain=plain)


def read_shards(
    lake: Lake,
    run_id: str,
    plan_digest: str,
    refs: pa.Table,
    shards: Collection[int],
    limits: Limits = LIMITS,
) -> Iterator[ShardInput]:
    """Read some shards of one row group of a plan.

    Args:
        lake: Root of the images.
        run_id: The run that owns the plan.
        plan_digest: The plan's digest, which goes into the receipts.
        refs: The row group's rows (`schema.PLAN`).
        shards: Which shards to read.
        limits: What may be read of an image or a container.

    Yields:
        One shard after the other. An image that is missing or was replaced since planning gets an
        error of its own; if the store keeps failing, the shard as a whole fails.
    """
    for shard in sorted(shards):
        rows = refs.filter(pc.equal(refs["shard"], shard)).combine_chunks()
        yield _read_shard(lake, run_id, plan_digest, shard, rows, limits)


def _read_shard(
    lake: Lake, run_id: str, plan_digest: str, shard: int, refs: pa.Table, limits: Limits
) -> ShardInput:
    refs, results = read_refs(lake, refs, limits)
    failures = [r for r in results if isinstance(r, LakeError) and type(r) not in _OF_AN_IMAGE]
    if failures:
        return ShardInput.failed(run_id, plan_digest, shard, failures[0])
    contents = [None if isinstance(r, (LakeError, ImageError)) else r for r in results]
    return ShardInput(
        run_id=run_id,
        plan_digest=plan_digest,
        shard=shard,
        refs=refs,
        contents=contents,
        errors=[_image_error(r, etag) for r, etag in zip(results, refs["etag"], strict=True)],
    )


def _image_error(
    result: Content | LakeError | ImageError, etag: pa.StringScalar
) -> ImageError | None:
    if isinstance(result, ImageError):
        return result
    if not isinstance(result, LakeError):
        return None
    code = _OF_AN_IMAGE[type(result)]
    if code in ("not_a_file", "unsafe_link"):
        return DecodeError(str(result), code=code)
    seen = "It existed when the run was planned." if etag.as_py() else "The manifest lists it."
    return DecodeError(f"{result} {seen}", code=code)
