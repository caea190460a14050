"""Packing: deterministic, whole, continued, and readable as what was packed."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from steel_batch.cli.pack import pack as pack_command
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.pack.packer import PackedShard
from steel_batch.pack.packing import PackConfig, PackResult, pack
from steel_batch.pack.shards import IMAGE_FIELDS
from steel_batch.runs.in_order import BATCH_ROWS
from steel_batch.sources.fetch import read_images
from steel_batch.sources.image_ref import ImageRef, ref_batches
from steel_batch.sources.open import open_source

PATTERN = "site={site}/line={line}/date={date}/{image_id}.jpg"
NUM_IMAGES = 40


def content(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest() * (i % 50)


@pytest.fixture
def images(lake: Lake) -> Lake:
    place = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    for i in range(NUM_IMAGES):
        date = ("2026-11-20", "2026-11-21")[i % 2]
        place.write(f"site=ä/line={i % 4 // 2}/date={date}/im{i:03d}.jpg", content(i))
    place.write("site=ä/readme.txt", b"no image")
    return place


@pytest.fixture
def out(lake: Lake) -> Lake:
    return Lake(f"{lake.url}/packed", endpoint_url=lake.endpoint_url)


def config(images: Lake, out: Lake, **changes: object) -> PackConfig:
    settings = {
        "images": images.url, "key_pattern": PATTERN, "out": out.url, "shard_bytes": 6000,
        "endpoint_url": images.endpoint_url or out.endpoint_url,
    }  # fmt: skip
    return PackConfig(**(settings | changes))  # type: ignore[arg-type]


def run(settings: PackConfig) -> PackResult:
    return pack(settings, lambda _: None)


def everything(lake: Lake) -> dict[str, bytes]:
    return {item.key: lake.read(item.key) for item in lake.list_objects()}


def read_all(lake: Lake, refs: list[ImageRef]) -> dict[str, bytes]:
    assert len(refs) <= BATCH_ROWS
    (batch,) = ref_batches(refs, IMAGE_FIELDS)
    read = read_images(lake, batch)
    return {ref.image_id: data for ref, data in zip(refs, read, strict=True)}  # type: ignore[misc]


@pytest.mark.quick("folder-tar", "folder-parquet", "s3-tar")
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_what_was_packed_is_read_as_it_was_loose(images: Lake, out: Lake, suffix: str) -> None:
    result = run(config(images, out, format=suffix))
    assert (result.num_images, result.num_kept) == (NUM_IMAGES, 0)
    assert result.num_shards > 4
    source = open_source(out.url, result.key_pattern, endpoint_url=out.endpoint_url)
    assert source.dates() == ["2026-11-20", "2026-11-21"]
    found = [ref for date in source.dates() for ref in source.select(date)]
    loose = open_source(images.url, PATTERN, endpoint_url=images.endpoint_url).select(None)

    def described(refs: Iterator[ImageRef] | list[ImageRef]) -> list[tuple[object, ...]]:
        return sorted((r.image_id, r.line, r.date, r.tags["site"], r.bytes) for r in refs)

    assert described(found) == described(iter(loose))
    assert read_all(out, found) == {f"im{i:03d}": content(i) for i in range(NUM_IMAGES)}


@pytest.mark.quick("folder-tar", "folder-parquet")
@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_the_same_images_give_the_same_bytes(images: Lake, out: Lake, suffix: str) -> None:
    run(config(images, out, format=suffix))
    other = Lake(f"{out.url}-again", endpoint_url=out.endpoint_url)
    run(config(images, other, format=suffix, num_threads=1))
    assert everything(out) == everything(other)


@pytest.mark.quick("folder")
def test_tars_are_no_larger_than_stated_and_open_anywhere(images: Lake, out: Lake) -> None:
    result = run(config(images, out))
    sizes = {i.key: i.size_bytes for i in out.list_objects() if i.key.endswith(".tar")}
    assert max(sizes.values()) <= 6000
    assert sum(sizes.values()) == result.bytes
    names = []
    for key in sizes:
        with tarfile.open(fileobj=io.BytesIO(out.read(key))) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                assert stream.read() == content(int(member.name[-7:-4]))
                names.append(member.name)
            assert member.mtime == member.uid == 0
    assert len(names) == NUM_IMAGES


@pytest.mark.quick("folder")
def test_a_parquet_shard_is_read_by_row_groups(images: Lake, out: Lake, tmp_path: Path) -> None:
    big = Lake(str(tmp_path / "big"))
    for i in range(5):
        big.write(f"{i}.jpg", bytes([i]) * (3 << 20))
    result = run(config(big, out, key_pattern=None, format="parquet", shard_bytes=1 << 30))
    assert (result.num_shards, result.key_pattern) == (1, "*.parquet")
    with out.open_input("shard-00000.parquet") as stream:
        file = pq.ParquetFile(stream)
        assert file.num_row_groups == 3
        assert file.schema_arrow.names == ["key", "image_id", "tags", "bytes", "image"]


@pytest.mark.quick("folder")
def test_the_index_says_what_a_shard_holds(images: Lake, out: Lake) -> None:
    run(config(images, out))
    key = "line=0/date=2026-11-20/shard-00000.tar"
    head, *entries = map(json.loads, out.read(f"{key}.idx").decode().splitlines())
    data = out.read(key)
    assert head["bytes"] == len(data)
    assert head["num_images"] == len(entries)
    for name, offset, size, digest in entries:
        image = data[offset : offset + size]
        assert image == content(int(name[-7:-4]))
        assert hashlib.sha256(image).hexdigest() == digest


@pytest.mark.quick("folder")
def test_a_packing_that_was_stopped_is_continued(images: Lake, out: Lake) -> None:
    done: list[str] = []

    def stop(shard: PackedShard) -> None:
        done.append(shard.key)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(config(images, out, num_threads=1), stop)
    assert all(out.stat(key) is not None for key in done)
    before = {key: out.stat(key) for key in done}
    result = run(config(images, out))
    assert result.num_kept >= 2
    assert {key: out.stat(key) for key in done} == before
    assert run(config(images, out)).num_kept == result.num_shards


@pytest.mark.quick("folder-index", "folder-shard", "folder-tail", "s3-tail")
@pytest.mark.parametrize("damage", ["index", "shard", "tail"])
def test_a_shard_that_is_not_what_its_index_says_is_packed_again(
    images: Lake, out: Lake, damage: str
) -> None:
    result = run(config(images, out))
    whole = everything(out)
    key = "line=1/date=2026-11-21/shard-00000.tar"
    if damage == "index":
        out.delete([f"{key}.idx"])
    elif damage == "shard":
        out.write(key, whole[key][:-512])
    else:
        out.write(key, whole[key][:-1] + b"x")
    assert run(config(images, out)).num_kept == result.num_shards - 1
    assert everything(out) == whole


@pytest.mark.quick("folder")
def test_late_images_change_only_what_must_change(images: Lake, out: Lake) -> None:
    first = run(config(images, out))
    images.write("site=ä/line=1/date=2026-11-21/zz.jpg", b"late")
    again = run(config(images, out))
    assert again.num_images == NUM_IMAGES + 1
    assert again.num_kept >= first.num_shards - 1


@pytest.mark.quick("folder")
def test_shards_that_would_count_images_twice_are_reported(images: Lake, out: Lake) -> None:
    run(config(images, out))
    with pytest.raises(
        ConfigError, match=r"shards in .* are from an earlier packing.*delete the sh"
    ):
        run(config(images, out, shard_bytes=1 << 20))


def test_an_image_that_was_replaced_since_it_was_listed_stops_the_packing(tmp_path: Path) -> None:
    images, out = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "out"))
    rows = ["key,size,etag"]
    for name in "abcdef":
        images.write(f"{name}.jpg", bytes(900))
        item = images.stat(f"{name}.jpg")
        assert item is not None
        rows.append(f"{item.key},{item.size_bytes},{item.etag}")
    images.write("list.csv", "\n".join(rows).encode())
    images.write("f.jpg", bytes(901))
    listed = Lake(f"{images.url}/list.csv")
    with pytest.raises(LakeError, match=r"f\.jpg was replaced"):
        run(config(listed, out, key_pattern=None, shard_bytes=5000, num_threads=1))
    made = [f"shard-{n:05d}.tar{suffix}" for n in range(2) for suffix in ("", ".idx")]
    assert sorted(everything(out)) == made


def test_a_manifest_with_a_wrong_size_stops_the_packing(tmp_path: Path) -> None:
    images, out = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "out"))
    images.write("a.jpg", b"12345")
    etag = images.stat("a.jpg")
    assert etag is not None
    images.write("list.csv", f"key,size,etag\na.jpg,4,{etag.etag}\n".encode())
    listed = Lake(f"{images.url}/list.csv")
    with pytest.raises(LakeError, match=r"read 5 bytes of a\.jpg, but 4 were listed"):
        run(config(listed, out, key_pattern=None))
    assert [item.key for item in out.list_objects()] == []


def test_tags_that_a_tar_cannot_keep_are_refused(tmp_path: Path) -> None:
    images, out = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "out"))
    images.write("a.jpg", b"12345")
    images.write("list.csv", b"key,camera\na.jpg,7\n")
    listed = Lake(f"{images.url}/list.csv")
    with pytest.raises(ConfigError, match="use --format parquet"):
        run(config(listed, out, key_pattern=None))
    result = run(config(listed, out, key_pattern=None, format="parquet"))
    (ref,) = open_source(out.url, result.key_pattern).select(None)
    assert (ref.image_id, ref.tags, ref.bytes) == ("a", {"camera": "7"}, 5)


@pytest.mark.quick("folder")
def test_tars_can_be_packed_into_parquet(images: Lake, out: Lake) -> None:
    result = run(config(images, out))
    other = Lake(f"{out.url}-parquet", endpoint_url=out.endpoint_url)
    again = run(config(out, other, key_pattern=result.key_pattern, format="parquet"))
    assert again.num_images == NUM_IMAGES
    source = open_source(other.url, again.key_pattern, endpoint_url=out.endpoint_url)
    found = list(source.select(None))
    assert read_all(other, found) == {f"im{i:03d}": content(i) for i in range(NUM_IMAGES)}


@pytest.mark.quick("folder")
def test_settings_that_cannot_be_are_refused(images: Lake, out: Lake) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": "zip"}, "tar or parquet"),
        ({"shard_bytes": 5}, "--shard-bytes"),
        ({"num_threads": 0}, "--threads"),
        ({"date": "today"}, "not YYYY-MM-DD"),
    ]
    for changes, said in cases:
        with pytest.raises(ConfigError, match=said):
            config(images, out, **changes)
    with pytest.raises(ConfigError, match="found for example"):
        run(config(images, out, key_pattern="{image_id}.tif"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("line={line}/date={date}/{image_id}.JPG", "line={line}/date={date}/*.tar"),
        ("*/line={line}/{year}/{month}/{day}/{image_id}.jpg", "line={line}/date={date}/*.tar"),
        ("{image_id}.jpg", "*.tar"),
        (None, "*.tar"),
        ("{site}/line={line}/{image_id}.jpg",
         "line={line}/*.tar#{site}/line={line}/{image_id}.jpg"),
        ("line={line}/{image_id}-top.jpg", "line={line}/*.tar#line={line}/{image_id}-top.jpg"),
        ("line={line}/{image_id}/top.jpg", "line={line}/*.tar#line={line}/{image_id}/top.jpg"),
        ("line={line}/{image_id}/.jpg", "line={line}/*.tar#line={line}/{image_id}/.jpg"),
        ("line={line}/{image_id}.raw", "line={line}/*.tar#line={line}/{image_id}.raw"),
    ],
)  # fmt: skip
def test_the_pattern_of_the_shards_is_the_shortest_that_reads_the_same_images(
    tmp_path: Path, pattern: str | None, expected: str
) -> None:
    images, out = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "out"))
    for i in range(3):
        key = (pattern or "{image_id}.png").replace("*", "x").format(
            image_id=f"a{i}.b", line=i, site="n", date=f"2026-11-2{i}",
            year=2026, month=11, day=20 + i,
        )  # fmt: skip
        images.write(key, content(i))
    result = run(config(images, out, key_pattern=pattern))
    assert result.key_pattern == expected

    def described(lake: Lake, key_pattern: str | None) -> list[tuple[object, ...]]:
        refs = open_source(lake.url, key_pattern).select(None)
        return sorted((r.image_id, r.line, r.date, r.tags, r.bytes) for r in refs)

    assert described(out, result.key_pattern) == described(images, pattern)


@pytest.mark.quick("folder")
def test_a_date_takes_no_image_that_is_of_another_by_its_name(images: Lake, out: Lake) -> None:
    with pytest.raises(
        ConfigError, match=r"contains date=.* but would count as 2026-11-22: there is"
    ):
        run(config(images, out, key_pattern=None, date="2026-11-22"))
    assert everything(out) == {}
    packed = run(config(images, out))
    assert packed.num_images == NUM_IMAGES
    other = Lake(f"{out.url}-again", endpoint_url=out.endpoint_url)
    with pytest.raises(ConfigError, match=r"such as 'line=\{line\}/date=\{date\}/\*\.tar', or"):
        run(config(out, other, key_pattern="*/*/*.tar", format="parquet", date="2026-11-22"))


def test_the_command_says_how_to_score_the_shards(tmp_path: Path) -> None:
    images = Lake(str(tmp_path / "images"))
    images.write("line=1/a.jpg", b"x")
    answer = CliRunner().invoke(
        pack_command,
        [
            "--images", images.url, "--key-pattern", "line={line}/{image_id}.jpg",
            "--out", str(tmp_path / "out"), "--output", "json",
        ],
    )  # fmt: skip
    result = json.loads(answer.stdout)
    assert result["key_pattern"] == "line={line}/*.tar"
    assert (result["num_images"], result["num_shards"]) == (1, 1)


def test_containers_that_a_tar_cannot_hold_are_refused_at_once_with_what_works(
    tmp_path: Path,
) -> None:
    lake, rows, tars, out = (Lake(str(tmp_path / name)) for name in ("lake", "rows", "tars", "out"))
    for name in "abc":
        lake.write(f"line=1/{name}.jpg", name.encode())
    loose = "line={line}/{image_id}.jpg"
    packed = run(config(lake, rows, key_pattern=loose, format="parquet"))
    for pattern in (packed.key_pattern, f"{packed.key_pattern}#{{image_id}}.jpg"):
        with pytest.raises(ConfigError, match=r"rows of a Parquet file have no names.*--format pa"):
            run(config(rows, out, key_pattern=pattern, format="tar"))
    again = run(config(rows, out, key_pattern=packed.key_pattern, format="parquet"))
    assert again.num_images == 3
    in_tars = run(config(lake, tars, key_pattern=loose, format="tar"))
    with pytest.raises(ConfigError, match=r"after '#', such as .*#\{image_id\}.jpg', with '\*/'"):
        run(config(tars, out, key_pattern=in_tars.key_pattern, format="tar"))
    named = f"{in_tars.key_pattern}#*/{{image_id}}.jpg"
    assert run(config(tars, out, key_pattern=named, format="tar")).num_images == 3


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_an_image_that_is_missing_is_one_line_and_leaves_no_shard(
    tmp_path: Path, suffix: str
) -> None:
    lake, out = Lake(str(tmp_path / "lake")), Lake(str(tmp_path / "out"))
    lake.write("a.jpg", b"x")
    lake.write("list.csv", b"key,size,etag\na.jpg,,\nb.jpg,5,e\n")
    done = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", "pack", "--images", f"{lake.url}/list.csv",
         "--out", out.url, "--format", suffix],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == f"Error: {lake.url}/b.jpg is not there."
    assert list(out.list_objects()) == []


def test_what_is_not_packed_is_counted_with_an_example(tmp_path: Path) -> None:
    lake, out = Lake(str(tmp_path / "lake")), Lake(str(tmp_path / "out"))
    for name in ("a.jpg", "._a.jpg", "notes.txt"):
        lake.write(name, b"x")
    result = run(config(lake, out, key_pattern=None))
    assert (result.num_images, result.num_left_out) == (1, 2)
    done = CliRunner().invoke(pack_command, ["--images", lake.url, "--out", out.url])
    assert (
        "left out by the key pattern: 2 other objects, for example ._a.jpg (names that"
        in done.stderr
    )
