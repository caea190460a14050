"""Packing into a folder that holds shards already: no image is lost, and none counts twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from steel_batch.cli.pack import pack as pack_command
from steel_batch.errors import ConfigError, InputError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, PackResult, pack
from steel_batch.sources.open import open_source

PATTERN = "line={line}/{image_id}.jpg"
FORMATS = pytest.mark.parametrize("suffix", ["tar", "parquet"])


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "images"))
    for line in "12":
        for name in "abcdef":
            lake.write(f"line={line}/{name}.jpg", name.encode() * 900)
    return lake


@pytest.fixture
def out(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "packed" / "first"))


def run(images: Lake, out: Lake, suffix: str = "tar", shard_bytes: int = 1 << 20) -> PackResult:
    config = PackConfig(
        images=images.url, key_pattern=PATTERN, out=out.url, format=suffix,  # type: ignore[arg-type]
        shard_bytes=shard_bytes,
    )  # fmt: skip
    return pack(config, lambda _: None)


def everything(lake: Lake) -> dict[str, bytes]:
    return {item.key: lake.read(item.key) for item in lake.list_objects()}


def move_on(images: Lake) -> None:
    """Delete what was packed, and add a late image."""
    images.delete([item.key for item in images.list_objects("line=1/")])
    images.write("line=1/late.jpg", b"late")


@FORMATS
@pytest.mark.parametrize("index", ["whole", "none", "damaged", "of-another"])
def test_a_shard_with_images_that_are_gone_is_not_overwritten(
    images: Lake, out: Lake, suffix: str, index: str
) -> None:
    run(images, out, suffix)
    key = f"line=1/shard-00000.{suffix}"
    if index == "none":
        out.delete([f"{key}.idx"])
    elif index == "damaged":
        out.write(f"{key}.idx", out.read(f"{key}.idx")[:-20])
    elif index == "of-another":
        other = Lake(f"{out.url}-other")
        images.write("line=3/late.jpg", b"late")
        run(images, other, suffix)
        out.write(f"{key}.idx", other.read(f"line=3/shard-00000.{suffix}.idx"))
    before = everything(out)
    move_on(images)
    with pytest.raises(ConfigError) as caught:
        run(images, out, suffix)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith(
        f"6 images in existing shards of {out.url} are not among those to pack, for example "
        f"'line=1/a.jpg' in {key}."
    )
    assert everything(out) == before


def test_the_command_says_what_to_do_with_late_images(images: Lake, out: Lake) -> None:
    run(images, out)
    move_on(images)
    done = CliRunner().invoke(
        pack_command, ["--images", images.url, "--key-pattern", PATTERN, "--out", out.url]
    )
    assert isinstance(done.exception, ConfigError)
    assert "Pack images that came later into another --out folder" in str(done.exception)


@FORMATS
def test_late_images_in_a_folder_of_their_own_are_read_with_the_others(
    images: Lake, out: Lake, suffix: str
) -> None:
    run(images, out, suffix)
    move_on(images)
    late = run(images, Lake(f"{out.url}-late"), suffix)
    source = open_source(str(Path(out.url).parent), f"*/{late.key_pattern}")
    on_line_1 = [ref.image_id for ref in source.select(None) if ref.line == "1"]
    assert sorted(on_line_1) == ["a", "b", "c", "d", "e", "f", "late"]


def test_shards_of_lines_that_are_not_packed_stay_as_they_are(images: Lake, out: Lake) -> None:
    run(images, out)
    before = everything(out)
    images.delete([item.key for item in images.list_objects("line=1/")])
    assert run(images, out).num_kept == 1
    assert everything(out) == before


@FORMATS
def test_images_that_were_added_or_replaced_are_packed_again(
    images: Lake, out: Lake, suffix: str
) -> None:
    run(images, out, suffix)
    images.write("line=1/a.jpg", b"other")
    images.write("line=1/late.jpg", b"late")
    result = run(images, out, suffix)
    assert (result.num_images, result.num_kept) == (13, 1)


@FORMATS
def test_a_damaged_shard_holds_what_its_index_says(images: Lake, out: Lake, suffix: str) -> None:
    run(images, out, suffix)
    whole = everything(out)
    key = f"line=1/shard-00000.{suffix}"
    out.write(key, whole[key][:700])
    run(images, out, suffix)
    assert everything(out) == whole
    out.write(key, whole[key][:700])
    move_on(images)
    with pytest.raises(ConfigError, match="6 images in existing shards of"):
        run(images, out, suffix)


@FORMATS
def test_a_shard_whose_images_nobody_knows_is_not_overwritten(
    images: Lake, out: Lake, suffix: str
) -> None:
    key = f"line=1/shard-00000.{suffix}"
    out.write(key, b"something else")
    with pytest.raises(ConfigError, match=r"has no index and cannot be read.*move it out of --out"):
        run(images, out, suffix)
    assert everything(out) == {key: b"something else"}


def test_shards_that_are_left_over_are_counted_over_all_folders(images: Lake, out: Lake) -> None:
    small = run(images, out, shard_bytes=5000)
    assert small.num_shards == 6
    with pytest.raises(InputError) as caught:
        run(images, out)
    assert caught.value.message.startswith(
        f"4 shards in {out.url} are from an earlier packing, for example line=1/shard-00001.tar."
    )
    left = [item.key for item in out.list_objects() if "shard-00000" not in item.key]
    out.delete(left)
    assert run(images, out).num_kept == 2


def test_a_left_over_shard_with_images_that_are_gone_is_not_said_to_be_needless(
    images: Lake, out: Lake
) -> None:
    run(images, out, shard_bytes=5000)
    before = everything(out)
    images.delete(["line=1/f.jpg"])
    with pytest.raises(ConfigError, match=r"1 images in .* 'line=1/f\.jpg' in line=1/shard-0000"):
        run(images, out)
    assert everything(out) == before
