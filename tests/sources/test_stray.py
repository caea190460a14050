"""What lies beside images: left out and counted, whatever the pattern; it stops no date."""

from __future__ import annotations

import os
from pathlib import Path

import boto3
import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.sources.stray import stray_reason
from tests.conftest import DATE
from tests.sources.made_up_sources import images_of, inventory, read, source_of, tar_of

PATTERN = "{line}/{date}/{image_id}.jpg"
GOOD = f"1/{DATE}/a.jpg"
UNUSABLE = [
    f"1//{DATE}/b.jpg", f"1/{DATE}//c.jpg", f"./1/{DATE}/d.jpg", f"1/../{DATE}/e.jpg",
    f"1/{DATE}/../f.jpg", f"/1/{DATE}/h.jpg", f"tmp\\x/{DATE}/g.jpg", f"1/{DATE}/h\\i.jpg",
]  # fmt: skip
BY_PRODUCTS = [
    f"1/{DATE}/._a.jpg", f"1/{DATE}/.AppleDouble/a.jpg", f"__MACOSX/{DATE}/a.jpg",
    f"1/{DATE}/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", f"lost+found/{DATE}/a.jpg",
    ".Trash-1000/a.jpg", f"1/{DATE}/.DS_Store", f"1/{DATE}/.ipynb_checkpoints/a.jpg",
]  # fmt: skip


def put(lake: Lake, *keys: str) -> None:
    """Write objects that `Lake.write` refuses to."""
    if not lake.is_s3:
        for key in keys:
            path = f"{lake.url}/{key}"
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - no Path: it cleans
            Path(path).write_bytes(key.encode())
        return
    bucket, _, root = lake.url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=lake.endpoint_url)
    for key in keys:
        client.put_object(Bucket=bucket, Key=f"{root}/{key}", Body=key.encode())


@pytest.mark.s3
@pytest.mark.parametrize("pattern", [PATTERN, None])
def test_keys_of_a_bucket_that_cannot_be_read_are_counted_and_stop_nothing(
    bucket: str, s3_endpoint: str, tmp_path: Path, pattern: str | None
) -> None:
    lake = Lake(f"{bucket}/root", endpoint_url=s3_endpoint)
    odd = [f"1/{DATE}/k\x01.jpg", f" 2 /{DATE}/j .jpg", f"1/{DATE}/q%2Fr+s#t?.jpg"]
    put(lake, GOOD, *odd, *UNUSABLE)
    source = source_of(lake, pattern)
    assert pattern is None or source.dates() == [DATE]
    selection = source.select(DATE)
    assert sorted(ref.image_key for ref in selection) == sorted([GOOD, *odd])
    assert selection.example_left_out is not None
    assert stray_reason(selection.example_left_out.removesuffix("/")) is not None
    assert selection.num_left_out == len(UNUSABLE)
    _, found = read(source, tmp_path)
    assert found == {key: key.encode() for key in (GOOD, *odd)}


@pytest.mark.parametrize("pattern", [PATTERN, None])
def test_names_of_a_folder_that_cannot_be_keys_are_counted_and_stop_nothing(
    tmp_path: Path, pattern: str | None
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    put(lake, GOOD, f"1/{DATE}/b\n.jpg", f"tmp\\x/{DATE}/c.jpg", f"1/{DATE}/d\\e.jpg")
    for name in (b"gr\xf6.jpg", b"gr\xf6/g.jpg"):
        path = os.path.join(os.fsencode(lake.url), b"1", DATE.encode(), name)  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        Path(os.fsdecode(path)).write_bytes(b"x")
    source = source_of(lake, pattern)
    selection = source.select(DATE)
    assert sorted(ref.image_key for ref in selection) == sorted([GOOD, f"1/{DATE}/b\n.jpg"])
    assert (selection.num_left_out, "\\" in str(selection.example_left_out)) == (4, True)
    (tmp_path / "plan").mkdir()
    assert set(read(source, tmp_path / "plan")[1].values()) == {
        GOOD.encode(),
        f"1/{DATE}/b\n.jpg".encode(),
    }


@pytest.mark.parametrize("pattern", [PATTERN, None])
def test_companion_files_of_operating_systems_are_no_images(
    lake: Lake, pattern: str | None
) -> None:
    put(lake, GOOD, *BY_PRODUCTS)
    selection = source_of(lake, pattern).select(DATE)
    assert [ref.image_key for ref in selection] == [GOOD]
    assert 6 <= selection.num_left_out <= len(BY_PRODUCTS)


def test_companion_files_in_a_tar_are_no_images(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    names = ["./a.jpg", "./._a.jpg", "__MACOSX/a.jpg", "b/.AppleDouble/c.jpg", "b/c.jpg"]
    lake.write("s.tar", tar_of([(name, name.encode()) for name in names]))
    selection = source_of(lake, "*.tar").select(None)
    assert [ref.image_key for ref in selection] == ["s.tar#a.jpg", "s.tar#b/c.jpg"]
    assert (selection.num_left_out, selection.example_left_out) == (3, "s.tar#._a.jpg")


def test_a_lake_of_companion_files_alone_says_what_they_are(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("._a.jpg", b"x")
    selection = source_of(lake, None).select(None)
    assert list(selection) == []
    assert "are companion files of macOS" in str(selection.explain_empty())


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_inventory_leaves_strays_out(tmp_path: Path, form: str) -> None:
    lake = Lake(str(tmp_path))
    lake.write("a.jpg", b"x")
    keys = ["a.jpg", "b//c.jpg", "./d.jpg", "e\\f.jpg", "../g.jpg", "._a.jpg", "h/", "/i.jpg"]
    name = inventory(lake, form, [{"key": key, "size": 1, "e_tag": "e"} for key in keys])
    selection = source_of(lake, None, name).select(None)
    assert [ref.image_key for ref in selection] == ["a.jpg"]
    assert (selection.num_left_out, selection.example_left_out) == (6, "b//c.jpg")


def test_a_manifest_of_ones_own_names_the_row_that_cannot_be_read(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("todo.csv", b"key,size,etag\na.jpg,1,e\nb\\c.jpg,1,e\n")
    with pytest.raises(ConfigError, match=r"row 2: its key is 'b\\\\c\.jpg'.*backslashes"):
        images_of(lake, None, "todo.csv")
    lake.write("todo.csv", b"key,size,etag\na.jpg,1,e\n._a.jpg,1,e\n")
    selection = source_of(lake, None, "todo.csv").select(None)
    assert [ref.image_key for ref in selection] == ["a.jpg"]
    assert selection.num_left_out == 1
