"""Many dates of one source: what says them is read once, and each date is what it was alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, pack
from steel_batch.sources.contract import Selection, Source
from steel_batch.sources.image_ref import BATCH_ROWS, ImageRef
from steel_batch.sources.kept import Kept
from steel_batch.sources.manifest import ManifestSource
from steel_batch.sources.manifest_columns import RowBlock
from tests.sources.made_up_sources import inventory, parquet_of, source_of, tar_of

DATES = [f"2026-{month:02}-{day:02}" for month in (10, 11) for day in range(1, 16)]
NO_DATE = "2026-12-31"
Said = tuple[list[ImageRef], int, str | None]


def said(selection: Selection) -> Said:
    """Everything that a selection gives."""
    images = sorted(selection, key=lambda ref: ref.image_key)
    return images, selection.num_left_out, selection.example_left_out


def write_manifest(lake: Lake, form: str) -> tuple[str | None, str]:
    """The key pattern and name of a manifest of four images a date."""
    rows: list[dict[str, Any]] = [
        {"key": f"{date}/{i}.jpg", "size": i, "e_tag": f"e{i}"} for i in range(4) for date in DATES
    ]
    if form == "inventory":
        others = [{"key": f"{name}.txt", "size": 1, "e_tag": "e"} for name in "ab"]
        return "{date}/{image_id}.jpg", inventory(lake, "Parquet", [*rows, *others])
    told = [
        {"key": row["key"], "size": row["size"], "etag": row["e_tag"], "date": row["key"][:10],
         "line": None if row["size"] == 1 else "7", "camera": str(row["size"])}
        for row in rows
    ]  # fmt: skip
    if form == "parquet":
        lake.write("m.parquet", parquet_of({name: [t[name] for t in told] for name in told[0]}))
        return None, "m.parquet"
    lines = [",".join("" if value is None else str(value) for value in t.values()) for t in told]
    lake.write("m.csv", "\n".join([",".join(told[0]), *lines, ""]).encode())
    return None, "m.csv"


def count_reads(source: Source) -> list[str]:
    """A list that grows with each time that a manifest is read."""
    assert isinstance(source, ManifestSource)
    reads, read = [], source.read_rows

    def counted() -> Iterator[RowBlock]:
        reads.append(source.place)
        return read()

    source.read_rows = counted
    return reads


@pytest.mark.parametrize("form", ["csv", "parquet", "inventory"])
def test_a_manifest_is_read_once_for_all_of_its_dates(tmp_path: Path, form: str) -> None:
    lake = Lake(str(tmp_path))
    pattern, name = write_manifest(lake, form)
    source, alone = source_of(lake, pattern, name), source_of(lake, pattern, name)
    reads, reads_alone = count_reads(source), count_reads(alone)
    assert source.dates() == DATES
    for date in [*DATES, NO_DATE, None]:
        assert said(source.select(date)) == said(alone.select(date))
    assert (len(reads), len(reads_alone)) == (1, len(DATES) + 2)
    left_out = (2, "a.txt") if form == "inventory" else (0, None)
    images, *beside = said(source.select(DATES[0]))
    assert ([ref.bytes for ref in images], tuple(beside)) == ([0, 1, 2, 3], left_out)
    empty, empty_alone = source.select(NO_DATE), alone.select(NO_DATE)
    assert (list(empty), list(empty_alone)) == ([], [])
    assert str(empty.explain_empty()) == str(empty_alone.explain_empty())


@pytest.mark.parametrize("has_index", [True, False])
def test_tars_are_opened_once_for_the_dates_of_their_members(
    tmp_path: Path, has_index: bool
) -> None:
    loose, lake = Lake(str(tmp_path / "loose")), Lake(str(tmp_path / "tars"))
    for date in DATES:
        for i in range(3):
            loose.write(f"{date}_{i}.jpg", b"%d" % i * 700)
    loose.write("other.jpg", b"o")
    pack(PackConfig(images=loose.url, out=lake.url, shard_bytes=1 << 16), lambda _: None)
    indexes = [item.key for item in lake.list_objects() if item.key.endswith(".idx")]
    assert len(indexes) > 2
    if not has_index:
        lake.delete(indexes)
    pattern = "*.tar#{date}_{image_id}.jpg"
    source, alone = source_of(lake, pattern), source_of(lake, pattern)

    before = lake.counts()["requests"]
    everything = said(alone.select(None))
    once = lake.counts()["requests"] - before
    before = lake.counts()["requests"]
    assert source.dates() == DATES
    found = [said(source.select(date)) for date in [*DATES, NO_DATE]]
    assert lake.counts()["requests"] - before == once
    assert found == [said(alone.select(date)) for date in [*DATES, NO_DATE]]
    assert said(source.select(None)) == everything
    assert (len(found[0][0]), found[0][1]) == (3, 1)
    empty, empty_alone = source.select(NO_DATE), alone.select(NO_DATE)
    assert (list(empty), list(empty_alone)) == ([], [])
    assert str(empty.explain_empty()) == str(empty_alone.explain_empty())


def test_what_says_no_date_is_of_every_date(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    image = {"image": [b"a", b"b"]}
    lake.write("dated.parquet", parquet_of({**image, "date": DATES[:2], "line": ["1", None]}))
    lake.write("undated.parquet", parquet_of(image))
    source, alone = source_of(lake, "*.parquet"), source_of(lake, "*.parquet")
    assert source.dates() == DATES[:2]
    for date, num_images in ((DATES[0], 3), (DATES[1], 3), (NO_DATE, 2), (None, 4)):
        images, *_ = found = said(source.select(date))
        assert found == said(alone.select(date))
        assert len(images) == num_images


def test_a_manifest_of_containers_is_read_once_for_the_dates_in_its_keys(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for date in DATES[:3]:
        lake.write(f"{date}/s.tar", tar_of([("a.jpg", b"a"), ("b.txt", b"b")]))
    keys = "".join(f"{date}/s.tar\n" for date in DATES[:3])
    lake.write("m.csv", f"key\n{keys}".encode())
    source = source_of(lake, "{date}/*.tar", "m.csv")
    reads = count_reads(source.objects)  # type: ignore[attr-defined]  # it is `Containers`
    assert source.dates() == DATES[:3]
    for date in DATES[:3]:
        (ref,), *left_out = said(source.select(date))
        assert (ref.image_key, *left_out) == (f"{date}/s.tar#a.jpg", 1, f"{date}/s.tar#b.txt")
    assert len(reads) == 2  # of its first row, to see whether the keys say dates, and of all


def test_a_key_that_is_listed_twice_is_refused_for_every_date(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    rows = "".join(f"{date}.jpg,{date}\n" for date in [*DATES[:3], DATES[1]])
    lake.write("m.csv", f"key,date\n{rows}".encode())
    source = source_of(lake, None, "m.csv")
    assert source.dates() == DATES[:3]
    for date in DATES[:3]:
        with pytest.raises(
            ConfigError, match=f"row 4: the key '{DATES[1]}.jpg' is already in row 2"
        ):
            list(source.select(date))


def test_sizes_are_looked_up_when_their_date_is_selected(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("m.csv", f"key,date\na.jpg,{DATES[0]}\nb.jpg,{DATES[1]}\n".encode())
    source = source_of(lake, None, "m.csv")
    assert source.dates() == DATES[:2]
    lake.write("a.jpg", b"late")
    assert [ref.bytes for ref in source.select(DATES[0])] == [4]
    assert [(ref.bytes, ref.etag) for ref in source.select(DATES[1])] == [(0, "")]


def test_dates_are_selected_by_several_threads_at_once(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    pattern, name = write_manifest(lake, "csv")
    source = source_of(lake, pattern, name)
    source.dates()
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda date: said(source.select(date)), DATES * 4))
    assert at_once == [said(source.select(date)) for date in DATES] * 4


@pytest.mark.parametrize("backwards", [False, True])
def test_dates_of_any_size_that_are_read_together_are_what_each_is_alone(backwards: bool) -> None:
    sizes = dict(
        zip(DATES, [3, BATCH_ROWS + 1, 5, BATCH_ROWS, 2, 1, BATCH_ROWS - 2, 4], strict=False)
    )
    kept = Kept(
        ImageRef(
            image_key=f"{date}/{i}", image_id=str(i), date=date, line=None,
            object_key=f"{date}/{i}", bytes=i, etag="e",
        )
        for i in range(max(sizes.values()))
        for date, num in sizes.items()
        if i < num
    )  # fmt: skip
    for date, num in sorted(sizes.items(), reverse=backwards):
        for _ in range(2):
            found = [key for batch in kept.select(date) for key in batch["image_key"].to_pylist()]
            assert sorted(found) == sorted(f"{date}/{i}" for i in range(num))
    assert list(kept.select(NO_DATE)) == []
    assert kept.dates == set(sizes)


_KEEP = """
import sys, tempfile
from pathlib import Path
from steel_batch.sources.open import open_source

def num_kept():
    return len(list(Path(tempfile.gettempdir()).iterdir()))

source = open_source(sys.argv[1], None)
source.dates()
kept = [num_kept()]
selection = iter(source.select("2026-11-21"))
next(selection)
del source
kept.append(num_kept())
del selection
kept.append(num_kept())
last = open_source(sys.argv[1], None)
last.dates()
print(*kept, num_kept())
raise KeyboardInterrupt
"""


def test_what_is_kept_is_deleted_with_its_source_and_at_the_end(tmp_path: Path) -> None:
    lake, scratch = Lake(str(tmp_path / "lake")), tmp_path / "scratch"
    scratch.mkdir()
    lake.write("m.csv", b"key,etag,date,size\na.jpg,e,2026-11-21,1\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _KEEP, lake.uri("m.csv")],
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    assert done.stdout.split() == ["1", "1", "0", "1"], done.stderr
    assert "Warning" not in done.stderr
    assert list(scratch.iterdir()) == []


def test_memory_does_not_grow_with_what_is_kept(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))

    def peak(num: int) -> int:
        rows = "\n".join(f"{i:07}.jpg,5,e,{DATES[i % 30]}" for i in range(num))
        lake.write("m.csv", f"key,size,etag,date\n{rows}\n".encode())
        del rows
        tracemalloc.start()
        source = source_of(lake, None, "m.csv")
        assert sum(1 for date in source.dates() for _ in source.select(date)) == num
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)
    assert peak(30_000) < 1.5 * peak(10_000)
