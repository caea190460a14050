"""Rows with equal keys are read together, and each row once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.database import scratch_database
from steel_batch.runs.partitions import Partitions
from tests.conftest import examples

LEFT = pa.schema([("key", pa.string()), ("n", pa.int64())])
RIGHT = pa.schema([("other", pa.float64()), ("name", pa.string())])
TABLES = {"left": (LEFT, "key"), "right": (RIGHT, "name")}
KEYS = st.lists(st.none() | st.text(st.sampled_from("aAzé\x00\U0001f600"), max_size=3), max_size=40)


@settings(max_examples=examples(60), deadline=None)
@given(
    lefts=st.lists(KEYS, max_size=6), rights=st.lists(KEYS, max_size=6),
    part_bytes=st.integers(1, 900), group_bytes=st.integers(1, 2000),
)  # fmt: skip
def test_each_key_is_in_one_group_with_all_its_rows(
    lefts: list[list[str | None]], rights: list[list[str | None]], part_bytes: int, group_bytes: int
) -> None:
    sizes = {"part_bytes": part_bytes, "group_bytes": group_bytes}
    with scratch_database() as con, Partitions(con, TABLES, **sizes) as partitions:
        for keys in lefts:
            columns = [pa.array(keys, pa.string()), pa.array(range(len(keys)), pa.int64())]
            partitions.add("left", pa.RecordBatch.from_arrays(columns, schema=LEFT))
        for _ in range(2):  # they can be read again, also after more rows came
            groups = list(partitions.groups())
            assert sorted(str(k) for g in groups for k in g["left"]["key"].to_pylist()) == sorted(
                str(key) for keys in lefts for key in keys
            )
        for keys in rights:
            columns = [pa.nulls(len(keys), pa.float64()), pa.array(keys, pa.string())]
            partitions.add("right", pa.RecordBatch.from_arrays(columns, schema=RIGHT))
        groups = list(partitions.groups())
    assert sorted(str(k) for g in groups for k in g["right"]["name"].to_pylist()) == sorted(
        str(key) for keys in rights for key in keys
    )
    seen = [{*g["left"]["key"].to_pylist(), *g["right"]["name"].to_pylist()} for g in groups]
    assert sum(map(len, seen)) == len(set().union(*seen))


def batch_of(keys: pa.Array) -> pa.RecordBatch:
    columns = [keys, pa.array(np.arange(len(keys)))]
    return pa.RecordBatch.from_arrays(columns, schema=LEFT)


@pytest.mark.parametrize("num_parts", [2, 64])
def test_what_is_read_at_once_does_not_grow_with_the_rows(
    num_parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket of 64 parts has seven times as much as a group."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rng = np.random.default_rng(1)
    with (
        scratch_database() as con,
        Partitions(con, TABLES, part_bytes=50_000, group_bytes=60_000, num_buckets=8) as partitions,
    ):
        for _ in range(num_parts):
            keys = pa.array(rng.integers(1 << 61, 1 << 62, 2000)).cast(pa.string())
            partitions.add("left", batch_of(keys))
        num_bytes = sum(file.stat().st_size for file in tmp_path.glob("*/rows"))
        sizes, most_on_disk, num_rows = [], 0, 0
        for group in partitions.groups():
            sizes.append(group["left"].nbytes)
            num_rows += group["left"].num_rows
            on_disk = sum(file.stat().st_size for file in tmp_path.glob("*/rows"))
            most_on_disk = max(most_on_disk, on_disk)
    assert num_rows == num_parts * 2000
    assert max(sizes) < 60_000
    assert num_bytes < 80 * num_rows
    assert most_on_disk < 1.2 * num_bytes
    assert list(tmp_path.iterdir()) == []


def test_rows_with_the_same_key_are_read_at_once_however_many() -> None:
    """And the others, which are in one bucket with them, are not written again and again."""
    with (
        scratch_database() as con,
        Partitions(con, TABLES, part_bytes=50_000, group_bytes=60_000, num_buckets=8) as partitions,
    ):
        for start in range(0, 40_000, 2000):
            keys = pa.array(np.arange(start, start + 2000)).cast(pa.string())
            same = pa.array(["same"] * 2000)
            partitions.add("left", batch_of(pa.concat_arrays([keys, same])))
        groups = [group["left"]["key"].to_pylist() for group in partitions.groups()]
    assert sorted(group.count("same") for group in groups)[-2:] == [0, 40_000]
    assert sum(map(len, groups)) == 80_000
