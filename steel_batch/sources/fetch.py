"""From references to the images' compressed bytes, with as few requests as possible."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import pyarrow as pa

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import (
    ChangedObjectError,
    DecodeError,
    ImageError,
    LakeError,
    LargeObjectError,
)
from steel_batch.lake import Lake, ReadRequest
from steel_batch.sources.image_column import image_column, image_values
from steel_batch.sources.image_ref import SPARSE, TOO_LARGE, UNSAFE_NAME
from steel_batch.sources.parquet_front import FREE_BYTES, ParquetFront, TooMuchError
from steel_batch.sources.tar_headers import DAMAGE, MAX_SPARSE_BYTES, read_member

SPAN_BYTES: Final = 8 << 20
"""Maximum size of one request for several members of a tar."""
MISSTATED_BYTES: Final = 1 << 20
"""What an object may have, whatever its manifest states."""
SPAN_GAP_BYTES: Final = 64 << 10
"""Gap between two members up to which one request reads both, with the gap."""
BUFFER_BYTES: Final = 128 << 20
"""Maximum size of a buffer for several row groups: twice a usual shard."""
_LARGER: Final = "If it is an image, give a greater --input-limit object-bytes=BYTES."


Content: TypeAlias = bytes | memoryview
"""An image's bytes; views keep what was read with them in memory: at most as much again."""


def read_images(
    lake: Lake, refs: pa.Table, limits: Limits = LIMITS
) -> list[bytes | LakeError | ImageError]:
    """Read the bytes of some references (`schema.PLAN`, with or without shards), in order.

    Members of a tar that are close together cost one request; a row group of a Parquet file is read
    once. What cannot be read, or is larger than `limits` allow, is an error in its place.
    """
    _, results = _read(lake, refs, limits)
    for i, result in enumerate(results):  # what a view is of is freed with the last one
        if isinstance(result, memoryview):
            results[i] = bytes(result)
    return cast(list[bytes | LakeError | ImageError], results)


def read_refs(
    lake: Lake, refs: pa.Table, limits: Limits = LIMITS
) -> tuple[pa.Table, list[Content | LakeError | ImageError]]:
    """The same as `read_images` with fewer copies, and the references as they were read.

    Planning knows only an average size of a Parquet file's rows, and no etag if a manifest states
    none.
    """
    etags, results = _read(lake, refs, limits)
    sizes = [
        planned if isinstance(result, (LakeError, ImageError)) else len(result)
        for result, planned in zip(results, refs["bytes"].to_pylist(), strict=True)
    ]
    for name, values in (("bytes", sizes), ("etag", etags)):
        place = refs.schema.get_field_index(name)
        field = refs.schema.field(place)
        refs = refs.set_column(place, field, pa.array(values, field.type))
    return refs, results


def _read(
    lake: Lake, refs: pa.Table, limits: Limits
) -> tuple[list[str], list[Content | LakeError | ImageError]]:
    """The etags and the bytes of some references."""
    keys, offsets = refs["object_key"].to_pylist(), refs["offset"].to_pylist()
    sizes, etags = refs["bytes"].to_pylist(), refs["etag"].to_pylist()
    results: list[Content | LakeError | ImageError] = [b""] * len(keys)
    rows_of: dict[tuple[str, str], list[int]] = {}
    spans: list[_Span] = []
    members: list[int] = []
    for i, (key, offset) in enumerate(zip(keys, offsets, strict=True)):
        if offset is None:
            most = _most_bytes(sizes[i], etags[i], limits)
            request = ReadRequest(key=key, etag=etags[i] or None, max_bytes=most)
            spans.append(_Span(request, [(i, 0, None)]))
        elif sizes[i] > limits.object_bytes and not key.endswith(".parquet"):
            results[i] = DecodeError(
                f"The member has {sizes[i]:,} bytes; at most {limits.object_bytes:,} are read "
                f"(limit object-bytes). {_LARGER}",
                code="too_large",
            )
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
    for span, result in zip(spans, lake.read_objects([s.request for s in spans]), strict=True):
        is_kept = not isinstance(result, LakeError) and span.is_mostly_images(result.data)
        for i, start, stop in span.parts:
            if isinstance(result, LargeObjectError):
                results[i] = _larger_than_planned(result, sizes[i])
            elif isinstance(result, LakeError):
                results[i] = result
            else:
                etags[i] = etags[i] or result.etag
                part = memoryview(result.data)[start:stop]
                results[i] = result.data if stop is None else (part if is_kept else bytes(part))
    for (key, etag), where in rows_of.items():
        planned = sum(sizes[i] for i in where)
        read = _read_parquet(lake, key, etag, [offsets[i] for i in where], planned, limits)
        for i, image in zip(where, read, strict=True):
            results[i] = image
    return etags, results


def _most_bytes(planned: int, etag: str, limits: Limits) -> int:
    """How large an object may be; a manifest may state a size that is none.

    Shards are cut by the planned sizes, so an object must not be larger by any amount. One that was
    not there, and may be now, has neither size nor etag.
    """
    if not etag and not planned:
        return limits.object_bytes
    return min(limits.object_bytes, max(MISSTATED_BYTES, 2 * planned))


def _larger_than_planned(error: LargeObjectError, planned: int) -> ImageError:
    return DecodeError(
        f"{error.message} {planned:,} were listed. If it is an image, correct its size in the "
        "manifest, or give a greater --input-limit object-bytes=BYTES.",
        code="too_large",
    )


@dataclass(frozen=True, slots=True)
class _Span:
    """One request, and the images that its bytes hold."""

    request: ReadRequest
    parts: Sequence[tuple[int, int, int | None]]
    """Index of the image, and where its bytes begin and end in the answer; None: to the end."""

    def is_mostly_images(self, data: bytes) -> bool:
        """Whether at least half of the answer is its images."""
        ends = [len(data) if stop is None else stop for _, _, stop in self.parts]
        num_bytes = sum(end - start for end, (_, start, _) in zip(ends, self.parts, strict=True))
        return 2 * num_bytes >= len(data)


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
            "The member's name is absolute or contains '..'; expected a plain relative name. Pack "
            "the image again under one.",
            code="unsafe_name",
        )
    if offset == TOO_LARGE:
        return DecodeError(
            f"The member of the tar is a sparse file of more than {MAX_SPARSE_BYTES:,} bytes; "
            "expected an image. Pack the image again, or remove the member.",
            code="too_large",
        )
    return DecodeError(
        "The member of the tar is a folder, a special file, or a link whose target is not a "
        "member; expected a regular file. Pack the image itself in its place.",
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
        return _damaged(lake, key, error)


def _read_parquet(
    lake: Lake, key: str, etag: str, rows: Sequence[int], planned_bytes: int, limits: Limits
) -> list[Content | LakeError | ImageError]:
    """Read some rows of a Parquet file's image column, each row group once.

    Rows that are stored as they are lie in one buffer, if it holds few others: a shard of it is
    then sent without another copy.
    """
    read: dict[int, Content | LakeError | ImageError] = {}
    try:
        with (
            lake.open_input(key) as stream,
            ParquetFront(stream, stream.seek(0, io.SEEK_END), limits) as front,
        ):
            column = image_column(front.file.schema_arrow, key)
            starts = list(itertools.accumulate(front.num_rows, initial=0))
            wanted: dict[int, set[int]] = {}
            for row in sorted(rows):
                group = bisect.bisect_right(starts, row) - 1
                if group < len(front.num_rows):
                    wanted.setdefault(group, set()).add(row - starts[group])
            most = min(2 * planned_bytes, BUFFER_BYTES)
            in_one = bool(wanted) and front.reserve(list(wanted), column, most)
            for group, places in wanted.items():
                for place, image in _read_group(
                    lake, key, front, group, column, places, limits, in_one=in_one
                ):
                    read[starts[group] + place] = image
            if in_one:
                _copy_of_few(read)
        # Checked last: an open file stays the same, so it was this one all along.
        found = lake.stat(key)
        if found is None or found.etag != etag:
            changed = ChangedObjectError(
                f"{lake.uri(key)} has changed since planning. Once the run is over, run "
                "`steel-batch quarantine retry`."
            )
            return [changed] * len(rows)
        return [read[row] for row in rows]
    except (LakeError, DecodeError) as error:
        return [error] * len(rows)
    except TooMuchError as error:
        return [_too_much(lake, key, error)] * len(rows)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        return [_damaged(lake, key, error)] * len(rows)


def _damaged(lake: Lake, key: str, error: Exception) -> ImageError:
    return DecodeError(
        f"{lake.uri(key)} is damaged at this image ({error}). Upload it again.",
        code="damaged_container",
    )


def _read_group(
    lake: Lake,
    key: str,
    front: ParquetFront,
    group: int,
    column: str,
    wanted: Collection[int],
    limits: Limits,
    *,
    in_one: bool,
) -> Iterator[tuple[int, Content | ImageError]]:
    """Some rows of a row group, by their place in it.

    They are views of what was read, unless that is more than twice as large as they are: then they
    are copied, so that the rest is not kept with them. Of one buffer for all row groups (`in_one`),
    that is not known yet.

    Rows that refer to one value would become any number of bytes: what is beyond the file's own
    pages, and 64 MiB, is refused.
    """
    place = num_bytes = 0
    left = set(wanted)
    try:
        room, batches = front.open_group(group, [column])
        most = max(FREE_BYTES, room.page_bytes)
        stored = front.stored_values(group, column)
        parts = (image_values(batch.column(0)) for batch in batches) if stored is None else [stored]
        for values in parts:
            sizes = [len(value or b"") for value in values]
            num_wanted = sum(
                size
                for row, size in enumerate(sizes, place)
                if row in left and size <= limits.object_bytes
            )
            is_kept = (in_one and stored is not None) or 2 * num_wanted >= _held_bytes(values)
            for row, value in enumerate(values, place):
                num_bytes += sizes[row - place]
                if num_bytes > most:
                    raise TooMuchError(
                        f"rows that refer to the same bytes again and again: more than {most:,} "
                        "bytes of images in one row group"
                    )
                if row in left:
                    left.remove(row)
                    image = _row_image(value, limits)
                    yield row, image if is_kept or isinstance(image, ImageError) else bytes(image)
            place += len(values)
            if not left:
                return
        raise pa.ArrowInvalid(f"row group {group} ends after {place:,} rows")
    except (TooMuchError, MemoryError) as error:
        for row in sorted(left):
            yield row, _too_much(lake, key, error)


def _copy_of_few(read: dict[int, Content | LakeError | ImageError]) -> None:
    """Copy views of a buffer that is more than twice as large as they are: it is then freed."""
    views = {row: image for row, image in read.items() if isinstance(image, memoryview)}
    if 2 * sum(map(len, views.values())) < _held_bytes(list(views.values())):
        read.update({row: bytes(view) for row, view in views.items()})


def _held_bytes(values: Sequence[memoryview | str | None]) -> int:
    """What views keep in memory, which may be more than they show: a whole dictionary."""
    held = {id(v.obj): memoryview(v.obj).nbytes for v in values if isinstance(v, memoryview)}
    return sum(held.values())


def _too_much(lake: Lake, key: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return DecodeError(
            f"there is no memory for a row group of {lake.uri(key)}. Write it with smaller row "
            "groups.",
            code="too_large",
        )
    return DecodeError(
        f"{lake.uri(key)} holds {error}. Write it with smaller row groups, or give a greater "
        "--input-limit.",
        code="too_large",
    )


def _row_image(value: memoryview | str | None, limits: Limits) -> memoryview | ImageError:
    if isinstance(value, memoryview):
        if len(value) > limits.object_bytes:
            return DecodeError(
                f"The row holds {len(value):,} bytes; at most {limits.object_bytes:,} are read "
                f"(limit object-bytes). {_LARGER}",
                code="too_large",
            )
        return value
    if value is None:
        return DecodeError(
            "The row holds no image (null). Write one, or remove the row.", code="empty"
        )
    return DecodeError(
        f"The row holds the path {value!r} but no bytes; expected the image itself. With Hugging "
        "Face's datasets, embed it (`embed_external_files=True`), or give the files as --images.",
        code="empty",
    )
