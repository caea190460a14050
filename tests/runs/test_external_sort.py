"""Rows are sorted the same, whether they fit in memory or are merged from parts on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.runs.external_sort import ExternalSort
from tests.conftest import examples
from tests.full_disk import error_of_a_full_disk

FIELDS = pa.schema([("line", pa.string()), ("key", pa.string()), ("n", pa.int64())])
TEXT = st.text(st.sampled_from("aAzé\x00\U0001f600"), max_size=4)
ROWS = st.lists(st.tuples(st.none() | TEXT, TEXT), max_size=60)


def bytes_of(row: tuple[str | None, str]) -> tuple[bool, bytes, bytes]:
    line, key = row
    return line is not None, (line or "").encode(), key.encode()


def sorted_rows(
    batches: list[list[tuple[str | None, str]]], **sizes: int
) -> list[tuple[str | None, str, int]]:
    n = 0
    with ExternalSort(FIELDS, ("line", "key"), **sizes) as sort:
        for rows in batches:
            numbers = range(n, n := n + len(rows))
            columns = [[line for line, _ in rows], [key for _, key in rows], list(numbers)]
            sort.add(
                pa.RecordBatch.from_pydict(dict(zip(FIELDS.names, columns, strict=True)), FIELDS)
            )
        assert sort.num_rows == n
        found = [row for batch in sort.rows() for row in batch.to_pylist()]
    return [(row["line"], row["key"], row["n"]) for row in found]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(ROWS, max_size=12), st.integers(1, 2000), st.integers(1, 400), st.integers(2, 5))
def test_any_rows_in_any_parts_and_blocks_come_out_in_the_order_of_their_bytes(
    batches: list[list[tuple[str | None, str]]], part_bytes: int, block_bytes: int, most_parts: int
) -> None:
    found = sorted_rows(
        batches, part_bytes=part_bytes, block_bytes=block_bytes, most_parts=most_parts
    )
    rows = [row for batch in batches for row in batch]
    assert [(line, key) for line, key, _ in found] == sorted(rows, key=bytes_of)
    assert sorted((n, line, key) for line, key, n in found) == [
        (n, line, key) for n, (line, key) in enumerate(rows)
    ]


def shuffled(num_rows: int) -> list[pa.RecordBatch]:
    numbers = np.random.default_rng(1).permutation(num_rows)
    keys = pa.array([f"line={n % 7}/date=2026-11-21/{n:012}.jpg" for n in numbers.tolist()])
    table = pa.table({"line": pa.nulls(num_rows, pa.string()), "key": keys, "n": numbers})
    return list(table.to_batches(max_chunksize=1000))


@pytest.mark.parametrize("num_parts", [8, 64])
def test_bytes_on_disk_for_each_row_do_not_rise_with_the_rows(
    num_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    num_rows, most = num_parts * 1000, 0
    with ExternalSort(FIELDS, ("line", "key"), part_bytes=40_000, block_bytes=4000) as sort:
        for batch in shuffled(num_rows):
            sort.add(batch)
        for batch in sort.rows():
            assert batch.num_rows
            most = max(most, *(file.stat().st_size for file in tmp_path.glob("*/*")))
    assert 5 * num_rows < most < 20 * num_rows, most / num_rows
    assert list(tmp_path.iterdir()) == []


_FILL = """
import pyarrow as pa
from steel_batch.runs.external_sort import ExternalSort

rows = pa.record_batch({"key": [str(hash((i, "x"))) for i in range(100_000)]})
with ExternalSort(rows.schema, ("key",), part_bytes=1 << 20) as sort:
    while True:
        sort.add(rows)
"""


def test_a_full_disk_of_temporary_files_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    said = error_of_a_full_disk(_FILL, tmp_path)
    assert said.startswith(f"the folder of temporary files, {tmp_path}: File too large.")
