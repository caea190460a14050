"""Values of a Parquet column as views of the file: equal to Arrow's, or left to Arrow."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.config import LIMITS
from steel_batch.pack.writers import ParquetWriter
from steel_batch.sources.image_column import image_values
from steel_batch.sources.page_headers import DATA_PAGE, PageHeader
from steel_batch.sources.parquet_front import BATCH_ROWS, ParquetFront
from steel_batch.sources.plain_values import PLAIN, plain_values

IMAGES = [bytes([i]) * (1000 + i) for i in range(100)]


def file_of(values: Sequence[bytes | None], *, nullable: bool = True, **options: Any) -> bytes:
    fields = [pa.field("n", pa.int64()), pa.field("image", pa.binary(), nullable=nullable)]
    table = pa.table([range(len(values)), values], schema=pa.schema(fields))
    stream = io.BytesIO()
    plain: dict[str, Any] = {"use_dictionary": False, "compression": "none"}
    pq.write_table(table, stream, **(plain | options))
    return stream.getvalue()


def read(data: bytes) -> list[tuple[list[bytes] | None, list[bytes | None]]]:
    """Per row group, what is found without Arrow, and with it."""
    found = []
    with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
        for group in range(len(front.num_rows)):
            _, batches = front.open_group(group, ["image"])
            views = front.stored_values(group, "image")
            values = [value for batch in batches for value in image_values(batch.column(0))]
            expected = [bytes(v) if isinstance(v, memoryview) else None for v in values]
            found.append((None if views is None else [bytes(view) for view in views], expected))
    return found


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"row_group_size": 30}, {"data_page_size": 3000, "write_batch_size": 8}],
    ids=["one page", "row groups", "pages"],
)
def test_plain_values_are_found_without_arrow(nullable: bool, options: dict[str, Any]) -> None:
    for views, expected in read(file_of(IMAGES, nullable=nullable, **options)):
        assert views == expected


def test_what_pack_writes_is_read_as_views_of_the_file() -> None:
    stream = io.BytesIO()
    writer = ParquetWriter(stream, left_out=frozenset({"line", "date"}))
    for i, image in enumerate(IMAGES):
        writer.add({"image_key": f"{i}", "image_id": f"{i}", "tags": []}, image)
    writer.close()
    ((views, expected),) = read(stream.getvalue())
    assert views == expected == IMAGES
    with ParquetFront(io.BytesIO(stream.getvalue()), stream.tell(), LIMITS) as front:
        front.open_group(0, ["image"])
        values = front.stored_values(0, "image")
        assert values is not None
        assert len({id(value.obj) for value in values}) == 1


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (IMAGES, {"compression": "snappy"}),
        (IMAGES, {"use_dictionary": True}),
        (IMAGES, {"data_page_version": "2.0"}),
        (IMAGES, {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}),
        ([*IMAGES, None], {}),
        ([None] * 20, {}),
    ],
    ids=["compressed", "dictionary", "v2", "delta", "a null", "nulls"],
)
def test_other_forms_are_left_to_arrow(values: list[bytes | None], options: dict[str, Any]) -> None:
    assert read(file_of(values, **options)) == [(None, values)]


@given(
    values=st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=60),
    nullable=st.booleans(),
    dictionary=st.booleans(),
    rows=st.integers(1, 70),
)
def test_what_is_found_equals_what_arrow_finds(
    values: list[bytes | None], nullable: bool, dictionary: bool, rows: int
) -> None:
    if not nullable:
        values = [value or b"" for value in values]
    data = file_of(values, nullable=nullable, use_dictionary=dictionary, row_group_size=rows)
    for views, expected in read(data):
        assert views is None or views == expected


def test_a_damaged_page_is_left_to_arrow() -> None:
    """A length that is wrong never moves a value beyond its page, or makes one more or less."""
    data = file_of(IMAGES, nullable=False)
    begin = data.index(struct.pack("<I", 1000) + IMAGES[0])
    rng = random.Random(1)
    for _ in range(200):
        place = begin + rng.randrange(4)
        damaged = bytearray(data)
        damaged[place] ^= rng.randrange(1, 256)
        with ParquetFront(io.BytesIO(bytes(damaged)), len(data), LIMITS) as front:
            front.open_group(0, ["image"])
            views = front.stored_values(0, "image")
            assert views is None or (len(views) == 100 and sum(map(len, views)) == 104_950)


def test_many_rows_are_left_to_arrow_which_reads_them_in_batches() -> None:
    """A view is larger than an empty value: views of all would take gigabytes."""
    data = file_of([b""] * (BATCH_ROWS + 1), nullable=False)
    with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
        front.open_group(0, ["image"])
        assert front.stored_values(0, "image") is None


def test_a_page_with_more_than_its_header_states_is_not_parsed_to_its_end() -> None:
    chunk = memoryview(bytes(4 << 20))  # a million empty values
    header = PageHeader(DATA_PAGE, 0, len(chunk), len(chunk), num_values=1, encoding=PLAIN)
    assert plain_values(chunk, [header], 1, is_nullable=False) is None
    whole = PageHeader(DATA_PAGE, 0, 4, 4, num_values=1, encoding=PLAIN)
    assert plain_values(chunk, [whole], 1, is_nullable=False) == [memoryview(b"")]
    assert plain_values(chunk, [whole, whole], 1, is_nullable=False) is None


@pytest.mark.parametrize("change", ["swapped", "one more"])
def test_leaves_that_are_not_those_of_the_schema_are_left_to_arrow(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Arrow finds a column by its place, and a hostile footer may name another one there."""
    data = file_of(IMAGES, nullable=False)
    with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
        front.open_group(0, ["image"])
        assert front.stored_values(0, "image") == [memoryview(image) for image in IMAGES]
        (leaves,) = front._leaves
        changed = leaves[::-1] if change == "swapped" else [*leaves, leaves[-1]]
        monkeypatch.setattr(front, "_leaves", [changed])
        assert front.stored_values(0, "image") is None
