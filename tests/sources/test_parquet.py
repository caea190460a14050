"""Rows of Parquet files with images: how they are described, and what is said of unusable ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import schema
from steel_batch.config import LIMITS
from steel_batch.errors import ConfigError, DecodeError
from steel_batch.lake import Lake
from steel_batch.runs.planning import build_plan
from steel_batch.scoring.shard import ShardInput, read_shards
from steel_batch.sources.fetch import read_images, read_refs
from tests.conftest import DATE, KINDS_OF_LAKE, folder_daily
from tests.sources.made_up_sources import images_of, parquet_of, read, source_of

lake = folder_daily

TAGS = pa.array([[("camera", "1")], [], [("camera", "2")]], schema.TAGS)


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_rows_of_parquet_are_described_by_their_columns(lake: Lake, tmp_path: Path) -> None:
    full = {
        "image": [b"first", b"second", None],
        "image_id": ["a", None, "c"],
        "line": ["1", "2", None],
        "date": ["2026-11-20", DATE, DATE],
        "tags": TAGS,
    }
    lake.write("p/full.parquet", parquet_of(full, row_group_size=2))
    lake.write("p/bare.parquet", parquet_of({"jpeg": [b"third"], "width": [3]}))
    source = source_of(lake, "p/*.parquet")
    assert source.dates() == ["2026-11-20", DATE]
    rows = [
        (ref.image_key, ref.image_id, ref.line, ref.date, ref.tags)
        for ref in sorted(source.select(None), key=lambda ref: ref.image_key)
    ]
    assert rows == [
        ("p/bare.parquet#00000000", "bare-0", None, None, {}),
        ("p/full.parquet#00000000", "a", "1", "2026-11-20", {"camera": "1"}),
        ("p/full.parquet#00000001", "full-1", "2", DATE, {}),
        ("p/full.parquet#00000002", "c", None, DATE, {"camera": "2"}),
    ]
    assert len(list(source.select(DATE))) == 3
    shard, found = read(source, tmp_path)
    assert found == {
        "p/bare.parquet#00000000": b"third",
        "p/full.parquet#00000000": b"first",
        "p/full.parquet#00000001": b"second",
        "p/full.parquet#00000002": "empty",
    }
    sizes = dict(
        zip(shard.refs["image_key"].to_pylist(), shard.refs["bytes"].to_pylist(), strict=True)
    )
    assert sizes["p/full.parquet#00000001"] == len(b"second")


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_file_without_rows_has_no_images(lake: Lake, dictionary: bool) -> None:
    """Whatever Arrow stores for it: a dictionary page, or nothing at all."""
    nothing = {"image": pa.array([], pa.binary()), "date": pa.array([], pa.string())}
    lake.write("p/empty.parquet", parquet_of(nothing, use_dictionary=dictionary))
    lake.write("p/full.parquet", parquet_of({"image": [b"first"], "date": [DATE]}))
    found = [ref.image_key for ref in source_of(lake, "p/*.parquet").select(None)]
    assert found == ["p/full.parquet#00000000"]


@pytest.mark.parametrize("other", ["mask", "bytes", "thumbnail"])
def test_the_column_named_image_is_read_whatever_others_hold(
    lake: Lake, tmp_path: Path, other: str
) -> None:
    numbers = pa.array([list(b"first"), list(b"second")], pa.list_(pa.uint8()))
    lake.write("p.parquet", parquet_of({"image": numbers, other: [b"x", b"y"]}))
    _, found = read(source_of(lake, "*.parquet"), tmp_path)
    assert list(found.values()) == [b"first", b"second"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            parquet_of({"image": ["s3://a/b.jpg"], "mask": [b"a"]}),
            "its column 'image' is string, expected binary",
        ),
        (
            parquet_of({"image": pa.array([[1]], pa.list_(pa.int32())), "mask": [b"a"]}),
            "its column 'image' is list<.*int32>, expected binary",
        ),
        (parquet_of({"image": [b"a"], "Image": [b"b"]}), "2 binary columns named 'image'"),
        (parquet_of({"name": ["a"]}), "0 binary columns"),
        (parquet_of({"x": [b"a"], "y": [b"b"]}), "2 binary columns and none named 'image'"),
        (parquet_of({"image": [b"a"]})[:-20], r"p\.parquet is damaged, or not a Parquet file"),
        (b"", "is damaged, or not a Parquet"),
        (b"PAR1 no parquet PAR1", "is damaged, or not a Parquet"),
        (parquet_of({"image": [b"a"], "date": ["today"]}), "column 'date' holds 'today'"),
        (parquet_of({"image": [b"a"], "date": pa.array([None], pa.string())}), "holds None"),
        (
            parquet_of({"image": [b"a"], "tags": ["x"]}),
            "'tags' is string, expected a map.*or rename",
        ),
    ],
)
def test_a_parquet_file_that_is_unusable_is_an_error(lake: Lake, data: bytes, said: str) -> None:
    lake.write("p.parquet", data)
    with pytest.raises(ConfigError, match=said):
        images_of(lake, "*.parquet")


def test_small_row_groups_are_described_as_large_ones_are(lake: Lake) -> None:
    columns = {
        "image": [b"x" * i for i in range(1, 11)],
        "image_id": pa.array(["a", "b", None, "a", "c"] * 2).dictionary_encode(),
        "line": pa.array([7, None] * 5, pa.float64()),
        "bytes": [str(i) for i in range(1, 10)] + [None],
        "date": [20261120, 20261121] * 5,
    }
    lake.write("line=7/small.parquet", parquet_of(columns, row_group_size=3))
    lake.write("line=7/large.parquet", parquet_of(columns))
    found = sorted(source_of(lake, "line={line}/*.parquet").select(None), key=lambda r: r.image_key)
    large, small = (
        [(r.image_id, r.line, r.date, r.bytes, r.offset) for r in half]
        for half in (found[:10], found[10:])
    )
    assert [row[:4] for row in small[:3]] == [
        ("a", "7", "2026-11-20", 1),
        ("b", "7", DATE, 2),
        ("small-2", "7", "2026-11-20", 3),
    ]
    unnamed = {2, 7}
    assert [r for i, r in enumerate(small[:9]) if i not in unnamed] == [
        r for i, r in enumerate(large[:9]) if i not in unnamed
    ]


def test_a_bad_value_in_a_later_row_group_is_named_by_its_row(lake: Lake) -> None:
    sizes = ["1", "2", "3", "4", "-5", "6"]
    data = parquet_of({"image": [b"a"] * 6, "bytes": sizes}, row_group_size=2)
    lake.write("p.parquet", data)
    with pytest.raises(ConfigError, match=r"p\.parquet#00000004: its column 'bytes' holds '-5'"):
        images_of(lake, "*.parquet")


def test_tags_of_rows_and_of_the_file_are_joined_and_must_agree(lake: Lake) -> None:
    lake.write("shift=early/p.parquet", parquet_of({"image": [b"a"] * 3, "tags": TAGS}))
    found = [ref.tags for ref in source_of(lake, "shift={shift}/*.parquet").select(None)]
    assert found == [
        {"shift": "early", "camera": "1"},
        {"shift": "early"},
        {"shift": "early", "camera": "2"},
    ]
    lake.write("camera=1/p.parquet", parquet_of({"image": [b"a"] * 3, "tags": TAGS}))
    with pytest.raises(ConfigError, match="has the camera '2', but its container's key states '1'"):
        images_of(lake, "camera={camera}/*.parquet")


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_parquet_that_changes_after_planning_costs_its_images(lake: Lake, tmp_path: Path) -> None:
    whole = parquet_of({"image": [b"a" * 999, b"b" * 999]}, compression="zstd", row_group_size=1)
    lake.write("p.parquet", whole)
    source = source_of(lake, "*.parquet")
    settings = {"shard_images": 9, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source.select(None), settings, tmp_path / "plan")
    refs = pq.read_table(tmp_path / "plan")
    replaced = {
        "changed": parquet_of({"image": [b"c", b"d"]}),
        "damaged_container": b"PAR1 no parquet PAR1",
        "no_image_column": parquet_of({"name": ["a"]}),
    }
    for code, data in replaced.items():
        lake.write("p.parquet", data)
        (shard,) = read_shards(source.lake, "r", "d", refs, [0])
        assert [e and e.code for e in shard.errors] == [code, code]
    lake.delete(["p.parquet"])
    (shard,) = read_shards(source.lake, "r", "d", refs, [0])
    assert [e and e.code for e in shard.errors] == ["missing", "missing"]


@pytest.mark.parametrize(
    ("num_wanted", "is_copied"), [(1, True), (3, True), (4, False), (8, False)]
)
def test_few_rows_of_a_group_do_not_keep_the_rest_of_it_in_memory(
    lake: Lake, tmp_path: Path, num_wanted: int, is_copied: bool
) -> None:
    contents = [bytes([row]) * 1000 for row in range(8)]
    lake.write("p.parquet", parquet_of({"image": contents}))
    refs = refs_of(lake, tmp_path).slice(0, num_wanted)
    _, found = read_refs(lake, refs)
    assert found == contents[:num_wanted]
    assert [isinstance(image, bytes) for image in found] == [is_copied] * num_wanted
    assert all(isinstance(image, bytes) for image in read_images(lake, refs))
    (shard,) = read_shards(lake, "r", "d", refs, [0])
    assert ShardInput.from_wire(shard.to_wire()).contents == contents[:num_wanted]


def test_a_dictionary_of_images_is_not_kept_once_for_each_batch(lake: Lake, tmp_path: Path) -> None:
    contents = [bytes([row]) * 40_000 for row in range(200)]
    lake.write("p.parquet", parquet_of({"image": pa.array(contents).dictionary_encode()}))
    refs = refs_of(lake, tmp_path)
    before = pa.total_allocated_bytes()
    _, found = read_refs(lake, refs)
    assert found == contents
    assert pa.total_allocated_bytes() - before < 3 * sum(map(len, contents))


def test_images_that_are_refused_do_not_stay_in_memory(lake: Lake, tmp_path: Path) -> None:
    contents = [bytes(1000), bytes(1 << 20), bytes(1000)]
    lake.write("p.parquet", parquet_of({"image": contents}, use_dictionary=False))
    limits = dataclasses.replace(LIMITS, object_bytes=1 << 16)
    _, found = read_refs(lake, refs_of(lake, tmp_path), limits)
    assert [type(image) for image in found] == [bytes, DecodeError, bytes]


def refs_of(lake: Lake, tmp_path: Path) -> pa.Table:
    """The rows of the lake's only Parquet file, in their order."""
    settings = {"shard_images": 999, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source_of(lake, "*.parquet").select(None), settings, tmp_path / "plan")
    return pq.read_table(tmp_path / "plan").sort_by("offset")
