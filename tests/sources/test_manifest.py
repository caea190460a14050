"""Images that a manifest lists: what it may leave out, and what is said of bad rows."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.runs.planning import build_plan
from tests.conftest import DATE
from tests.sources.made_up_sources import images_of, parquet_of, read, source_of


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
    known: dict[str, Any] = {"size": item.size_bytes, "etag": item.etag}
    unknown: dict[str, Any] = {"size": None, "etag": None}
    rows: list[dict[str, Any]] = [
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
        ("key\na.jpg\nb.jpg\na.jpg\n", "row 3: the key 'a.jpg' is already in row 1"),
        ("key\na.jpg\nb.txt\n", r"row 2: its key 'b\.txt' does not match"),
        ("key,size\na.jpg,many\n", "row 1: its size is 'many'"),
        ("key,size\na.jpg,-1\n", "row 1: its size is '-1'"),
        ("key,date\na.jpg,2026-11-21\nb.jpg,21.11.\n", r"row 2: its date is '21\.11\.'"),
        ("key,date\na.jpg,\n", "row 1: its date is empty"),
        ("key,line\na.jpg\n", "row 1 has 1 columns, expected 2 as in the header. Correct"),
        ("key,line\na.jpg,1,2\n", "row 1 has 3 columns, expected 2"),
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


def test_an_etag_that_a_manifest_lacks_is_that_of_the_image_that_is_read(
    place: tuple[Lake, str], tmp_path: Path
) -> None:
    lake, root = place
    lake.write("todo.csv", f"key,size\n{root}line=1/a.jpg,5\n{root}late.jpg,4\n".encode())
    source = source_of(lake, None, "todo.csv")
    assert {(ref.bytes, ref.etag) for ref in source.select(None)} == {(5, ""), (4, "")}
    lake.write("late.jpg", b"late")
    shard, found = read(source, tmp_path)
    assert found == {f"{root}late.jpg": b"late", f"{root}line=1/a.jpg": b"aaaaa"}
    stats = [lake.stat(name) for name in ("late.jpg", "line=1/a.jpg")]
    assert shard.refs["etag"].to_pylist() == [stat.etag for stat in stats if stat]


def test_an_image_without_an_etag_must_not_be_much_larger_than_its_size(
    place: tuple[Lake, str], tmp_path: Path
) -> None:
    lake, root = place
    lake.write("large.jpg", b"x" * (2 << 20))
    lake.write("todo.csv", f"key,size\n{root}large.jpg,5\n".encode())
    _, found = read(source_of(lake, None, "todo.csv"), tmp_path)
    assert found == {f"{root}large.jpg": "too_large"}


def test_a_manifest_must_agree_with_its_keys(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("todo.csv", b"key,line\nline=1/a.jpg,2\n")
    with pytest.raises(ConfigError, match="row 1: its line is '2', but its key states '1'"):
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
    assert peak(36_000) < 1.5 * peak(12_000)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_manifest_without_rows_is_said_to_have_none(tmp_path: Path, form: str) -> None:
    lake = Lake(str(tmp_path))
    empty = b"key,size\n" if form == "csv" else parquet_of({"key": pa.array([], pa.string())})
    lake.write(f"list.{form}", empty)
    source = source_of(lake, None, f"list.{form}")
    expected = f"{lake.url}/list.{form} has no rows, expected one for each image."
    with pytest.raises(ConfigError, match=expected):
        source.dates()
    selection = source_of(lake, None, f"list.{form}").select(DATE)
    assert list(selection) == []
    assert str(selection.explain_empty()).startswith(expected)
