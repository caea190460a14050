"""From a plan's references to compressed bytes: the read stage, without Ray.

A shard travels as one row (`WIRE`): its references as an Arrow IPC stream and one compressed image
each, or the code and message of what made an image unreadable. Nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.decode import check_jpeg
from steel_batch.errors import (
    ChangedObjectError,
    DecodeError,
    ImageError,
    LakeError,
    MissingObjectError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.jpeg import is_plain_jpeg
from steel_batch.lake import Lake, ReadRequest
from steel_batch.manifest import UNSAFE_NAME

SPAN_BYTES: Final = 8 << 20
"""Most bytes of one request for several members of a tar."""
SPAN_GAP_BYTES: Final = 64 << 10
"""Bytes between two members that are rather read than asked around."""

WIRE = pa.schema(
    [
        pa.field("head", pa.binary()),
        pa.field("refs", pa.large_binary()),
        pa.field("contents", pa.large_list(pa.large_binary())),
    ]
)
"""`head` is JSON: all but what `refs` and `contents` hold. Each column costs the scoring actor as
much as some images."""


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
    contents: Sequence[bytes | memoryview | None]
    """Per image, its compressed bytes; None where `errors` says why not."""
    errors: Sequence[ImageError | None]
    plain: Sequence[bool] | None = None
    """Per image, whether it is a JPEG that a GPU may decode; None: they were not checked."""
    failure: str | None = None
    """Why the whole shard could not be read."""
    transient: bool = False
    """Whether reading it again may help."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the requests met with that it took to read it; see `Lake.counts`."""

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
        """The shard as one row of `WIRE`."""
        head = {
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "shard": self.shard,
            "errors": {i: [e.code, e.message] for i, e in enumerate(self.errors) if e is not None},
            "plain": None if self.plain is None else list(self.plain),
            "failure": self.failure,
            "transient": self.transient,
            "counts": dict(self.counts),
        }
        refs = pa.BufferOutputStream()
        with pa.ipc.new_stream(refs, self.refs.schema) as writer:
            writer.write_table(self.refs)
        contents = [None if c is None else bytes(c) for c in self.contents]  # bytes: no copy
        columns = [[json.dumps(head).encode()], [refs.getvalue().to_pybytes()], [contents]]
        return pa.table(
            [pa.array(c, field.type) for c, field in zip(columns, WIRE, strict=True)], schema=WIRE
        )

    @classmethod
    def from_wire(cls, table: pa.Table, row: int = 0) -> ShardInput:
        """Read back a row of `WIRE`; the images' bytes are not copied."""
        head = json.loads(table["head"][row].as_py())
        contents = _views(table["contents"][row].values)
        errors: list[ImageError | None] = [None] * len(contents)
        for index, (code, message) in head.pop("errors").items():
            errors[int(index)] = DecodeError(message, code=code)
        refs = pa.ipc.open_stream(table["refs"][row].as_buffer()).read_all()
        return cls(refs=refs, contents=contents, errors=errors, **head)


def check_jpegs(shard: ShardInput, height: int, width: int) -> ShardInput:
    """Look at JPEGs where they are read, which leaves the scoring actor's threads less to do.

    Broken ones are refused, with the errors that decoding would give, and plain ones
    (`jpeg.is_plain_jpeg`) told from others.

    Args:
        shard: As it was read.
        height: Of the engine's images.
        width: Of the engine's images.
    """

    def refusal(content: Any) -> ImageError | None:
        try:
            check_jpeg(content)
        except ImageError as error:
            return error
        return None

    pairs = zip(shard.contents, shard.errors, strict=True)
    errors = [error or refusal(content) for content, error in pairs]
    plain = [is_plain_jpeg(content or b"", height, width) for content in shard.contents]
    return dataclasses.replace(shard, errors=errors, plain=plain)


def _views(array: pa.Array) -> list[memoryview | None]:
    """The values of a binary column where they lie; a scalar of Arrow is a copy of its value."""
    large = array.cast(pa.large_binary())
    _, offsets, data = large.buffers()
    edges = np.frombuffer(offsets or b"", np.int64)[large.offset :][: len(large) + 1].tolist()
    content = memoryview(data or b"").cast("B")
    return [
        content[start:stop] if is_there else None
        for (start, stop), is_there in zip(
            itertools.pairwise(edges), large.is_valid().to_pylist(), strict=True
        )
    ]


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
    results = read_images(lake, refs)
    failures = [r for r in results if isinstance(r, LakeError) and not isinstance(r, _OF_AN_IMAGE)]
    if failures:
        return ShardInput.failed(run_id, plan_digest, shard, failures[0])
    contents = [r if isinstance(r, bytes) else None for r in results]
    return ShardInput(
        run_id=run_id,
        plan_digest=plan_digest,
        shard=shard,
        refs=_with_sizes(refs, results),
        contents=contents,
        errors=[_image_error(r, etag) for r, etag in zip(results, refs["etag"], strict=True)],
    )


def read_images(lake: Lake, refs: pa.Table) -> list[bytes | LakeError | ImageError]:
    """The compressed bytes of some references (`schema.PLAN`, with or without shards), in order.

    Members of a tar that lie close together cost one request; a row group of a Parquet file is read
    once. What cannot be read is an error in its place.
    """
    keys, offsets = refs["object_key"].to_pylist(), refs["offset"].to_pylist()
    sizes, etags = refs["bytes"].to_pylist(), refs["etag"].to_pylist()
    results: list[bytes | LakeError | ImageError] = [b""] * len(keys)
    rows_of: dict[tuple[str, str], list[int]] = {}
    spans: list[_Span] = []
    members: list[int] = []
    for i, (key, offset) in enumerate(zip(keys, offsets, strict=True)):
        if offset is None:
            spans.append(_Span(ReadRequest(key=key, etag=etags[i] or None), [(i, 0, None)]))
        elif offset < 0:
            results[i] = _unreadable(offset)
        elif key.endswith(".parquet"):
            rows_of.setdefault((key, etags[i]), []).append(i)
        else:
            members.append(i)
    members.sort(key=lambda i: (keys[i], offsets[i]))
    spans += _spans([(i, keys[i], offsets[i], sizes[i], etags[i]) for i in members])
    for span, result in zip(spans, lake.read_many([s.request for s in spans]), strict=True):
        for i, start, stop in span.parts:
            if isinstance(result, LakeError) or stop is None:
                results[i] = result
            else:
                results[i] = result[start:stop]
    for (key, etag), where in rows_of.items():
        read = _read_parquet(lake, key, etag, [offsets[i] for i in where])
        for i, image in zip(where, read, strict=True):
            results[i] = image
    return results


@dataclass(frozen=True, slots=True)
class _Span:
    """One request, and which images its bytes hold."""

    request: ReadRequest
    parts: Sequence[tuple[int, int, int | None]]
    """Image, and where in the answer it begins and ends; None for a whole object."""


def _spans(members: Sequence[tuple[int, str, int, int, str]]) -> Iterator[_Span]:
    """Requests for members (image, key, offset, size, etag) in order, each for close ones."""
    start = 0
    for n in range(1, len(members) + 1):
        _, key, first, _, etag = members[start]
        if n < len(members):
            _, next_key, offset, size, _ = members[n]
            end = members[n - 1][2] + members[n - 1][3]
            is_close = next_key == key and offset - end <= SPAN_GAP_BYTES
            if is_close and offset + size - first <= SPAN_BYTES:
                continue
        length = max(offset + size for _, _, offset, size, _ in members[start:n]) - first
        request = ReadRequest(key=key, offset=first, length=length, etag=etag)
        yield _Span(request, [(i, o - first, o - first + s) for i, _, o, s, _ in members[start:n]])
        start = n


def _unreadable(offset: int) -> ImageError:
    if offset == UNSAFE_NAME:
        return DecodeError(
            "The member's name is absolute or leads upwards ('..'); expected a plain relative one.",
            code="unsafe_name",
        )
    return DecodeError(
        "The member of the tar is a folder, a link or a special file; expected a regular file.",
        code="not_a_file",
    )


def _read_parquet(
    lake: Lake, key: str, etag: str, rows: Sequence[int]
) -> list[bytes | LakeError | ImageError]:
    """Some rows of a Parquet file's image column, reading each row group once."""
    try:
        with lake.open_input(key) as stream, pq.ParquetFile(stream) as file:
            column = image_column(file.schema_arrow, key)
            read: dict[int, bytes | None] = {}
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = [row for row in rows if start <= row < stop]
                if wanted:
                    chunks = file.read_row_group(group, columns=[column])[0].chunks
                    images = [image for chunk in chunks for image in _views(chunk)]
                    for row in wanted:
                        image = images[row - start]
                        read[row] = None if image is None else bytes(image)
                start = stop
        # Asked for last: an open file stays the one that it was, so it was this one all along.
        found = lake.stat(key)
        if found is None or found.etag != etag:
            return [ChangedObjectError(f"{lake.uri(key)} is not what it was.")] * len(rows)
        return [_row_image(read[row]) for row in rows]
    except (LakeError, DecodeError) as error:
        return [error] * len(rows)
    except (pa.ArrowException, OSError, KeyError) as error:
        damaged = DecodeError(
            f"{lake.uri(key)} is damaged where the image lies ({error}).", code="damaged_container"
        )
        return [damaged] * len(rows)


def _row_image(value: bytes | None) -> bytes | LakeError | ImageError:
    return DecodeError("The row holds no image (null).", code="empty") if value is None else value


def _with_sizes(refs: pa.Table, results: Sequence[bytes | LakeError | ImageError]) -> pa.Table:
    """References with what was read as their size: planning knows that of a row but on average."""
    sizes = [
        len(result) if isinstance(result, bytes) else planned
        for result, planned in zip(results, refs["bytes"].to_pylist(), strict=True)
    ]
    column = refs.schema.get_field_index("bytes")
    return refs.set_column(column, refs.schema.field(column), pa.array(sizes, pa.int64()))


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


def _image_error(
    result: bytes | LakeError | ImageError, etag: pa.StringScalar
) -> ImageError | None:
    if isinstance(result, bytes):
        return None
    if isinstance(result, ImageError):
        return result
    code = "missing" if isinstance(result, MissingObjectError) else "changed"
    seen = "It was there when the run was planned." if etag.as_py() else "The manifest lists it."
    return DecodeError(f"{result} {seen}", code=code)
