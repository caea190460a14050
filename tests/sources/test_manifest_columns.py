"""Manifests that are read by the column: each row is what it is row by row, errors included."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.sources.image_ref import ImageRef, refs_of
from steel_batch.sources.manifest import ManifestSource, Rows
from tests.sources.made_up_sources import source_of

PATTERNS = [
    None, "{image_id}.jpg", "line={line}/date={date}/{image_id}.jpg", "line={line}/{image_id}.jpg",
    "{cam}/{date}/{image_id}.jpg", "*/{image_id}.jpg",
]  # fmt: skip
KEYS = [
    "a.jpg", "line=1/date=2026-11-21/a.jpg", "line=2/date=20261121/b.jpg", "line=1/a.jpg",
    "line=1/b.JPG", "c/2026-11-21/x.jpg", "q/w.jpg", "é.jpg",
]  # fmt: skip
ODD_KEYS = ["", "../a.jpg", "a//b.jpg", "x/._a.jpg", "no.txt", "a\\b.jpg", "a/", None]
NOON = datetime.datetime(2026, 11, 21, 12, 30)


def of(kind: pa.DataType, *values: Any) -> tuple[pa.DataType, list[Any]]:
    return kind, [None, *values]


TEXT, PAIRS = pa.string(), pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
SIZES = [
    of(pa.int64(), 0, 7, 70_000, -1), of(pa.uint64(), 5, 2**63), of(pa.int8(), 5, -1),
    of(pa.float64(), 5.0, 5.5, float("nan"), 2.0**53, -1.0), of(pa.float32(), 5.0, 123456789.0),
    of(TEXT, "", "7", "007", " 8 ", "9.", "10.00", "x", "-1", "9" * 18), of(pa.null()),
    of(pa.decimal128(20, 2), decimal.Decimal("5.00"), decimal.Decimal("5.25")),
    of(pa.binary(), b"5", b""), of(pa.bool_(), True),
]  # fmt: skip
DATES = [
    of(TEXT, "2026-11-21", "2026-11-22", "20261121", "2026-11-21T03:00:00", "", "bad"),
    of(pa.date32(), NOON.date()), of(pa.timestamp("ns"), NOON), of(pa.int32(), 20261121),
    of(pa.timestamp("us", "America/New_York"), NOON), of(pa.null()), of(pa.float64(), 20261121.0),
]  # fmt: skip
ETAGS = [of(TEXT, '"e1"', "e2", "", '"'), of(pa.int64(), 7), of(pa.large_string(), "e")]
TAGS = [
    of(pa.map_(TEXT, TEXT), [], [("a", "1")], [("cam", "2"), ("b", "")], [("a", "1"), ("a", "1")]),
    of(pa.struct([("a", TEXT), ("cam", TEXT)]), {"a": "1", "cam": None}, {"a": None, "cam": "c"}),
    of(PAIRS, [], [{"key": "a", "value": "1"}]), of(TEXT, "x", ""),
]  # fmt: skip
OTHERS = [
    of(TEXT, "1", "2", "", " x ", "ü"), of(pa.int32(), 1, 2), of(pa.bool_(), True, False),
    of(pa.float64(), 1.0, 2.5, float("nan"), -0.0), of(pa.binary(), b"1", b"z", b"\xff"),
    of(pa.timestamp("us"), NOON), of(pa.large_string(), "q"), of(pa.null()),
    of(pa.dictionary(pa.int32(), TEXT), "1", "2"),
]  # fmt: skip
KINDS = {"size": SIZES, "date": DATES, "etag": ETAGS, "tags": TAGS}
NAMES = ["size", "etag", "line", "date", "image_id", "cam", "site", "tags", "Camera ID"]


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str | None, pa.Table]:
    num_rows = draw(st.integers(1, 5))
    keys = KEYS + (ODD_KEYS if draw(st.booleans()) else [])
    columns = {"key": pa.array(_drawn(draw, keys, num_rows), pa.string())}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5)):
        kind, values = draw(st.sampled_from(KINDS.get(name, OTHERS)))
        columns[name] = pa.array(_drawn(draw, values, num_rows), kind)
    order = draw(st.permutations(list(columns)))
    return draw(st.sampled_from(PATTERNS)), pa.table({name: columns[name] for name in order})


def _drawn(draw: st.DrawFn, values: list[Any], num: int) -> list[Any]:
    return draw(st.lists(st.sampled_from(values), min_size=num, max_size=num))


def by_column(source: ManifestSource) -> tuple[dict[int, ImageRef] | str, int, str | None]:
    rows = Rows(source, None)
    try:
        found = {
            number: ref
            for numbers, images in rows.numbered()
            for number, ref in zip(numbers.to_pylist(), refs_of([images]), strict=True)
        }
    except ConfigError as error:
        return str(error), 0, None
    return found, rows.num_left_out, rows.example_left_out


def row_by_row(source: ManifestSource) -> tuple[dict[int, ImageRef] | str, int, str | None]:
    rows, found, number = Rows(source, None), dict[int, ImageRef](), 0
    try:
        for block in source.read_rows():
            for row in block.rows(np.arange(block.num_rows)):
                number += 1
                ref = rows.row_images().ref(number, row)
                if ref is not None:
                    found[number] = ref
    except ConfigError as error:
        return str(error), 0, None
    return found, rows.num_left_out, rows.example_left_out


def in_order(found: dict[int, ImageRef] | str) -> Any:
    """What was found, with the order of the tags, which is part of a plan's digest."""
    if isinstance(found, str):
        return found
    return {number: (ref, list(ref.tags)) for number, ref in found.items()}


def check(tmp_path: Path, pattern: str | None, name: str) -> None:
    source = source_of(Lake(str(tmp_path)), pattern, name)
    assert isinstance(source, ManifestSource)
    found, *counts = by_column(source)
    expected, *expected_counts = row_by_row(source)
    assert in_order(found) == in_order(expected)
    assert counts == expected_counts


@given(manifests())
def test_a_parquet_manifest_means_the_same_by_the_column_and_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, manifest: tuple[str | None, pa.Table]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    pattern, table = manifest
    pq.write_table(table, folder / "m.parquet", row_group_size=3)
    check(folder, pattern, "m.parquet")


@given(manifests())
def test_a_csv_manifest_means_the_same_by_the_column_and_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, manifest: tuple[str | None, pa.Table]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    pattern, table = manifest
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.column_names)
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        writer.writerow(["" if value is None else value for value in row])
    (folder / "m.csv").write_text(text.getvalue(), newline="")
    check(folder, pattern, "m.csv")


def test_a_bad_row_is_named_by_its_number_in_the_whole_manifest(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for num_rows in (10, 16_384, 40_000):
        keys = [f"{i:06}.jpg" for i in range(num_rows)] + ["../a.jpg", "b.txt"]
        pq.write_table(pa.table({"key": keys, "size": [1] * len(keys)}), tmp_path / "m.parquet")
        with pytest.raises(ConfigError, match=f"row {num_rows + 1}: its key is '../a.jpg'"):
            list(source_of(lake, None, "m.parquet").select(None))


def test_a_key_that_is_listed_twice_far_apart_is_found(tmp_path: Path) -> None:
    keys = [f"{i:06}.jpg" for i in range(40_000)]
    keys[39_000] = keys[7]
    table = pa.table({"key": keys, "size": [1] * len(keys), "etag": ["e"] * len(keys)})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match=r"row 39001: the key '000007.jpg' is already in row 8"):
        list(source_of(Lake(str(tmp_path)), None, "m.parquet").select(None))
