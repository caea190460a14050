"""From references to the images' compressed bytes, with as few requests as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.errors import (
    ChangedObjectError,
    DecodeError,
    ImageError,
    LakeError,
)
from steel_batch.lake import Lake, ReadRequest
from steel_batch.sources.image_column import image_column, image_values
from steel_batch.sources.image_ref import SPARSE, TOO_LARGE, UNSAFE_NAME
from steel_batch.sources.tar_headers import DAMAGE, MAX_SPARSE_BYTES, read_member

SPAN_BYTES: Final = 8 << 20
"""Maximum size of one request for several members of a tar."""
SPAN_GAP_BYTES: Final = 64 << 10
"""Gap between two members up to which one request reads both, with the gap."""


def read_images(lake: Lake, refs: pa.Table) -> list[bytes | LakeError | ImageError]:
    """Read the bytes of some references (`schema.PLAN`, with or without shards), in order.

    Members of a tar that are close together cost one request; a row group of a Parquet file is read
    once. If an image cannot be read, its error takes its place.
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
        elif offset <= SPARSE:
            results[i] = _read_sparse(lake, key, etags[i], offset, sizes[i])
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
    """One request, and the images that its bytes hold."""

    request: ReadRequest
    parts: Sequence[tuple[int, int, int | None]]
    """Index of the image, and where its bytes begin and end in the answer; None: to the end."""


def _spans(members: Sequence[tuple[int, str, int, int, str]]) -> Iterator[_Span]:
    """Group sorted members (image, key, offset, size, etag) into requests for close neighbours."""
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
            "The member's name is absolute or contains '..'; expected a plain relative name.",
            code="unsafe_name",
        )
    if offset == TOO_LARGE:
        return DecodeError(
            f"The member of the tar is a sparse file of more than {MAX_SPARSE_BYTES:,} bytes; "
            "expected an image.",
            code="too_large",
        )
    return DecodeError(
        "The member of the tar is a folder, a special file, or a link whose target is not a "
        "member; expected a regular file.",
        code="not_a_file",
    )


def _read_sparse(
    lake: Lake, key: str, etag: str, offset: int, size: int
) -> bytes | LakeError | ImageError:
    try:
        return read_member(lake, key, etag, offset, size)
    except LakeError as error:
        return error
    except DAMAGE as error:
        return DecodeError(
            f"{lake.uri(key)} is damaged at this image ({error}).", code="damaged_container"
        )


def _read_parquet(
    lake: Lake, key: str, etag: str, rows: Sequence[int]
) -> list[bytes | LakeError | ImageError]:
    """Read some rows of a Parquet file's image column, each row group once."""
    try:
        with lake.open_input(key) as stream, pq.ParquetFile(stream) as file:
            column = image_column(file.schema_arrow, key)
            read: dict[int, bytes | str | None] = {}
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = [row for row in rows if start <= row < stop]
                if wanted:
                    chunks = file.read_row_group(group, columns=[column])[0].chunks
                    images = [image for chunk in chunks for image in image_values(chunk)]
                    for row in wanted:
                        image = images[row - start]
                        read[row] = bytes(image) if isinstance(image, memoryview) else image
                start = stop
        # Checked last: an open file stays the same, so it was this one all along.
        found = lake.stat(key)
        if found is None or found.etag != etag:
            return [ChangedObjectError(f"{lake.uri(key)} has changed since planning.")] * len(rows)
        return [_row_image(read[row]) for row in rows]
    except (LakeError, DecodeError) as error:
        return [error] * len(rows)
    except (pa.ArrowException, OSError, KeyError) as error:
        damaged = DecodeError(
            f"{lake.uri(key)} is damaged at this image ({error}).", code="damaged_container"
        )
        return [damaged] * len(rows)


def _row_image(value: bytes | str | None) -> bytes | LakeError | ImageError:
    if isinstance(value, bytes):
        return value
    if value is None:
        return DecodeError("The row holds no image (null).", code="empty")
    return DecodeError(
        f"The row holds the path {value!r} but no bytes; expected the image itself. With Hugging "
        "Face's datasets, embed it (`embed_external_files=True`), or give the files as --images.",
        code="empty",
    )
