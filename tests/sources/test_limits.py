"""What a container, a list or an object may take: more is one sentence or one quarantined image."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, InputError, LargeObjectError
from steel_batch.lake import Lake
from steel_batch.runs.planning import build_plan
from steel_batch.scoring.shard import read_shards
from steel_batch.sources.image_ref import ImageRef
from steel_batch.sources.open import open_source
from tests import hostile
from tests.sources.made_up_sources import tar_of

SMALL = Limits(object_bytes=1000, index_bytes=4000, text_bytes=500, tags=5, line_bytes=2000,
               tar_members=10, tar_header_bytes=4096)  # fmt: skip
Make = Callable[[], bytes]
"""Makes an input when its test runs: every process of the tests would make it at import."""


def images_of(lake: Lake, pattern: str | None, name: str, limits: Limits) -> list[ImageRef]:
    source = open_source(lake.uri(name), pattern, endpoint_url=lake.endpoint_url, limits=limits)
    return list(source.select(None))


def codes_of(lake: Lake, pattern: str | None, tmp_path: Path, limits: Limits, name: str = "") -> (
    dict[str, str | None]
):  # fmt: skip
    """Plan and read everything as one shard: per image the code of what is wrong with it."""
    settings = {"shard_images": 10_000, "shard_bytes": 1 << 30, "rescore_changed": False}
    source = open_source(lake.uri(name), pattern, endpoint_url=lake.endpoint_url, limits=limits)
    build_plan(source.select(None), settings, tmp_path / "plan")
    table = pq.read_table(tmp_path / "plan")
    shards = table["shard"].unique().to_pylist()
    found: dict[str, str | None] = {}
    for shard in read_shards(source.lake, "r", "d", table, shards, limits):
        assert shard.failure is None
        keys = shard.refs["image_key"].to_pylist()
        found |= {key: error and error.code for key, error in zip(keys, shard.errors, strict=True)}
    return found


def most_bytes(work: Callable[[], object]) -> int:
    """The most memory of Python's and of Arrow's that some work takes at a time."""
    work()
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pool.bytes_allocated() <= before + (1 << 20)
    return most


def test_an_object_above_the_limit_costs_itself(lake: Lake, tmp_path: Path) -> None:
    lake.write("a.jpg", bytes(1000))
    lake.write("b.jpg", bytes(1001))
    assert codes_of(lake, None, tmp_path, SMALL) == {"a.jpg": None, "b.jpg": "too_large"}


def test_nothing_of_an_object_above_the_limit_is_read(lake: Lake) -> None:
    lake.write("a.jpg", bytes(1001))
    before = lake.counts().get("bytes_read", 0)
    with pytest.raises(LargeObjectError, match=r"1,001 bytes; at most 1,000"):
        lake.read("a.jpg", max_bytes=1000)
    assert lake.counts().get("bytes_read", 0) == before
    assert lake.read("a.jpg", length=10, max_bytes=1000) == bytes(10)


def test_a_sparse_file_of_100_gigabytes_costs_itself(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("a.jpg", b"image")
    with (tmp_path / "lake" / "b.jpg").open("wb") as file:
        os.truncate(file.fileno(), hostile.SPARSE_BYTES)
    assert codes_of(lake, None, tmp_path, LIMITS) == {"a.jpg": None, "b.jpg": "too_large"}


@pytest.mark.parametrize("name", ["b.tar", "b.tar.idx", "b.parquet", "manifest.json", "b.csv"])
def test_a_sparse_container_or_list_is_one_sentence(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path))
    if name == "b.tar.idx":
        lake.write("b.tar", tar_of([("a.jpg", b"a")]))
    with (tmp_path / name).open("wb") as file:
        os.truncate(file.fileno(), hostile.SPARSE_BYTES)
    kind = "tar" if ".tar" in name else "parquet" if name.endswith(".parquet") else None
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        images_of(lake, kind and f"*.{kind}", "" if kind else name, LIMITS)


def test_a_manifest_that_states_too_small_a_size_costs_the_image(
    lake: Lake, tmp_path: Path
) -> None:
    """Shards are cut by what it states, so a shard would become any size."""
    lake.write("a.jpg", bytes(3 << 20))
    lake.write("b.jpg", bytes(4000))
    root = f"{lake.url.removeprefix('s3://').partition('/')[2]}/" if lake.is_s3 else ""
    etags = {item.key: item.etag for item in lake.list_objects()}
    rows = "".join(f"{root}{key},7,{etags[key]}\n" for key in ("a.jpg", "b.jpg"))
    lake.write("todo.csv", f"key,size,etag\n{rows}".encode())
    found = codes_of(lake, None, tmp_path, LIMITS, "todo.csv")
    assert found == {f"{root}a.jpg": "too_large", f"{root}b.jpg": None}


def test_a_member_above_the_limit_costs_itself(lake: Lake, tmp_path: Path) -> None:
    lake.write("s.tar", tar_of([("a.jpg", bytes(1000)), ("b.jpg", bytes(1001))]))
    found = codes_of(lake, "*.tar", tmp_path, SMALL)
    assert found == {"s.tar#a.jpg": None, "s.tar#b.jpg": "too_large"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (hostile.tar_of_headers, "extended headers without a member|a header of"),
        (hostile.tar_without_progress, "is damaged"),
        (partial(hostile.tar_of_members, 11), r"more than 10 members \(limit tar-members\)"),
        (
            partial(tar_of, [("x" * 5000 + ".jpg", b"a")]),
            r"at most 4,096 are read \(limit tar-header-bytes",
        ),
    ],
    ids=["headers", "no progress", "members", "name"],
)
def test_headers_in_great_number_are_one_sentence(tmp_path: Path, make: Make, said: str) -> None:
    lake = Lake(str(tmp_path))
    lake.write("s.tar", make())
    with pytest.raises(InputError, match=said):
        images_of(lake, "*.tar", "", SMALL)


def test_extended_headers_without_a_member_end_without_a_limit_too(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("s.tar", hostile.tar_of_headers())
    with pytest.raises(InputError, match=r"s\.tar is damaged"):
        images_of(lake, "*.tar", "", Limits(tar_header_bytes=1 << 30))


def test_an_index_above_the_limit_is_one_sentence(lake: Lake) -> None:
    lake.write("s.tar", tar_of([("a.jpg", b"a")]))
    lake.write("s.tar.idx", b" " * 4001)
    with pytest.raises(InputError, match=r"4,001 bytes.*limit index-bytes.*delete it"):
        images_of(lake, "*.tar", "", SMALL)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (hostile.parquet_of_zeros, "too_large"),
        (hostile.parquet_of_one_value, "too_large"),
        (hostile.parquet_of_numbers, "too_large"),
    ],
    ids=["zeros", "one value", "numbers"],
)
def test_a_column_that_becomes_many_times_its_bytes_is_refused(
    tmp_path: Path, make: Make, code: str
) -> None:
    data = make()
    assert len(data) < 100_000
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", data)
    before = pa.default_memory_pool().max_memory()
    found = codes_of(lake, "*.parquet", tmp_path, LIMITS)
    assert code in set(found.values())
    assert pa.default_memory_pool().max_memory() - before < 300 << 20


def test_many_rows_in_few_bytes_are_one_sentence(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", hostile.parquet_of_rows())
    with pytest.raises(InputError, match=r"3,000,000 rows .*rows-per-byte\).*--input-limit"):
        images_of(lake, "*.parquet", "", LIMITS)


def test_a_value_above_the_limit_costs_its_row(lake: Lake, tmp_path: Path) -> None:
    data = hostile.parquet_of({"image": [bytes(1000), bytes(1001), None]})
    lake.write("p.parquet", data)
    assert list(codes_of(lake, "*.parquet", tmp_path, SMALL).values()) == [
        None, "too_large", "empty",
    ]  # fmt: skip


@pytest.mark.quick("folder")
def test_rows_of_equal_images_are_read_however_they_are_stored(lake: Lake, tmp_path: Path) -> None:
    image = os.urandom(900)
    for name, how in (("a", {}), ("b", {"use_dictionary": False}), ("c", {"compression": "zstd"})):
        lake.write(f"{name}.parquet", hostile.parquet_of({"image": [image] * 600}, **how))
    found = codes_of(lake, "*.parquet", tmp_path, LIMITS)
    assert len(found) == 1800
    assert set(found.values()) == {None}


def test_text_and_tags_above_the_limits_are_one_sentence(lake: Lake) -> None:
    tags = pa.array([[(str(i), "v") for i in range(6)]], pa.map_(pa.string(), pa.string()))
    for columns, said in (
        (
            {"image_id": ["x" * 501]},
            r"its column 'image_id' holds 501 bytes, at most 500.*Correct that row",
        ),
        ({"tags": tags}, r"6 tags, at most 5 are read \(limit tags\)"),
        ({"line": pa.array(["y" * 501]).dictionary_encode()}, "holds 501 bytes"),
    ):
        lake.write("p.parquet", hostile.parquet_of({"image": [b"a"], **columns}))
        with pytest.raises(InputError, match=said):
            images_of(lake, "*.parquet", "", SMALL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"key\n" + b"a" * 5000, "a row of more than 2,000 characters"),
        (b"key\n" + b'"a\n",' * 900, "a row of more than 2,000 characters"),
        (b"key\n" + b"a" * 600 + b".jpg\n", "a value of 604 characters, at most 500"),
        (b"key," + b",".join(b"c%d" % i for i in range(20)) + b"\n", "21 columns"),
        (b"a" * 5000, "a row of more than 2,000 characters"),
    ],
    ids=["line", "lines of one row", "value", "tags", "header"],
)
def test_a_manifest_of_long_lines_is_one_sentence(tmp_path: Path, text: bytes, said: str) -> None:
    lake = Lake(str(tmp_path))
    lake.write("todo.csv", text)
    with pytest.raises(InputError, match=said):
        images_of(lake, None, "todo.csv", SMALL)


def inventory(lake: Lake, part: bytes) -> None:
    document = {
        "sourceBucket": "b", "destinationBucket": "arn:aws:s3:::b", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key", "files": [{"key": "part.csv.gz"}],
    }  # fmt: skip
    lake.write("manifest.json", json.dumps(document).encode())
    lake.write("part.csv.gz", part)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: hostile.gzip_bomb([b"x" * (1 << 20)], 64),
            "a row of more than 1,048,576 characters",
        ),
        (
            lambda: hostile.gzip_bomb([b'"b","' + b"k" * 60_000 + b'.txt"\n'], 1_200),
            r"bytes when unpacked \(limit expan",
        ),
        (lambda: hostile.gzip_bomb([b'"b","a.txt"\n'], 2)[:-4], r"damaged \("),
    ],
    ids=["line", "expansion", "cut"],
)
def test_a_compressed_inventory_becomes_no_more_than_it_may(
    tmp_path: Path, make: Make, said: str
) -> None:
    lake = Lake(str(tmp_path))
    inventory(lake, make())
    with pytest.raises(InputError, match=rf"part\.csv\.gz, a part of the inventory.*{said}"):
        images_of(lake, None, "manifest.json", LIMITS)


def test_a_deeply_nested_document_is_one_sentence(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("manifest.json", b"[" * 200_000)
    with pytest.raises(InputError, match="nested too deeply"):
        images_of(lake, None, "manifest.json", LIMITS)


def test_a_refused_line_costs_little_memory(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    inventory(lake, hostile.gzip_bomb([b"x" * (1 << 20)], 256))

    def look() -> None:
        with pytest.raises(InputError):
            images_of(lake, None, "manifest.json", LIMITS)

    assert most_bytes(look) < 32 << 20
