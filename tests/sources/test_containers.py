"""Containers of images: what their keys, their members' names and their dates say together."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from tests.conftest import DATE
from tests.sources.made_up_sources import images_of, source_of, tar_of


def test_member_patterns_fill_columns_and_must_agree_with_the_key(lake: Lake) -> None:
    lake.write(
        "line=1/s.tar",
        tar_of([("2026-11-20/c1_a.jpg", b"a"), ("2026-11-21/c2_b.jpg", b"b"), ("c.jpg", b"c")]),
    )
    source = source_of(lake, "line={line}/*.tar#{date}/{camera}_{image_id}.jpg")
    assert source.dates() == ["2026-11-20", "2026-11-21"]
    selection = source.select("2026-11-21")
    (ref,) = selection
    assert (ref.line, ref.date, ref.image_id, ref.tags) == ("1", DATE, "b", {"camera": "c2"})
    assert selection.num_left_out == 1
    with pytest.raises(ConfigError, match=r"has the line '2026-11-2.', but its"):
        images_of(lake, "line={line}/*.tar#{line}/{image_id}.jpg")


def test_a_date_in_the_key_opens_only_its_containers(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("date=2026-11-20/s.tar", b"damaged")
    lake.write("date=2026-11-21/s.tar", tar_of([("a.jpg", b"a")]))
    source = source_of(lake, "date={date}/*.tar")
    assert source.dates() == ["2026-11-20", "2026-11-21"]
    assert [ref.image_key for ref in source.select(DATE)] == ["date=2026-11-21/s.tar#a.jpg"]


def test_containers_without_images_explain_themselves(lake: Lake) -> None:
    selection = source_of(lake, "*.tar").select(None)
    assert list(selection) == []
    text = str(selection.explain_empty())
    assert ("there are no objects under" if lake.is_s3 else "there is no folder") in text
    lake.write("s.tar", tar_of([]))
    selection = source_of(lake, "*.tar").select(None)
    assert list(selection) == []
    assert "1 containers in" in (text := str(selection.explain_empty()))
    assert "are empty: they have no members and no rows" in text
    lake.write("s.tar", tar_of([("a.txt", b"a")]))
    selection = source_of(lake, "*.tar").select(None)
    assert list(selection) == []
    assert "1 containers in" in str(selection.explain_empty())
    assert "'s.tar#a.txt'" in str(selection.explain_empty())
    with pytest.raises(ConfigError, match="--date YYYY-MM-DD"):
        source_of(lake, "*.tar").dates()
    assert "'*.tar'" in str(source_of(lake, None).select(None).explain_empty())
