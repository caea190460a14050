"""Looks up the sizes and etags of objects that a manifest does not state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.errors import NotAFileError, OutsideLakeError
from steel_batch.lake import Lake
from steel_batch.sources.arrays import scalar_of
from steel_batch.sources.contract import NotThere

LOOKUP_THREADS: Final = 32
_UNREADABLE: Final = (0, "")
"""Size and etag of what cannot be read."""


def look_up(
    lake: Lake,
    batches: Iterable[pa.RecordBatch],
    *,
    all_etags: bool = True,
    not_there: NotThere | None = None,
) -> Iterator[pa.RecordBatch]:
    """Fill in what images lack, with a request for each object.

    Args:
        lake: Root of the images.
        batches: Images with at least the columns ``object_key``, ``bytes`` and ``etag``.
        all_etags: Whether to look up each object without an etag; if not, only those without a
            size either. Reading an image shows its etag, too.
        not_there: Counts those that do not exist.

    Yields:
        The batches. An object that cannot be read has no bytes and no etag: it is quarantined when
        it is read.
    """
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        for batch in batches:
            is_unknown = pc.equal(batch["etag"], scalar_of(""))
            if not all_etags:
                is_unknown = pc.and_(is_unknown, pc.equal(batch["bytes"], scalar_of(0)))
            if not pc.any(is_unknown).as_py():
                yield batch
                continue
            keys = batch["object_key"].filter(is_unknown).to_pylist()
            found = list(pool.map(lambda key: _stat(lake, key), keys))
            if not_there is not None:
                gone = [key for key, item in zip(keys, found, strict=True) if item is None]
                not_there.num += len(gone)
                not_there.example = not_there.example or next(iter(gone), None)
            sizes, etags = zip(*(item or _UNREADABLE for item in found), strict=True)
            for name, looked_up in (("bytes", sizes), ("etag", etags)):
                place = batch.schema.get_field_index(name)
                field = batch.schema.field(place)
                values = pa.array(looked_up, field.type)
                column = pc.replace_with_mask(batch.column(place), is_unknown, values)
                batch = batch.set_column(place, field, column)
            yield batch


def _stat(lake: Lake, key: str) -> tuple[int, str] | None:
    """An object's size and etag; None if it does not exist."""
    try:
        found = lake.stat(key)
    except (NotAFileError, OutsideLakeError):
        return _UNREADABLE
    return None if found is None else (found.size_bytes, found.etag)
