"""An S3 Inventory as the list of images: what it names, and what is said of damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steel_batch.errors import ConfigError, SteelBatchError
from steel_batch.lake import Lake
from steel_batch.sources.open import open_source
from tests.conftest import new_bucket
from tests.sources.made_up_sources import images_of, inventory, read, source_of, tar_of


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
    assert sorted(found.values()) == [b"aaaaa", b"ddd"]


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
        (b"{}", "not the manifest of an S3 Inventory"),
        (b"[1", "not the manifest of an S3 Inventory"),
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


@pytest.mark.s3
@pytest.mark.parametrize("field", ["sourceBucket", "destinationBucket"])
def test_an_inventory_names_another_bucket_only_where_it_is_allowed(
    bucket: str, s3_endpoint: str, field: str
) -> None:
    lake = Lake(f"{bucket}/lake", endpoint_url=s3_endpoint)
    name = inventory(lake, "CSV", [{"key": "a.jpg", "size": 6, "e_tag": "e"}])
    other = Lake(new_bucket(s3_endpoint), endpoint_url=s3_endpoint)
    other.write("a.jpg", b"secret")
    other.write("lake/inv/data/1.csv.gz", lake.read("inv/data/1.csv.gz"))
    document = json.loads(lake.read(name))
    other_name = other.url.removeprefix("s3://")
    document[field] = f"arn:aws:s3:::{other_name}"
    lake.write(name, json.dumps(document).encode())
    with pytest.raises(ConfigError, match=f"add --inventory-bucket {other_name}"):
        images_of(lake, None, name)
    with pytest.raises(ConfigError, match=f"refers to the bucket '{other_name}'"):
        open_source(lake.uri(name), None, endpoint_url=s3_endpoint, inventory_buckets=["b"])
    source = open_source(
        lake.uri(name), None, endpoint_url=s3_endpoint, inventory_buckets=[other_name]
    )
    (ref,) = source.select(None)
    assert (ref.image_key, source.lake.url) == (
        "a.jpg", other.url if field == "sourceBucket" else bucket
    )  # fmt: skip


def test_a_damaged_part_of_an_inventory_is_an_error(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    name = inventory(lake, "CSV", [{"key": "a.jpg", "size": 1, "e_tag": "e"}])
    lake.write("inv/data/1.csv.gz", lake.read("inv/data/1.csv.gz")[:-6])
    with pytest.raises(ConfigError, match=r"1\.csv\.gz, a part of the inventory, is damaged"):
        images_of(lake, None, name)
    lake.delete(["inv/data/1.csv.gz"])
    with pytest.raises(SteelBatchError, match=r"1\.csv\.gz is not there"):
        images_of(lake, None, name)
