"""Small row groups are decoded together, and say what they say one by one."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch.config import LIMITS, Limits
from steel_batch.lake import Lake
from steel_batch.sources import parquet_front
from steel_batch.sources.manifest_rows import read_parquet
from steel_batch.sources.parquet_front import ParquetFront, TooMuchError
from tests.conftest import folder_daily
from tests.sources.made_up_sources import images_of, parquet_of

lake = folder_daily

NUM_ROWS = 300
TEXTS = [None if i % 5 == 0 else f"v{i % 50}" for i in range(NUM_ROWS)]
ONE_EACH = pa.array(range(NUM_ROWS + 1), pa.int32())
COLUMNS = {
    "text": pa.array(TEXTS),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "list": pa.array([[text] if text else None for text in TEXTS]),
    "list of dictionaries": pa.ListArray.from_arrays(ONE_EACH, pa.array(TEXTS).dictionary_encode()),
    "struct of dictionaries": pa.StructArray.from_arrays(
        [pa.array(TEXTS).dictionary_encode(), pa.array(range(NUM_ROWS))], ["a", "b"]
    ),
    "map of dictionaries": pa.MapArray.from_arrays(
        ONE_EACH, pa.array(["k"] * NUM_ROWS), pa.array(TEXTS).dictionary_encode()
    ),
    "nothing": pa.nulls(NUM_ROWS),
}
"""Arrow reads a dictionary inside another type of one row group only."""


def front_of(data: bytes, limits: Limits = LIMITS) -> ParquetFront:
    return ParquetFront(io.BytesIO(data), len(data), limits)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_row_groups_hold_the_same_together_and_one_by_one(values: pa.Array, size: int) -> None:
    data = parquet_of({"a": values, "b": list(range(NUM_ROWS))}, row_group_size=size)
    columns = ["a", "b"]
    with front_of(data) as front:
        one_by_one = [
            row
            for group in range(len(front.num_rows))
            for batch in front.open_group(group, columns)[1]
            for row in batch.to_pylist()
        ]
    with front_of(data) as front:
        together = list(front.batches(columns))
    assert [row for batch in together for row in batch.to_pylist()] == one_by_one
    assert [row["a"] for row in one_by_one] == values.to_pylist()
    pa.concat_batches(together)


def test_arrow_is_asked_once_for_many_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    before = pq.ParquetFile.iter_batches

    def counted(file: pq.ParquetFile, *args: object, row_groups: list[int], **kw: object) -> object:
        asked.append(row_groups)
        return before(file, *args, row_groups=row_groups, **kw)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    data = parquet_of({"a": list(range(100))}, row_group_size=2)
    list(front_of(data).batches(["a"]))
    assert asked == [list(range(50))]
    asked.clear()
    monkeypatch.setattr(parquet_front, "BATCH_ROWS", 20)
    list(front_of(data).batches(["a"]))
    assert asked == [list(range(start, start + 10)) for start in range(0, 50, 10)]
    asked.clear()
    monkeypatch.setattr(parquet_front, "FREE_BYTES", 1)
    list(front_of(data).batches(["a"]))
    assert asked == [[group] for group in range(50)], "large ones are decoded one by one"


def test_limits_hold_for_each_of_many_row_groups() -> None:
    rows = ["x"] * 100 + ["y" * 5000] + ["x"] * 100
    data = parquet_of({"a": rows}, row_group_size=10, use_dictionary=False)
    most = Limits(column_bytes=4000)
    with pytest.raises(TooMuchError, match="limit column-bytes"):
        list(front_of(data, most).batches(["a"]))


def written_in_parts(name: str, num_parts: int, num_rows: int) -> bytes:
    """As a program writes that encodes each batch by itself: with indices of eight bits."""
    parts = [
        pa.record_batch(
            {
                name: pa.array([f"{part}-{i}" for i in range(num_rows)])
                .dictionary_encode()
                .cast(pa.dictionary(pa.int8(), pa.string())),
                "image": [b"x"] * num_rows,
            }
        )
        for part in range(num_parts)
    ]
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, parts[0].schema) as writer:
        for part in parts:
            writer.write_batch(part)
    return sink.getvalue()


def test_small_dictionaries_hold_more_together_than_one_has_indices_for(lake: Lake) -> None:
    lake.write("p.parquet", written_in_parts("image_id", 5, 100))
    found = images_of(lake, "*.parquet").values()
    expected = {f"{part}-{i}" for part in range(5) for i in range(100)}
    assert {ref.image_id for ref in found} == expected


def test_a_manifest_of_small_dictionaries_is_read(lake: Lake) -> None:
    lake.write("m.parquet", written_in_parts("key", 5, 100))
    blocks = list(read_parquet(lake, "m.parquet"))
    assert sum(block.num_rows for block in blocks) == 500
