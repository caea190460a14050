"""Images that earlier builds scored are listed as they were then, or they would be scored twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.tables.query import run_query
from tests.golden.make_store import DATES, PATTERN
from tests.golden_store import copy_golden_store
from tests.sources.made_up_sources import source_of


@pytest.mark.parametrize("date", DATES)
def test_images_of_the_golden_store_are_listed_as_its_build_listed_them(
    tmp_path: Path, date: str
) -> None:
    golden = copy_golden_store(tmp_path)
    columns = "image_key, image_id, line, tags"
    rows = run_query(
        golden.store, f"SELECT {columns} FROM predictions WHERE date = '{date}'"
    ).to_pylist()
    entries = run_query(
        golden.store, f"SELECT image_key FROM quarantine WHERE date = '{date}'"
    ).to_pylist()
    lake = Lake(str(golden.images))
    listed = {ref.image_key: ref for ref in source_of(lake, PATTERN).select(date)}
    assert set(listed) == {row["image_key"] for row in [*rows, *entries]}
    for row in rows:
        ref = listed[row["image_key"]]
        assert (ref.image_id, ref.line, list(ref.tags.items())) == (
            row["image_id"],
            row["line"],
            [tuple(pair) for pair in row["tags"]],
        )
