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

LOOKUP_THREADS: Final = 32


def look_up(
    lake: Lake, batches: Iterable[pa.RecordBatch], *, all_etags: bool = True
) -> Iterator[pa.RecordBatch]:
    """Fill in what images lack, with a request for each object.

    Args:
        lake: Root of the images.
        batches: Images with at least the columns ``object_key``, ``bytes`` and ``etag``.
        all_etags: Whether to look up each object without an etag; if not, only those without a
            size either. Reading an image shows its etag, too.

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
            sizes, etags = zip(*pool.map(lambda key: _stat(lake, key), keys), strict=True)
            for name, found in (("bytes", sizes), ("etag", etags)):
                place = batch.schema.get_field_index(name)
                field = batch.schema.field(place)
                values = pa.array(found, field.type)
                column = pc.replace_with_mask(batch.column(place), is_unknown, values)
                batch = batch.set_column(place, field, column)
            yield batch


def _stat(lake: Lake, key: str) -> tuple[int, str]:
    try:
        found = lake.stat(key)
    except (NotAFileError, OutsideLakeError):
        found = None
    return (0, "") if found is None else (found.size_bytes, found.etag)
