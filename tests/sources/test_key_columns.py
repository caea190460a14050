"""Keys that are read by the column: what they state is what they state one by one."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.lake import LakeObject
from steel_batch.sources.image_ref import ref_of
from steel_batch.sources.key_columns import read_keys
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.stray import stray_reason

PATTERNS = [
    None, "{image_id}.jpg", "line={line}/date={date}/{image_id}.png", "{date}_{image_id}.jpg",
    "{year}/{month}/{day}/{image_id}.jpg", "{cam}-{line}_{date}/{image_id}.*",
    "{line}{date}{image_id}.jpg", "*/{image_id}", "a+b(c)/{image_id}.jpg",
    "x{year}-{month}.{day}/{date}/{image_id}.jpg", "{year}{month}{day}/{image_id}.jpg",
    "d{day}.{month}.{year} {image_id}.jpg", "date={date}*/{image_id}.jpg", "{größe}/{image_id}",
]  # fmt: skip
PARTS = [
    "", "a", "b.jpg", ".", "..", "._x", "Thumbs.db", "__MACOSX", "line=1", "line=ſ",
    "date=2026-11-21", "date=20261121", "2026-11-5", "2026_11_05", "2026/11/5", "2026.11.05_a.jpg",
    "date=2026-13-40", "20261121", "1", "12", "05.11.2026 x.jpg", "d5.1.2026 q.jpg", "x.JPG",
    "é.Png", "\n.jpg", "a\\b", "n\0", "icon\r", "ICON\r", ".snapshot", "lost+found", "K.jpg",
    "c-1_2026-1-2", "c-1_20260102", "a+b(c)", "{image_id}.jpg", ".jpg", "jpg", "x2026-11.5",
    "date=20261121x", "20261121x.jpg", "ab2026-11-21c.jpg", " 2.jpg", "_delta_log",
    "ſystem volume information", "PaxHeaders.12", "q.tiff", "q.TIFF.jpg",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join) | TEXT


@given(st.sampled_from(PATTERNS), st.lists(KEYS, min_size=1, max_size=6))
def test_a_key_that_is_read_states_what_it_states_alone(text: str | None, keys: list[str]) -> None:
    pattern = KeyPattern(text)
    columns = read_keys(pattern, pa.array(keys, pa.string()))
    for i, key in enumerate(keys):
        if not columns.is_read[i]:
            continue
        assert stray_reason(key) is None
        fields = pattern.match(key)
        assert fields is not None
        alone = ref_of(fields, LakeObject(key=key, size_bytes=0, etag=""))
        tags = {name: column[i].as_py() for name, column in columns.tags.items()}
        found = (columns.image_id[i].as_py(), columns.line[i].as_py(), columns.date[i].as_py())
        assert found == (alone.image_id, alone.line, alone.date)
        assert list(tags.items()) == list(alone.tags.items())


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (None, ["a.jpg", "x/y.TIFF", "é.png"]),
        ("line={line}/date={date}/{image_id}.jpg", [
            "line=1/date=2026-11-21/a.jpg", "line=2/date=20261121/a.jpg",
            "line=x y/date=2026_1_2/a.jpg",
        ]),
        ("{year}/{month}/{day}/{image_id}.jpg", ["2026/11/05/a.jpg", "2026/1/5/a.jpg"]),
    ],
)  # fmt: skip
def test_usual_keys_are_read_by_the_column(pattern: str | None, keys: list[str]) -> None:
    assert read_keys(KeyPattern(pattern), pa.array(keys)).is_read.all()
