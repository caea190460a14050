"""Nothing is planned or read from beyond a folder lake, and nothing in it holds planning up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import schema
from steel_batch.errors import ConfigError, LakeError, NotAFileError, OutsideLakeError
from steel_batch.lake import Lake
from steel_batch.scoring.shard import read_shards
from steel_batch.sources.image_ref import ImageRef
from steel_batch.sources.open import open_source
from tests.conftest import DATE, PATTERN
from tests.sources.made_up_sources import images_of

MARKER = b"a text that lies elsewhere"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "lake" / f"line=1/date={DATE}"
    folder.mkdir(parents=True)
    (folder / "good.png").write_bytes(b"image")
    return tmp_path / "lake"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.png").write_bytes(MARKER)
    return folder


def read(lake: Lake, refs: list[ImageRef]) -> dict[str, str]:
    """Per image its bytes, or the code that it is quarantined with."""
    rows = [{name: getattr(ref, name) for name in ("image_key", "image_id", "line", "object_key",
             "offset", "bytes", "etag")} | {"shard": 0, "tags": []} for ref in refs]  # fmt: skip
    (shard,) = read_shards(lake, "run", "digest", pa.Table.from_pylist(rows, schema.PLAN), [0])
    return {
        row["image_key"].rpartition("/")[2]: error.code if error else bytes(content or b"").decode()
        for row, content, error in zip(rows, shard.contents, shard.errors, strict=True)
    }


def test_an_image_that_leads_out_or_is_no_file_is_planned_and_quarantined(
    root: Path, outside: Path
) -> None:
    folder = root / f"line=1/date={DATE}"
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "folder.png").symlink_to(outside)
    os.mkfifo(folder / "pipe.png")
    (folder / "near.png").symlink_to("good.png")
    (folder / "broken.png").symlink_to("nothing.png")
    (folder / "circle.png").symlink_to("circle.png")
    found = images_of(Lake(str(root)), PATTERN)
    expected = {
        "good.png": "image",
        "near.png": "image",
        "link.png": "unsafe_link",
        "folder.png": "unsafe_link",
        "pipe.png": "not_a_file",
        "broken.png": "not_a_file",
        "circle.png": "not_a_file",
    }
    assert read(Lake(str(root)), list(found.values())) == expected


@pytest.mark.parametrize("size", ["", "5"])
def test_a_manifest_that_names_such_images_costs_those_alone(
    root: Path, outside: Path, size: str
) -> None:
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "up").symlink_to(outside)
    os.mkfifo(root / "pipe.png")
    (root / "good.png").write_bytes(b"image")
    names = ("good.png", "link.png", "up/secret.png", "pipe.png")
    etag = Lake(str(root)).stat("good.png").etag  # type: ignore[union-attr]
    rows = "".join(f"{name},{size},{etag if size else ''}\n" for name in names)
    (root / "list.csv").write_text(f"key,size,etag\n{rows}")
    found = images_of(Lake(str(root)), None, "list.csv")
    assert read(Lake(str(root)), list(found.values())) == {
        "good.png": "image",
        "link.png": "unsafe_link",
        "secret.png": "unsafe_link",
        "pipe.png": "not_a_file",
    }


@pytest.mark.parametrize("pattern", [PATTERN, f"line=1/date={DATE}/{{image_id}}.png", None])
def test_a_folder_that_leads_out_is_left_out_and_said(
    root: Path, outside: Path, pattern: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "line=2").mkdir()
    (root / f"line=2/date={DATE}").symlink_to(outside)
    (root / f"line=1/date={DATE}/more").symlink_to(outside)
    lake = Lake(str(root))
    assert list(images_of(lake, pattern)) == [f"line=1/date={DATE}/good.png"]
    said = [record.message for record in caplog.records]
    assert said
    assert all(
        "is a link that leads out of the lake" in text and "--follow-links" in text for text in said
    )
    followed = open_source(str(root), PATTERN, follow_links=True)
    assert {ref.image_id for ref in followed.select(DATE)} == {"good", "secret"}


def test_where_every_folder_leads_out_the_error_says_so(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "lake/line=1").mkdir(parents=True)
    (tmp_path / f"lake/line=1/date={DATE}").symlink_to(outside)
    selected = open_source(str(tmp_path / "lake"), PATTERN).select(DATE)
    assert list(selected) == []
    assert "link that leads out of the lake, and --follow-links is not given" in str(
        selected.explain_empty()
    )
    with pytest.raises(OutsideLakeError, match="--follow-links"):
        list(
            open_source(str(tmp_path / "lake"), f"line=1/date={DATE}/{{image_id}}.png").select(DATE)
        )


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(MARKER)
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "error"), [(make_fifo, NotAFileError), (make_link, OutsideLakeError)]
)
@pytest.mark.parametrize("name", ["list.csv", "list.parquet", "manifest.json", "a.tar"])
def test_a_manifest_or_container_that_is_none_of_the_lakes_files_is_one_error(
    root: Path, name: str, make: Callable[[Path], None], error: type[LakeError]
) -> None:
    make(root / name)
    asked = ("*.tar", "") if name == "a.tar" else (None, name)
    with pytest.raises(error) as raised:
        images_of(Lake(str(root)), *asked)
    assert str(root / name) in str(raised.value)
    assert MARKER.decode() not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "error"), [(make_fifo, NotAFileError), (make_link, OutsideLakeError)]
)
def test_an_index_that_is_none_of_the_lakes_files_is_one_error(
    root: Path, make: Callable[[Path], None], error: type[LakeError]
) -> None:
    (root / "a.tar").write_bytes(bytes(10240))
    make(root / "a.tar.idx")
    with pytest.raises(error, match=r"a\.tar\.idx"):
        images_of(Lake(str(root)), "*.tar")


def test_a_part_of_an_inventory_that_is_none_of_the_lakes_files_is_one_error(root: Path) -> None:
    pq.write_table(pa.table({"key": ["a.jpg"]}), root / "real.parquet")
    (root / "manifest.json").write_text(
        '{"sourceBucket": "b", "destinationBucket": "b", "fileFormat": "Parquet", '
        '"fileSchema": "", "files": [{"key": "part.parquet"}]}'
    )
    os.mkfifo(root / "part.parquet")
    with pytest.raises((NotAFileError, ConfigError), match="it is a FIFO"):
        images_of(Lake(str(root)), None, "manifest.json")
