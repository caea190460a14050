"""Members of tars: found by headers or by an index, and what is said of damaged ones."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, pack
from steel_batch.runs.planning import build_plan
from steel_batch.scoring.shard import read_shards
from steel_batch.sources.fetch import read_refs
from tests.conftest import KINDS_OF_LAKE, folder_daily
from tests.sources.made_up_sources import Members, images_of, read, source_of, tar_of

lake = folder_daily


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


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
    assert found == {f"x/s.tar#{str(name).removeprefix('./')}": data for name, data in members}
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
    shards = list(read_shards(lake, "r", "d", pq.read_table(tmp_path / "p"), [0, 1]))
    assert lake.counts()["requests"] - before == 2  # one a shard; the first shard is small
    contents = [content for shard in shards for content in shard.contents]
    assert contents == [bytes([i]) * 5000 for i in range(50)]


@pytest.mark.parametrize(("step", "is_copied"), [(8, True), (2, True), (1, False)])
def test_few_members_of_a_request_do_not_keep_the_rest_of_it_in_memory(
    tmp_path: Path, step: int, is_copied: bool
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    contents = [bytes([place]) * 3000 for place in range(9)]
    lake.write("t.tar", tar_of([(f"{place}.jpg", data) for place, data in enumerate(contents)]))
    settings = {"shard_images": 9, "shard_bytes": 1 << 30, "rescore_changed": False}
    build_plan(source_of(lake, "*.tar").select(None), settings, tmp_path / "plan")
    refs = pq.read_table(tmp_path / "plan").sort_by("offset").take(list(range(0, 9, step)))
    _, found = read_refs(lake, refs)
    assert found == contents[::step]
    assert {type(image) for image in found} == {bytes if is_copied else memoryview}


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_what_is_no_file_is_quarantined_and_says_why(lake: Lake, tmp_path: Path) -> None:
    members: Members = [
        ("good.jpg", b"good"),
        (special("folder", tarfile.DIRTYPE), b""),
        (special("folder.jpg", tarfile.DIRTYPE), b""),
        (special("soft.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.jpg", tarfile.LNKTYPE, "good.jpg"), b""),
        (special("lost.jpg", tarfile.LNKTYPE, "of another.jpg"), b""),
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
        "s.tar#hard.jpg": b"good",
        "s.tar#lost.jpg": "not_a_file",
        "s.tar#pipe.jpg": "not_a_file",
        "s.tar#../up.jpg": "unsafe_name",
        "s.tar#a/../../up.jpg": "unsafe_name",
        "s.tar#/etc/absolute.jpg": "unsafe_name",
    }
    selection = source.select(None)
    assert len(list(selection)) == 9
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
        with pytest.raises(ConfigError, match=r"s\.tar is damaged after its first \d members"):
            images_of(lake, "*.tar")


@pytest.mark.parametrize("where", [0, 512 + 1024 + 100])
def test_a_tar_with_a_damaged_header_is_an_error(lake: Lake, where: int) -> None:
    data = bytearray(tar_of([(f"{i}.jpg", bytes(700)) for i in range(3)]))
    data[where : where + 60] = b"garbage" * 8 + b"!!!!"
    lake.write("s.tar", bytes(data))
    with pytest.raises(ConfigError, match="is damaged after its first"):
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


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
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
    "damage",
    [
        lambda d: d[:5],
        lambda d: d[: len(d) // 2],
        lambda d: d[:-9] + b'"x", 3]\n',
        lambda d: d.replace(b'"007.jpg"', b'""'),
    ],
)
def test_a_damaged_index_is_an_error(packed: Lake, damage: Any) -> None:
    packed.write("shard-00000.tar.idx", damage(packed.read("shard-00000.tar.idx")))
    with pytest.raises(ConfigError, match=r"idx is damaged.*Delete it"):
        images_of(packed, "*.tar")
