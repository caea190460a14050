"""The kinds of `--images`: what is found in each, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import schema
from steel_batch.errors import ConfigError, SteelBatchError
from steel_batch.lake import Lake
from steel_batch.manifest import ImageRef
from steel_batch.pack.run import PackConfig, pack
from steel_batch.plan import build_plan
from steel_batch.read import ShardInput, read_shards
from steel_batch.sources import Source, open_source
from tests.conftest import (
    DATE,
    PATTERN,
    committed_rows,
    fill_lake,
    run_score,
    score_config,
)

Members = list[tuple[str | tarfile.TarInfo, bytes]]


def tar_of(members: Members, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def parquet_of(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def source_of(lake: Lake, pattern: str | None, name: str = "") -> Source:
    return open_source(lake.uri(name), pattern, endpoint_url=lake.endpoint_url)


def images_of(lake: Lake, pattern: str | None, name: str = "") -> dict[str, ImageRef]:
    found = list(source_of(lake, pattern, name).select(None))
    assert len({ref.image_key for ref in found}) == len(found)
    return {ref.image_key: ref for ref in found}


def read(source: Source, tmp_path: Path) -> tuple[ShardInput, dict[str, bytes | str]]:
    """Plan and read everything as one shard: bytes or an error's code for each image."""
    settings = {"shard_images": 10_000, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source.select(None), settings, tmp_path / "plan")
    (shard,) = read_shards(source.lake, "r", "d", pq.read_table(tmp_path / "plan"), [0])
    assert shard.failure is None
    shard = ShardInput.from_wire(shard.to_wire())
    found: dict[str, bytes | str] = {}
    for i, key in enumerate(shard.refs["image_key"].to_pylist()):
        error = shard.errors[i]
        found[key] = shard.contents[i].as_py() if error is None else error.code
    return shard, found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_any_kind_of_tar_are_found(lake: Lake, tmp_path: Path, form: int) -> None:
    names = ["./a/one.jpg", "tw#o.JPEG", "zero.png"]
    if form != tarfile.USTAR_FORMAT:
        names += ["long/" * 40 + "n.jpg", "größe.jpg"]
    members: Members = [(name, name.encode() * 7) for name in names]
    members[2] = ("zero.png", b"")
    lake.write("x/s.tar", tar_of([*members, ("notes.txt", b"?")], form))
    source = source_of(lake, "x/*.tar")
    _, found = read(source, tmp_path)
    assert found == {f"x/s.tar#{name.removeprefix('./')}": data for name, data in members}
    selection = source.select(None)
    ids = {ref.image_id for ref in selection}
    assert ids >= {"one", "tw#o", "zero"}
    assert (selection.num_left_out, selection.example_left_out) == (1, "x/s.tar#notes.txt")


def test_headers_are_read_without_the_images(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("s.tar", tar_of([(f"{i}.jpg", bytes(1 << 20)) for i in range(8)]))
    before = lake.counts().get("bytes_read", 0)
    assert len(images_of(lake, "*.tar")) == 8
    assert lake.counts()["bytes_read"] - before < 100_000


def test_close_members_cost_one_request(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("s.tar", tar_of([(f"{i:02}.jpg", bytes([i]) * 5000) for i in range(50)]))
    source = source_of(lake, "*.tar")
    refs = list(source.select(None))
    build_plan(
        refs, {"shard_images": 99, "shard_bytes": 1 << 30, "rescore_changed": False}, tmp_path / "p"
    )
    before = lake.counts().get("requests", 0)
    (shard,) = read_shards(lake, "r", "d", pq.read_table(tmp_path / "p"), [0])
    assert lake.counts()["requests"] - before == 1
    assert [c.as_py() for c in shard.contents] == [bytes([i]) * 5000 for i in range(50)]


def test_what_is_no_file_is_quarantined_and_says_why(lake: Lake, tmp_path: Path) -> None:
    members: Members = [
        ("good.jpg", b"good"),
        (special("folder", tarfile.DIRTYPE), b""),
        (special("folder.jpg", tarfile.DIRTYPE), b""),
        (special("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.jpg", tarfile.LNKTYPE, "good.jpg"), b""),
        (special("pipe.jpg", tarfile.FIFOTYPE), b""),
        ("../up.jpg", b"up"),
        ("a/../../up.jpg", b"up"),
        ("/etc/absolute.jpg", b"abs"),
    ]
    lake.write("s.tar", tar_of(members))
    source = source_of(lake, "*.tar")
    _, found = read(source, tmp_path)
    assert found == {
        "s.tar#good.jpg": b"good",
        "s.tar#folder.jpg": "not_a_file",
        "s.tar#soft.jpg": "not_a_file",
        "s.tar#hard.jpg": "not_a_file",
        "s.tar#pipe.jpg": "not_a_file",
        "s.tar#../up.jpg": "unsafe_name",
        "s.tar#a/../../up.jpg": "unsafe_name",
        "s.tar#/etc/absolute.jpg": "unsafe_name",
    }
    selection = source.select(None)
    assert len(list(selection)) == 8
    assert (selection.num_left_out, selection.example_left_out) == (1, "s.tar#folder")
    assert not list(tmp_path.rglob("*up*"))


def test_a_tar_that_is_cut_off_anywhere_is_an_error(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    whole = tar_of([(f"{i}.jpg", bytes([i]) * 700) for i in range(3)])
    end = 3 * (512 + 1024)
    lake.write("s.tar", whole[: end + 512])
    assert len(images_of(lake, "*.tar")) == 3
    for length in [*range(0, end + 512, 256), *range(end - 3, end + 3)]:
        lake.write("s.tar", whole[:length])
        with pytest.raises(ConfigError, match=r"s\.tar is damaged behind its first \d members"):
            images_of(lake, "*.tar")


@pytest.mark.parametrize("where", [0, 512 + 1024 + 100])
def test_a_tar_with_a_damaged_header_is_an_error(lake: Lake, where: int) -> None:
    data = bytearray(tar_of([(f"{i}.jpg", bytes(700)) for i in range(3)]))
    data[where : where + 60] = b"garbage" * 8 + b"!!!!"
    lake.write("s.tar", bytes(data))
    with pytest.raises(ConfigError, match="is damaged behind its first"):
        images_of(lake, "*.tar")


def test_a_header_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    long_name = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    lake.write("s.tar", tar_of([(long_name, bytes(3 << 20)), ("a.jpg", b"a")]))
    with pytest.raises(ConfigError, match="a header of"):
        images_of(lake, "*.tar")


def test_two_members_of_one_name_are_refused(lake: Lake) -> None:
    lake.write("s.tar", tar_of([("a.jpg", b"1"), ("b.jpg", b"2"), ("./a.jpg", b"3")]))
    with pytest.raises(ConfigError, match=r"two members named 'a\.jpg'"):
        images_of(lake, "*.tar")


def test_a_tar_that_is_replaced_after_planning_costs_its_images(lake: Lake, tmp_path: Path) -> None:
    lake.write("s.tar", tar_of([("a.jpg", b"1")]))
    lake.write("t.tar", tar_of([("b.jpg", b"2")]))
    source = source_of(lake, "*.tar")
    settings = {"shard_images": 9, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source.select(None), settings, tmp_path / "plan")
    lake.write("s.tar", tar_of([("a.jpg", b"another")]))
    (shard,) = read_shards(source.lake, "r", "d", pq.read_table(tmp_path / "plan"), [0])
    assert [e and e.code for e in shard.errors] == ["changed", None]


@pytest.fixture
def packed(tmp_path: Path) -> Lake:
    loose, out = Lake(str(tmp_path / "loose")), Lake(str(tmp_path / "packed"))
    for i in range(300):
        loose.write(f"{i:03}.jpg", b"%d" % i * 100)
    pack(PackConfig(images=loose.url, out=out.url), lambda _: None)
    return out


def test_an_index_saves_reading_the_headers(packed: Lake) -> None:
    before = packed.counts().get("requests", 0)
    by_index = images_of(packed, "*.tar")
    assert packed.counts()["requests"] - before == 2
    packed.delete(["shard-00000.tar.idx"])
    assert images_of(packed, "*.tar") == by_index
    assert len(by_index) == 300


def test_an_index_of_another_tar_is_not_believed(packed: Lake, tmp_path: Path) -> None:
    other = tar_of([(f"{i:03}.jpg", b"x" * len(b"%d" % i * 100)) for i in range(1, 301)])
    packed.write("shard-00000.tar", other)
    assert set(images_of(packed, "*.tar")) == {f"shard-00000.tar#{i:03}.jpg" for i in range(1, 301)}


@pytest.mark.parametrize(
    "damage", [lambda d: d[:5], lambda d: d[: len(d) // 2], lambda d: d[:-9] + b'"x", 3]\n']
)
def test_a_damaged_index_is_an_error(packed: Lake, damage: Any) -> None:
    packed.write("shard-00000.tar.idx", damage(packed.read("shard-00000.tar.idx")))
    with pytest.raises(ConfigError, match=r"idx is damaged.*Delete it"):
        images_of(packed, "*.tar")


def test_member_patterns_fill_columns_and_must_agree_with_the_key(lake: Lake) -> None:
    lake.write(
        "line=1/s.tar",
        tar_of([("2026-11-20/c1_a.jpg", b"a"), ("2026-11-21/c2_b.jpg", b"b"), ("c.jpg", b"c")]),
    )
    source = source_of(lake, "line={line}/*.tar#{date}/{camera}_{image_id}.jpg")
    assert source.dates() == ["2026-11-20", "2026-11-21"]
    selection = source.select("2026-11-21")
    (ref,) = selection
    assert (ref.line, ref.date, ref.image_id, ref.tags) == ("1", DATE, "b", {"camera": "c2"})
    assert selection.num_left_out == 1
    with pytest.raises(ConfigError, match=r"says line '2026-11-2.', but the key of its"):
        images_of(lake, "line={line}/*.tar#{line}/{image_id}.jpg")


def test_a_date_in_the_key_opens_only_its_containers(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("date=2026-11-20/s.tar", b"damaged")
    lake.write("date=2026-11-21/s.tar", tar_of([("a.jpg", b"a")]))
    source = source_of(lake, "date={date}/*.tar")
    assert source.dates() == ["2026-11-20", "2026-11-21"]
    assert [ref.image_key for ref in source.select(DATE)] == ["date=2026-11-21/s.tar#a.jpg"]


def test_containers_without_images_explain_themselves(lake: Lake) -> None:
    selection = source_of(lake, "*.tar").select(None)
    assert list(selection) == []
    text = str(selection.explain_empty())
    assert ("there are no objects below" if lake.is_s3 else "there is no folder") in text
    lake.write("s.tar", tar_of([("a.txt", b"a")]))
    selection = source_of(lake, "*.tar").select(None)
    assert list(selection) == []
    assert "1 containers in" in str(selection.explain_empty())
    assert "'s.tar#a.txt'" in str(selection.explain_empty())
    with pytest.raises(ConfigError, match="--date YYYY-MM-DD"):
        source_of(lake, "*.tar").dates()
    assert "'*.tar'" in str(source_of(lake, None).select(None).explain_empty())


TAGS = pa.array([[("camera", "1")], [], [("camera", "2")]], schema.TAGS)


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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (parquet_of({"name": ["a"]}), "0 binary columns"),
        (parquet_of({"x": [b"a"], "y": [b"b"]}), "2 binary columns and none named 'image'"),
        (parquet_of({"image": [b"a"]})[:-20], r"p\.parquet is damaged, or no Parquet file"),
        (b"", "is damaged, or no Parquet"),
        (b"PAR1 no parquet PAR1", "is damaged, or no Parquet"),
        (parquet_of({"image": [b"a"], "date": ["today"]}), "column 'date' holds 'today'"),
        (parquet_of({"image": [b"a"], "date": pa.array([None], pa.string())}), "holds None"),
        (parquet_of({"image": [b"a"], "tags": ["x"]}), "'tags' is string, expected a map"),
    ],
)
def test_a_parquet_file_that_is_unusable_is_an_error(lake: Lake, data: bytes, said: str) -> None:
    lake.write("p.parquet", data)
    with pytest.raises(ConfigError, match=said):
        images_of(lake, "*.parquet")


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


def below(source: Source, lake: Lake) -> str:
    """Where a lake lies below what a manifest's keys are relative to, as a prefix of keys."""
    rest = lake.url.removeprefix(source.lake.url).strip("/")
    return f"{rest}/" if rest else ""


@pytest.fixture
def place(lake: Lake) -> tuple[Lake, str]:
    """A lake of three images, and the prefix that a manifest in it gives their keys."""
    for name in "abc":
        lake.write(f"line=1/{name}.jpg", name.encode() * 5)
    lake.write("x.csv", b"key\n")
    return lake, below(source_of(lake, None, "x.csv"), lake)


def manifest(form: str, rows: list[dict[str, Any]]) -> bytes:
    if form == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    lines = [",".join(rows[0])] + [
        ",".join("" if v is None else str(v) for v in r.values()) for r in rows
    ]
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_manifest_says_what_there_is(place: tuple[Lake, str], tmp_path: Path, form: str) -> None:
    lake, root = place
    item = lake.stat("line=1/a.jpg")
    assert item is not None
    known = {"size": item.size_bytes, "etag": item.etag}
    unknown = {"size": None, "etag": None}
    rows = [
        {"key": f"{root}line=1/a.jpg", **known, "line": "7", "date": DATE, "camera": "2"},
        {
            "key": f"{root}line=1/b.jpg",
            **unknown,
            "line": None,
            "date": "2026-11-20",
            "camera": None,
        },
        {"key": f"{root}line=1/gone.jpg", **unknown, "line": None, "date": DATE, "camera": None},
    ]
    lake.write(f"todo.{form}", manifest(form, rows))
    source = source_of(lake, None, f"todo.{form}")
    assert source.dates() == ["2026-11-20", DATE]
    first, gone = sorted(source.select(DATE), key=lambda ref: ref.image_key)
    assert (first.image_id, first.line, first.tags, first.bytes) == ("a", "7", {"camera": "2"}, 5)
    assert (gone.bytes, gone.etag) == (0, "")
    shard, found = read(source, tmp_path)
    assert found == {
        f"{root}line=1/a.jpg": b"aaaaa",
        f"{root}line=1/b.jpg": b"bbbbb",
        f"{root}line=1/gone.jpg": "missing",
    }
    (message,) = [e.message for e in shard.errors if e]
    assert message.endswith("The manifest lists it.")


def test_a_manifest_may_leave_all_but_keys_to_the_pattern(place: tuple[Lake, str]) -> None:
    lake, root = place
    lake.write("todo.csv", f"key\n{root}line=1/c.jpg\n".encode())
    (ref,) = source_of(lake, f"{root}line={{line}}/{{image_id}}.jpg", "todo.csv").select(None)
    assert (ref.image_id, ref.line, ref.bytes) == ("c", "1", 5)
    with pytest.raises(ConfigError, match="no column 'date'"):
        source_of(lake, None, "todo.csv").dates()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("key\na.jpg\n\n../b.jpg\n", r"row 2: its key is '\.\./b\.jpg'"),
        ("key\na.jpg\na/../b.jpg\n", "row 2"),
        ("key\n/etc/a.jpg\n", "row 1: its key is '/etc/a.jpg'"),
        ("key\ns3://b/a.jpg\n", "row 1"),
        ("key\na//b.jpg\n", "empty parts"),
        ('key,line\n"",1\n', "row 1: its key is ''"),
        ("key\na.jpg\nb.jpg\na.jpg\n", "row 3: the key 'a.jpg' stands in row 1"),
        ("key\na.jpg\nb.txt\n", r"row 2: its key 'b\.txt' does not match"),
        ("key,size\na.jpg,many\n", "row 1: its size is 'many'"),
        ("key,size\na.jpg,-1\n", "row 1: its size is '-1'"),
        ("key,date\na.jpg,2026-11-21\nb.jpg,21.11.\n", r"row 2: its date is '21\.11\.'"),
        ("key,date\na.jpg,\n", "row 1: its date is empty"),
        ("key,line\na.jpg\n", "row 1 does not have 2 columns"),
        ("key,line\na.jpg,1,2\n", "row 1 does not have 2 columns"),
        ("name\na.jpg\n", "columns 'name', and none named 'key'"),
        ("", "none named 'key'"),
        ('key\n"a.jpg\n', "cannot be used as a manifest"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_row(tmp_path: Path, text: str, said: str) -> None:
    lake = Lake(str(tmp_path))
    lake.write("todo.csv", text.encode())
    with pytest.raises(ConfigError, match=said):
        images_of(lake, None, "todo.csv")


def test_a_manifest_must_agree_with_its_keys(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("todo.csv", b"key,line\nline=1/a.jpg,2\n")
    with pytest.raises(ConfigError, match="row 1: its line is '2', but its key says '1'"):
        images_of(lake, "line={line}/{image_id}.jpg", "todo.csv")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"key\n\xff\xfe.jpg\n", "cannot be used as a manifest"),
        (parquet_of({"image": [b"x"]}), "give its folder as --images"),
        (parquet_of({"key": [1]}), "row 1: its key is 1"),
        (parquet_of({"key": ["a.jpg"]})[:-9], "cannot be used as a manifest"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    lake = Lake(str(tmp_path))
    name = "todo.parquet" if data.startswith(b"PAR1") else "todo.csv"
    lake.write(name, data)
    with pytest.raises(ConfigError, match=said):
        images_of(lake, None, name)


def test_an_error_of_a_manifest_ends_a_plan_as_it_is(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("todo.csv", b"key\n../a.jpg\n")
    settings = {"shard_images": 9, "shard_bytes": 99, "rescore_changed": False}
    with pytest.raises(ConfigError, match="row 1"):
        build_plan(source_of(lake, None, "todo.csv").select(None), settings, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def inventory(lake: Lake, form: str, rows: list[dict[str, Any]]) -> str:
    """Write an S3 Inventory of the lake's bucket as S3 does; its manifest's key."""
    bucket = lake.url.removeprefix("s3://").split("/")[0] if lake.is_s3 else "archive"
    root = "/".join(lake.url.removeprefix("s3://").split("/")[1:]) + "/" if lake.is_s3 else ""
    columns = list(rows[0])
    if form == "CSV":
        names = {"key": "Key", "size": "Size", "e_tag": "ETag", "is_latest": "IsLatest",
                 "is_delete_marker": "IsDeleteMarker", "bucket": "Bucket"}  # fmt: skip
        text = "".join(",".join(f'"{v}"' for v in row.values()) + "\n" for row in rows)
        data, suffix, declared = (
            gzip.compress(text.encode()),
            "csv.gz",
            ", ".join(names[c] for c in columns),
        )
    else:
        data, suffix, declared = (
            parquet_of({c: [r[c] for r in rows] for c in columns}),
            "parquet",
            "message s3.inventory {}",
        )
    lake.write(f"inv/data/1.{suffix}", data)
    document = {
        "sourceBucket": bucket, "destinationBucket": f"arn:aws:s3:::{bucket}",
        "fileFormat": form, "fileSchema": declared,
        "files": [{"key": f"{root}inv/data/1.{suffix}", "size": len(data), "MD5checksum": "0"}],
    }  # fmt: skip
    # On a disk, keys are relative to the manifest's own folder.
    key = "inv/manifest.json" if lake.is_s3 else "manifest.json"
    lake.write(key, json.dumps(document).encode())
    return key


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_lists_the_current_images_of_a_bucket(
    place: tuple[Lake, str], tmp_path: Path, form: str
) -> None:
    lake, root = place
    lake.write("line=1/d + ü.jpg", b"ddd")
    quoted = "d+%2B+%C3%BC.jpg" if form == "CSV" else "d + ü.jpg"
    rows = []
    for name in ("a.jpg", "d + ü.jpg"):
        item = lake.stat(f"line=1/{name}")
        assert item is not None
        key = f"{root}line=1/{quoted if name[0] == 'd' else name}"
        rows.append({"bucket": "b", "key": key, "is_latest": True, "is_delete_marker": False,
                     "size": item.size_bytes, "e_tag": item.etag})  # fmt: skip
    rows.append({**rows[0], "is_latest": False, "e_tag": "old"})
    rows.append({**rows[0], "key": f"{root}line=1/b.jpg", "is_delete_marker": True})
    rows.append({**rows[0], "key": f"{root}notes.txt"})
    rows.append({**rows[0], "key": f"{root}line=1/"})
    name = inventory(lake, form, rows)
    source = source_of(lake, f"{root}line={{line}}/{{image_id}}.jpg", name)
    selection = source.select(None)
    assert sorted((ref.image_id, ref.line) for ref in selection) == [("a", "1"), ("d + ü", "1")]
    assert (selection.num_left_out, selection.example_left_out) == (1, f"{root}notes.txt")
    _, found = read(source, tmp_path)
    assert sorted(found.values()) == [b"aaaaa", b"ddd"]  # type: ignore[type-var]


def test_an_inventory_may_list_tars(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("s.tar", tar_of([("a.jpg", b"a")]))
    item = lake.stat("s.tar")
    assert item is not None
    rows = [{"key": "s.tar", "size": item.size_bytes, "e_tag": item.etag}]
    rows.append({"key": "s.tar.idx", "size": 3, "e_tag": "e"})
    source = source_of(lake, "*.tar", inventory(lake, "CSV", rows))
    selection = source.select(None)
    assert [ref.image_key for ref in selection] == ["s.tar#a.jpg"]
    assert selection.num_left_out == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"{}", "no manifest of an S3 Inventory"),
        (b"[1", "no manifest of an S3 Inventory"),
        (
            json.dumps(
                {"fileFormat": "ORC", "files": [], "fileSchema": "", "sourceBucket": "a",
                 "destinationBucket": "b"}
            ).encode(),
            "in the format ORC",
        ),
    ],
)  # fmt: skip
def test_an_inventory_that_cannot_be_read_says_so(
    tmp_path: Path, document: bytes, said: str
) -> None:
    lake = Lake(str(tmp_path))
    lake.write("manifest.json", document)
    with pytest.raises(ConfigError, match=said):
        images_of(lake, None, "manifest.json")


def test_a_damaged_part_of_an_inventory_is_an_error(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    name = inventory(lake, "CSV", [{"key": "a.jpg", "size": 1, "e_tag": "e"}])
    lake.write("inv/data/1.csv.gz", lake.read("inv/data/1.csv.gz")[:-6])
    with pytest.raises(ConfigError, match=r"1\.csv\.gz, a part of the inventory, is damaged"):
        images_of(lake, None, name)
    lake.delete(["inv/data/1.csv.gz"])
    with pytest.raises(SteelBatchError, match=r"1\.csv\.gz is not there"):
        images_of(lake, None, name)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{image_id}.tar", "in the name of a container"),
        ("*.tar#x.jpg", "no {image_id}"),
        ("*.parquet#{image_id}", "rows of a Parquet file have no names"),
        ("*.tar.gz", "compressed archives"),
        ("{date}/*.tgz#{image_id}.jpg", "compressed archives"),
    ],
)
def test_a_pattern_that_no_container_has_is_refused(
    tmp_path: Path, pattern: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_source(str(tmp_path), pattern)


def test_names_decide_the_kind_and_a_folder_is_never_a_manifest(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("set.parquet/a.jpg", b"a")
    lake.write("set.csv/b.jpg", b"b")
    assert list(images_of(lake, None, "set.parquet")) == ["a.jpg"]
    assert list(images_of(lake, None, "set.csv")) == ["b.jpg"]
    lake.write("one.tar", tar_of([("a.jpg", b"a")]))
    with pytest.raises(ConfigError, match="give its folder as --images"):
        source_of(lake, None, "one.tar")


def test_memory_does_not_grow_with_what_is_listed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))

    def peak(num: int) -> int:
        rows = "\n".join(f"line/{i:07}.jpg,5,e" for i in range(num))
        lake.write("todo.csv", f"key,size,etag\n{rows}\n".encode())
        del rows
        tracemalloc.start()
        assert sum(1 for _ in source_of(lake, None, "todo.csv").select(None)) == num
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)
    assert peak(60_000) < 1.5 * peak(20_000)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_images_have_the_same_rows_loose_in_tars_and_in_parquet(
    tmp_path: Path, tiny_engine: Path
) -> None:
    loose = Lake(str(tmp_path / "loose"))
    fill_lake(loose, num_images=12)
    places = {"loose": (loose.url, PATTERN)}
    for form in ("tar", "parquet"):
        settings = PackConfig(
            images=loose.url, key_pattern=PATTERN, out=str(tmp_path / form), format=form,
            shard_bytes=1 << 15,
        )  # fmt: skip
        packed = pack(settings, lambda _: None)
        assert packed.num_shards > 2
        places[form] = (packed.out, packed.key_pattern)
    rows: dict[str, list[dict[str, object]]] = {}
    for kind, (images, pattern) in places.items():
        store = Lake(str(tmp_path / f"store-{kind}"))
        result = run_score(score_config(Lake(images), store, tiny_engine, key_pattern=pattern))
        assert (result.num_scored, result.num_quarantined) == (12, 0)
        rows[kind] = [
            {k: v for k, v in row.items() if k != "image_key"} for row in committed_rows(store)
        ]
    assert all(found == rows["loose"] for found in rows.values())
    assert len(rows["loose"]) == 12
