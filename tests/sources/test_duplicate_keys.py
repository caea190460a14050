"""A key that is listed twice is found, wherever its rows are."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.sources.duplicate_keys import DuplicateKeys, Numbered
from steel_batch.sources.image_ref import IMAGES, ImageRef, ref_batches
from tests.conftest import examples


def numbered(blocks: list[list[int]]) -> Iterator[Numbered]:
    first = 1
    for block in blocks:
        refs = [
            ImageRef(
                image_key=f"{n}.jpg", image_id="", date=None, line=None, object_key=f"{n}.jpg",
                bytes=1, etag="",
            )
            for n in block
        ]  # fmt: skip
        images = pa.Table.from_batches(ref_batches(refs, IMAGES), IMAGES).combine_chunks()
        for batch in images.to_batches():
            yield pa.array(range(first, first + len(block))), batch
        first += len(block)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 300), max_size=20), max_size=12),
    st.integers(1, 40),
    st.integers(1, 60),
)
def test_the_first_repetition_is_named_with_both_rows_or_none(
    blocks: list[list[int]], noted_rows: int, part_hashes: int
) -> None:
    keys = [key for block in blocks for key in block]
    with DuplicateKeys(
        "m.csv", lambda: numbered(blocks), noted_rows=noted_rows, part_hashes=part_hashes
    ) as duplicates:
        passed = sum(batch.num_rows for batch in duplicates.watch(numbered(blocks)))
        message = duplicates.find()
    assert passed == len(keys)
    places: dict[int, list[int]] = {}
    for row, key in enumerate(keys, 1):
        places.setdefault(key, []).append(row)
    twice = [(rows[-1], rows[0], key) for key, rows in places.items() if len(rows) > 1]
    if not twice:
        assert message is None
        return
    last, first, key = min(twice)
    assert message is not None
    assert f"row {last}: the key '{key}.jpg' is already in row {first};" in message
