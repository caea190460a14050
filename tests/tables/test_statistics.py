"""Statistics in a log are exact and cover every column, or there are none."""

from __future__ import annotations

import datetime
import io
import json
import math
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from steel_batch.tables.statistics import (
    MAX_TEXT_BYTES,
    columns_with_nan,
    cover,
    file_statistics,
    rows_only,
)

FIELDS = pa.schema(
    [
        ("i", pa.int8()),
        ("n", pa.int64()),
        ("b", pa.bool_()),
        ("f", pa.float64()),
        ("h", pa.float32()),
        ("s", pa.string()),
        ("t", pa.timestamp("us", tz="UTC")),
        ("d", pa.date32()),
        ("l", pa.list_(pa.struct([("x", pa.int32())]))),
        ("m", pa.map_(pa.string(), pa.string())),
    ]
)
INSTANTS = st.datetimes(
    datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1),
    timezones=st.just(datetime.timezone.utc),
)  # fmt: skip
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-128, 127),
    "n": st.integers(-(2**63), 2**63 - 1),
    "b": st.booleans(),
    "f": st.floats(allow_nan=False, allow_infinity=False),
    "h": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "s": st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    "t": INSTANTS,
    "d": st.dates(),
    "l": st.just([{"x": 1}]),
    "m": st.just([("k", "v")]),
}
ROW = st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()})


def written(rows: list[dict[str, Any]], *, group: int = 3) -> tuple[pa.Table, pq.FileMetaData]:
    table = pa.Table.from_pylist(rows, schema=FIELDS)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    return table, pq.read_metadata(sink)


def statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    table, footer = written(rows)
    return file_statistics(footer, FIELDS, with_nan=columns_with_nan(table))


def from_json(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_timestamp(kind):
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return datetime.date.fromisoformat(value) if pa.types.is_date(kind) else value


@hypothesis.given(rows=st.lists(ROW, min_size=1, max_size=8))
def test_bounds_are_the_least_and_greatest_values_and_nulls_are_counted(
    rows: list[dict[str, Any]],
) -> None:
    found = json.loads(json.dumps(statistics(rows)))
    assert found["numRecords"] == len(rows)
    for field in FIELDS:
        if pa.types.is_nested(field.type):
            assert field.name not in found["nullCount"]
            continue
        values = [row[field.name] for row in rows if row[field.name] is not None]
        assert found["nullCount"][field.name] == len(rows) - len(values)
        if values:
            assert from_json(found["minValues"][field.name], field.type) == min(values)
            assert from_json(found["maxValues"][field.name], field.type) == max(values)
        else:
            assert field.name not in {**found["minValues"], **found["maxValues"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("f", math.nan),
        ("f", math.inf),
        ("h", -math.inf),
        ("h", math.nan),
        ("s", "z" * (MAX_TEXT_BYTES + 1)),
        ("s", "Ä" * MAX_TEXT_BYTES),
        ("s", "z" * 5000),
    ],
)
def test_a_value_that_a_log_cannot_bound_leaves_its_file_without_bounds(
    name: str, value: Any
) -> None:
    row = {"i": 1, "n": 1, "f": 1.0, "h": 1.0, "s": "a"}
    assert statistics([row, {**row, name: value}]) == {"numRecords": 2}
    assert "minValues" in statistics([row, row])


def test_a_text_at_the_limit_is_bounded_in_full() -> None:
    longest = "z" * MAX_TEXT_BYTES
    assert statistics([{"s": longest}])["maxValues"]["s"] == longest


def test_a_column_that_a_file_lacks_is_null_in_all_of_its_rows() -> None:
    _, footer = written([{"i": 1}, {"i": 2}])
    later = pa.schema([*FIELDS, pa.field("added", pa.string())])
    assert file_statistics(footer, later)["nullCount"]["added"] == 2


def test_a_struct_leaves_a_file_without_bounds() -> None:
    """deltalake takes bounds for a struct itself, which no log has."""
    _, footer = written([{"i": 1}])
    nested = pa.schema([*FIELDS, pa.field("p", pa.struct([("x", pa.int32())]))])
    assert file_statistics(footer, nested) == {"numRecords": 1}


def test_a_table_with_more_columns_than_a_file_is_covered_too() -> None:
    own = pa.schema([("i", pa.int8()), ("l", pa.list_(pa.int8()))])
    more = pa.schema(
        [*own, pa.field("x", pa.string()), pa.field("y", pa.map_(pa.int8(), pa.int8()))]
    )
    whole = {"numRecords": 2, "minValues": {"i": 1}, "maxValues": {"i": 2}, "nullCount": {"i": 0}}
    assert cover(whole, own, more) == {**whole, "nullCount": {"i": 0, "x": 2}}
    assert cover(whole, own, own) == whole


def test_statistics_of_some_columns_only_are_not_told() -> None:
    """As an earlier build made them of files that this one commits."""
    own = pa.schema([("i", pa.int8()), ("s", pa.string())])
    partial = {"numRecords": 2, "minValues": {"i": 1}, "maxValues": {"i": 2}, "nullCount": {"i": 0}}
    assert cover(partial, own, own) == rows_only(2) == {"numRecords": 2}
    struct = pa.schema([*own, pa.field("p", pa.struct([("x", pa.int8())]))])
    whole = {**partial, "nullCount": {"i": 0, "s": 2}}
    assert cover(whole, own, struct) == {"numRecords": 2}
