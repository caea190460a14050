"""Files are rewritten without the rows of planned images, whatever else is in them."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.tables.committed import read_file
from steel_batch.tables.rewriting import KEY, Change, without_planned
from steel_batch.tables.table_log import LiveFile
from tests.conftest import examples
from tests.made_up_run import DATE, ENGINE, begin, image_keys, made_up_row, parquet, rows_table

PREDICTIONS = layout.PREDICTIONS
KEYS = image_keys(12)
FILES = st.lists(
    st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=20), max_size=5
)
"""Of each file the keys, in any order, and which rows were deleted since."""


def rewritten(
    store: Lake, planned: list[str], files: list[list[tuple[str, bool]]]
) -> tuple[list[LiveFile], Change]:
    record = begin(store, planned, retry_quarantined=True)
    live = []
    for number, rows in enumerate(files):
        key = f"{PREDICTIONS}/{number}.parquet"
        data = parquet(rows_table([made_up_row(key, "earlier") for key, _ in rows]))
        store.write(key, data)
        kept = np.packbits([not is_deleted for _, is_deleted in rows]) | (
            0xFF >> np.minimum(8, len(rows) - 8 * np.arange((len(rows) + 7) // 8))
        ).astype(np.uint8)
        is_cut = any(is_deleted for _, is_deleted in rows)
        live.append(
            LiveFile(
                key=key, engine=ENGINE, date=DATE, size_bytes=len(data), num_rows=len(rows),
                kept=kept.tobytes() if is_cut else None,
            )
        )  # fmt: skip
    return live, without_planned(store, record, PREDICTIONS, 3, 1, live)


@settings(max_examples=examples(30), deadline=None)
@given(planned=st.sets(st.sampled_from(KEYS), min_size=1), files=FILES)
def test_any_files_keep_the_rows_of_other_images_in_their_order(
    planned: set[str], files: list[list[tuple[str, bool]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Lake(folder)
        live, change = rewritten(store, sorted(planned), files)
        left = [[key for key, is_deleted in rows if not is_deleted] for rows in files]
        hit = [i for i, keys in enumerate(left) if planned & {*keys}]
        assert change.replaced == [live[i] for i in hit]
        assert change.seen == live
        expected = [rest for i in hit if (rest := [key for key in left[i] if key not in planned])]
        found = [
            [key for batch in read_file(store, file.merged, KEY) for key in batch[0].to_pylist()]
            for file in change.added
        ]
        assert found == expected
        assert [file.num_rows for file in change.added] == list(map(len, expected))
        places = [layout.split_table_file(file.target) for file in change.added]
        assert [place and place[1:] for place in places] == [(3 + i, 1) for i in range(len(found))]


@pytest.mark.parametrize("planned", [["-/new.jpg"], KEYS])
def test_rows_of_a_file_are_read_only_where_some_of_them_are_left(
    planned: list[str], folder: Lake
) -> None:
    _, change = rewritten(folder, planned, [[(key, False) for key in KEYS]])
    assert (len(change.added), len(change.replaced)) == (0, planned == KEYS)
