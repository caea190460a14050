"""The plan: the frozen, ordered list of a run's images, cut into shards.

Images are ordered by line and key, so a shard is a contiguous range of what will be committed, and
merging is concatenation. The plan is one Parquet file whose row groups hold whole shards. Its
footer holds the settings and a digest of settings and images. `planning` makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch import layout, schema
from steel_batch.config import canonical_place
from steel_batch.errors import LakeError, PlanMismatchError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json, record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.sources.arrays import numbers_in, of_numbers, scalar_of

FORMAT: Final = FileFormat("the plan of a run", newest=3)
"""Of the footer's entry and of the columns; in format 1 the digest left out `_NAMES` and tags."""
_KEYS: Final = ("shard", "image_key", "line", "offset", "bytes", "etag")
_EMPTY, _BLANK, _TAB, _LINE_END = (scalar_of(text) for text in ("", " ", "\t", "\n"))
_NAMES: Final = ("image_id", "object_key")
_TEXT_ROWS: Final = 8192
"""A row group of a plan of 100 million images has 100,000."""
FOOTER_KEY: Final = b"steel_batch.plan"
"""Key of the `PlanInfo`, as JSON, in the footer of a plan's file."""
RETRY: Final = "retry_quarantined"
_DAMAGE: Final = (
    pa.ArrowException, OSError, AttributeError, LookupError, TypeError, ValueError,
)  # fmt: skip
"""What reading a damaged plan raises, in Parquet or for the contents of its footer."""
KNOWN: Final = pa.schema(
    [
        schema.PLAN.field("image_key"),
        schema.PLAN.field("etag"),
        pa.field("error_code", pa.string()),
    ]
)
"""What planning needs about committed images; those without a row have a code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInfo:
    """Contents of a plan's footer."""

    digest: str
    num_images: int
    num_shards: int
    bytes: int
    num_committed: int = 0
    """Images of the lake that are left out because their rows are already committed."""
    num_changed: int = 0
    """Images whose etag differs from the committed one; left out unless they are rescored."""
    num_retried: int = 0
    """Images of the plan that are in quarantine: all of them on a retry, else only those that have
    changed since."""
    num_beyond_limit: int = 0
    """Images without a row that the plan leaves to a later run, because of its limit."""
    num_gone: int = 0
    """Committed images that are no longer in the lake, or not under the same key."""
    num_other_keys: int = 0
    """Images of the plan that seem to be some of those, under other keys."""
    example_other_keys: tuple[str, str] | None = None
    """The key of one of them, and the key of its row."""
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShardRange:
    """The shards in one row group of a plan, both ends included."""

    group: int
    first_shard: int
    last_shard: int


def texts_of(group: pa.Table, form: int) -> Iterator[bytes]:
    """Yield a canonical text of a group's rows in pieces, one line per row, for the digest.

    Args:
        group: Rows of a plan.
        form: The plan's format.
    """
    names = [*_KEYS, *_NAMES] if form > 1 else _KEYS
    for start in range(0, group.num_rows, _TEXT_ROWS):
        columns = [_text_or_empty(group[name].slice(start, _TEXT_ROWS)) for name in names]
        yield _lines_of(pc.binary_join_element_wise(*columns, _TAB))
    if form > 1:
        yield from _tags_of(group["tags"].combine_chunks())
    elif not group.num_rows:
        yield b"\n"


def _text_or_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
    return pc.fill_null(text, _EMPTY) if text.null_count else text


def _tags_of(tags: pa.MapArray) -> Iterator[bytes]:
    """Yield a line with how many tags each row has, and one line for each tag."""
    ends = numbers_in(tags.offsets)
    first, number = int(ends[0]), int(ends[-1] - ends[0])
    names, values = (part.slice(first, number) for part in (tags.keys, tags.items))
    counts = of_numbers(np.diff(ends)).cast(pa.string())
    ends_of_all = of_numbers(np.array([0, len(counts)], np.int32))
    together = pc.binary_join(pa.ListArray.from_arrays(ends_of_all, counts), _BLANK)
    yield _lines_of(together)
    for start in range(0, number, _TEXT_ROWS):
        some = pc.fill_null(values.slice(start, _TEXT_ROWS), _EMPTY)
        yield _lines_of(pc.binary_join_element_wise(names.slice(start, _TEXT_ROWS), some, _TAB))


def _lines_of(texts: pa.Array | pa.ChunkedArray) -> bytes:
    """Texts as they are in memory, each with a line's end: Python sees none of them."""
    ended = pc.binary_join_element_wise(texts, _EMPTY, _LINE_END)
    chunks = ended.chunks if isinstance(ended, pa.ChunkedArray) else [ended]
    parts = []
    for chunk in chunks:
        _, offsets, data = chunk.buffers()
        if len(chunk) and data is not None:
            ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            parts.append(memoryview(data)[ends[0] : ends[-1]])
    return b"".join(parts)


class Plan:
    """A plan in a store. Reading it costs its footer, then one row group at a time.

    Args:
        store: The store.
        run_id: The run that owns the plan.
        digest: The digest that the run started with; None accepts any.
        path: A copy of the plan on this machine, which is read in its place.

    Raises:
        PlanMismatchError: Its footer has another digest.
        FormatError: It has a newer format.
        LakeError: It cannot be read, here or in a method; the message states the reason.
    """

    def __init__(
        self, store: Lake, run_id: str, *, digest: str | None = None, path: Path | None = None
    ) -> None:
        key = layout.run_file(run_id, "plan.parquet")
        self._url = store.uri(key)
        with self._readable():
            source = store.open_input(key) if path is None else path
            self._file = pq.ParquetFile(source, page_checksum_verification=True)
            footer = parse_json(self._file.metadata.metadata[FOOTER_KEY])
            self.info = record_of(PlanInfo, FORMAT.open(footer, source=self._url))
            self._format = FORMAT.check(footer.get("format", 1), source=self._url)
        if digest not in (None, self.info.digest):
            raise PlanMismatchError(
                f"the plan of run {run_id} has digest {self.info.digest[:12]}, but the run started "
                f"with {digest[:12]}: another plan has overwritten it. Run with --fresh to plan "
                "again."
            )

    def check(self) -> None:
        """Make sure that the rows are those that the digest is of; reads them all.

        Raises:
            PlanMismatchError: They are others.
        """
        settings = json.dumps(self.info.settings, sort_keys=True)
        digest, num_images = hashlib.sha256(settings.encode()), 0
        last_shard = -1
        for group in self:
            with self._readable():
                if group.schema.remove_metadata() != schema.PLAN.remove_metadata():
                    raise ValueError("its columns are not those of a plan")
                shards = group["shard"].to_numpy()
                if (np.diff(shards, prepend=last_shard) < 0).any():
                    raise ValueError("its shards are not in order")
                last_shard = int(shards[-1]) if len(shards) else last_shard
                for text in texts_of(group, self._format):
                    digest.update(text)
                num_images += group.num_rows
        found = (digest.hexdigest(), num_images, last_shard + 1)
        if found != (self.info.digest, self.info.num_images, self.info.num_shards):
            raise PlanMismatchError(
                f"{self._url} was changed: it has {num_images:,} images in {last_shard + 1:,} "
                f"shards with digest {found[0][:12]}, expected {self.info.num_images:,} in "
                f"{self.info.num_shards:,} with {self.info.digest[:12]}. Run with --fresh to plan "
                "again."
            )

    def ranges(self) -> list[ShardRange]:
        """The shards in each row group.

        They are read from the rows: PyArrow ends the process where statistics are damaged.
        """
        found = []
        with self._readable():
            for group in range(self._file.metadata.num_row_groups):
                shards = self._file.read_row_group(group, columns=["shard"])["shard"]
                first, last = (value.as_py() for value in pc.min_max(shards).values())
                if first is None or not 0 <= first <= last < self.info.num_shards:
                    raise ValueError(f"row group {group} has the shards {first} to {last}")
                found.append(ShardRange(group, first, last))
        return found

    def read_group(self, group: int) -> pa.Table:
        """The rows of one row group."""
        with self._readable():
            return self._file.read_row_group(group)

    def __iter__(self) -> Iterator[pa.Table]:
        """Every row group's rows, one after the other."""
        for group in range(self._file.metadata.num_row_groups):
            yield self.read_group(group)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = str(error).rstrip(".")
            raise LakeError(
                f"{self._url} is damaged: {reason}. Unless rows of its run are committed, --fresh "
                "abandons the run and plans again."
            ) from error


def check_settings(run_id: str, planned: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Raises:
        PlanMismatchError: Settings differ; the message shows each.
    """
    differing = [
        f"{key} was {planned.get(key)!r} and is now {wanted.get(key)!r}"
        for key in sorted(planned.keys() | wanted.keys())
        if planned.get(key) != wanted.get(key)
        # Records of earlier builds hold the folder as the user wrote it.
        and not (key == "images" and canonical_place(str(planned.get(key))) == wanted.get(key))
    ]
    if planned.get(RETRY) != wanted.get(RETRY):
        begun, other = "score", "quarantine retry"
        if planned.get(RETRY):
            begun, other = other, begun
        raise PlanMismatchError(
            f"run {run_id} is unfinished and was started by `{begun}`, not by `{other}`: finish it "
            "with that command first, or give --fresh to abandon it and start again."
        )
    if differing:
        raise PlanMismatchError(
            f"run {run_id} is unfinished and was planned differently: {'; '.join(differing)}. "
            "Give the same settings to resume it, or --fresh to abandon it and start again."
        )
