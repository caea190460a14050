"""Merging: sorted files, cut by size, cheap to ask about one line, and nothing damaged in them."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch import layout, schema
from steel_batch.lake import Lake
from steel_batch.runs.receipt import Receipt
from steel_batch.runs.record import RunRecord
from steel_batch.tables.file_lists import DataFile, load_files, save_files
from steel_batch.tables.merge import (
    LEAST_GROUP_ROWS,
    READ_AT_ONCE,
    ROW_GROUP_ROWS,
    DamagedShardsError,
    _row_groups,
    cut_files,
    merge_shards,
    write_file,
)
from tests.made_up_run import (
    begin,
    image_keys,
    made_up_row,
    merge,
    rows_table,
    score_shards,
)

sizes = st.lists(st.integers(0, 50), max_size=40)


@given(sizes=sizes, target=st.integers(1, 120))
@settings(deadline=None)
def test_every_shard_with_rows_is_in_one_file_that_is_no_larger_than_it_may_be(
    sizes: list[int], target: int
) -> None:
    ranges = cut_files(np.array(sizes, np.int64), target)
    covered = [shard for shards in ranges for shard in shards]
    assert covered == sorted(set(covered))
    assert {shard for shard, size in enumerate(sizes) if size} <= set(covered)
    for shards in ranges:
        members = [sizes[shard] for shard in shards if sizes[shard]]
        assert members
        assert sum(members) <= target or len(members) == 1
    for shards, after in itertools.pairwise(ranges):
        assert sum(sizes[s] for s in shards) + sizes[after.start] > target


def test_a_run_without_rows_makes_no_files() -> None:
    assert cut_files(np.zeros(3, np.int64), 100) == []


def forty(lake: Lake) -> RunRecord:
    """Forty images of three lines, one of them without a name, in shards of four."""
    return begin(lake, image_keys(40, lines=("2", None, "1")))


@pytest.fixture
def planned(folder: Lake) -> RunRecord:
    return forty(folder)


def read(lake: Lake, file: DataFile) -> pa.Table:
    with lake.open_input(file.merged) as stream:
        return pq.read_table(stream)


def test_files_hold_every_row_once_sorted_by_line_and_key(lake: Lake) -> None:
    planned = forty(lake)
    score_shards(lake, planned)
    files = merge(lake, planned, merge_bytes=1)
    assert len(files) == planned.num_shards == 10
    rows = [row for file in files for row in read(lake, file).to_pylist()]
    order = [(row["line"] or "", row["image_key"]) for row in rows]
    assert order == sorted(order)
    made = [made_up_row(key, planned.run_id) for key in image_keys(40, lines=("2", None, "1"))]
    expected = {row["image_key"]: row for row in rows_table(made).to_pylist()}
    assert {row["image_key"]: row for row in rows} == expected
    assert len(rows) == 40


def test_a_file_grows_up_to_the_size_bound(folder: Lake, planned: RunRecord) -> None:
    receipts = score_shards(folder, planned)
    bound = 3 * max(receipt.staged_bytes for receipt in receipts)
    files = merge(folder, planned, merge_bytes=bound)
    assert [file.num_rows for file in files] == [12, 12, 12, 4]
    assert [file.target.rpartition("-")[2] for file in files] == [
        f"{number:05d}.parquet" for number in range(4)
    ]


def test_the_record_of_a_file_is_what_lies_there(lake: Lake) -> None:
    planned = forty(lake)
    score_shards(lake, planned)
    (file,) = merge(lake, planned)
    data = lake.read(file.merged)
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    table = read(lake, file)
    assert table.schema.equals(schema.PREDICTIONS)
    assert file.num_rows == table.num_rows == 40
    assert file.stats["numRecords"] == 40
    bounded = {f.name for f in schema.PREDICTIONS if not pa.types.is_nested(f.type)}
    assert bounded == set(file.stats["nullCount"])
    for name in bounded - {"scored_at"}:
        values = [value for value in table[name].to_pylist() if value is not None]
        assert file.stats["minValues"][name] == min(values)
        assert file.stats["maxValues"][name] == max(values)
        assert file.stats["nullCount"][name] == 40 - len(values)
    assert file.stats["nullCount"]["line"] == 13
    assert file.stats["minValues"]["scored_at"] == "2026-11-21T03:00:00.000000Z"


def test_merging_again_gives_the_same_bytes(folder: Lake, planned: RunRecord) -> None:
    score_shards(folder, planned)
    assert merge(folder, planned) == merge(folder, planned)


def line_of(line: str | None, num_rows: int) -> pa.Table:
    """Many rows of one line."""
    row = rows_table([made_up_row(f"{line or '-'}/im.jpg", "r")])
    return row.take(pa.array(np.zeros(num_rows, np.int64)))


def test_a_long_line_has_a_row_group_of_its_own_which_says_so(folder: Lake) -> None:
    file = write_predictions(folder, [line_of(n, LEAST_GROUP_ROWS) for n in (None, "1", "2")])
    with folder.open_input(file.merged) as stream:
        metadata = pq.read_metadata(stream)
    assert bounds(metadata, "line") == [(None, None), ("1", "1"), ("2", "2")]
    assert group_sizes(folder, file) == [LEAST_GROUP_ROWS] * 3
    assert all(least is not None for least, _ in bounds(metadata, "has_defect"))


def test_thousands_of_short_lines_share_few_row_groups(folder: Lake) -> None:
    """Each row group costs some kilobytes of footer, and some milliseconds."""
    rows = line_of("1", 3 * 5000)
    lines = pa.array(np.repeat([f"{n:04d}" for n in range(5000)], 3))
    rows = rows.set_column(rows.schema.get_field_index("line"), rows.schema.field("line"), lines)
    file = write_predictions(folder, [rows.slice(n, 64) for n in range(0, rows.num_rows, 64)])
    with folder.open_input(file.merged) as stream:
        metadata = pq.read_metadata(stream)
    *sizes, last = group_sizes(folder, file)
    assert len(sizes) == 3, "of the 5,000 that lines of their own would have"
    assert sum(sizes) + last == 15_000
    assert all(LEAST_GROUP_ROWS <= size < LEAST_GROUP_ROWS + 3 for size in sizes)
    found = bounds(metadata, "line")
    assert all(str(one[1]) < str(other[0]) for one, other in itertools.pairwise(found))


@given(
    st.lists(st.integers(1, 2 * ROW_GROUP_ROWS), min_size=1, max_size=12),
    st.lists(st.integers(0, 100_000), max_size=20),
    st.booleans(),
)
def test_row_groups_are_neither_small_nor_large_and_end_with_lines(
    num_rows: list[int], cuts: list[int], by_line: bool
) -> None:
    lines = np.repeat(np.arange(len(num_rows)), num_rows)
    names = pa.array([None, *(f"{n:02d}" for n in range(1, len(num_rows)))], pa.string())
    rows = pa.table({"line": names.take(pa.array(lines)), "number": np.arange(len(lines))})
    places = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
    parts = [rows.slice(first, stop - first) for first, stop in itertools.pairwise(places)]
    groups = list(_row_groups(parts, by_line))
    assert pa.concat_tables(groups).equals(rows)
    stops = np.cumsum([group.num_rows for group in groups])
    for group, stop in zip(groups[:-1], stops[:-1], strict=True):
        is_end = lines[stop - 1] != lines[stop]
        assert group.num_rows == ROW_GROUP_ROWS or (by_line and is_end)
        assert LEAST_GROUP_ROWS <= group.num_rows <= ROW_GROUP_ROWS


def bounds(metadata: pq.FileMetaData, name: str) -> list[tuple[object, object]]:
    """Least and greatest value of a column in each row group."""
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    found = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(names.index(name)).statistics
        found.append((statistics.min, statistics.max) if statistics.has_min_max else (None, None))
    return found


def test_statistics_spare_readers_the_other_lines_and_those_without_defects(folder: Lake) -> None:
    tables = []
    for line in ("1", "2", "3"):
        rows = [made_up_row(key, "r") for key in image_keys(200, lines=(line,))]
        if line != "2":
            rows = [{**row, "has_defect": False, "defects": []} for row in rows]
        tables += [rows_table(rows)] * (LEAST_GROUP_ROWS // 200 + 1)
    file = write_predictions(folder, tables)
    with folder.open_input(file.merged) as stream:
        fragment = ds.ParquetFileFormat().make_fragment(pa.BufferReader(stream.read()))
        line, has_defect = ds.field("line"), ds.field("has_defect")
        for where, num_groups in (
            (line != "nothing", 3),
            (line == "2", 1),
            (line == "4", 0),
            (has_defect, 1),
            (has_defect & (line == "1"), 0),
        ):
            assert len(fragment.split_by_row_group(where)) == num_groups, where


def write_predictions(lake: Lake, tables: Sequence[pa.Table]) -> DataFile:
    return write_file(
        lake,
        schema.PREDICTIONS,
        tables,
        merged="merged.parquet",
        target="target.parquet",
    )


def group_sizes(lake: Lake, file: DataFile) -> list[int]:
    with lake.open_input(file.merged) as stream:
        metadata = pq.read_metadata(stream)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def test_row_groups_are_no_larger_than_they_may_be_however_large_a_shard(folder: Lake) -> None:
    row = rows_table([made_up_row("1/im.jpg", "r")])
    large = row.take(pa.array(np.zeros(2 * ROW_GROUP_ROWS + 5, np.int64)))
    file = write_predictions(folder, [row, large, row])
    sizes = group_sizes(folder, file)
    assert sum(sizes) == file.num_rows == 2 * ROW_GROUP_ROWS + 7
    assert max(sizes) <= ROW_GROUP_ROWS


def test_small_shards_share_a_row_group_and_empty_tables_change_nothing(
    folder: Lake,
) -> None:
    parts = [rows_table([made_up_row(key, "r")]) for key in image_keys(6, lines=("1",))]
    nameless = [rows_table([made_up_row(key, "r")]) for key in image_keys(6, lines=(None,))]
    empty = parts[0].slice(0, 0)
    filtered = pa.concat_tables([parts[0], parts[1]]).filter(pa.array([False, False]))
    file = write_predictions(folder, [empty, *nameless, filtered, *parts[:3], empty, *parts[3:]])
    assert group_sizes(folder, file) == [12]


def test_a_table_in_many_chunks_is_cut_at_its_lines_all_the_same(folder: Lake) -> None:
    chunked = pa.concat_tables([line_of(n, 1000) for n in (None, "1", "2") for _ in range(5)])
    assert group_sizes(folder, write_predictions(folder, [chunked])) == [5000, 5000, 5000]


def replace(lake: Lake, receipt: Receipt, data: bytes | None) -> None:
    """Do to a staged file what a test wants; None deletes it."""
    assert receipt.staged is not None
    if data is None:
        lake.delete([receipt.staged])
    else:
        lake.write(receipt.staged, data)


@pytest.mark.parametrize("damage", ["missing", "truncated", "a changed byte", "no receipt"])
def test_a_damaged_shard_is_named(folder: Lake, planned: RunRecord, damage: str) -> None:
    receipt = score_shards(folder, planned)[3]
    data = bytearray(folder.read(str(receipt.staged)))
    if damage == "missing":
        replace(folder, receipt, None)
    elif damage == "truncated":
        replace(folder, receipt, bytes(data[:-1]))
    elif damage == "a changed byte":
        data[len(data) // 2] ^= 1
        replace(folder, receipt, bytes(data))
    else:
        folder.delete([layout.receipt_file(planned.run_id, 3)])
    with pytest.raises(DamagedShardsError, match=r"1 of 10 staged shards .*0000003") as raised:
        merge_shards(folder, planned.run_id, 0, range(planned.num_shards))
    assert list(raised.value.shards) == [3]
    assert "0000003" in raised.value.shards[3]
    assert folder.stat(layout.merged_file(planned.run_id, layout.PREDICTIONS, 0)) is None


def test_a_receipt_that_is_no_receipt_is_a_damaged_shard(folder: Lake, planned: RunRecord) -> None:
    score_shards(folder, planned)
    folder.write(layout.receipt_file(planned.run_id, 2), b"{}")
    with pytest.raises(DamagedShardsError) as raised:
        merge_shards(folder, planned.run_id, 0, range(planned.num_shards))
    assert list(raised.value.shards) == [2]


def test_all_damaged_shards_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    folder = Lake(str(tmp_path))
    planned = begin(folder, image_keys(READ_AT_ONCE + 6), shard_images=1)
    receipts = score_shards(folder, planned)
    replace(folder, receipts[1], b"rows of nobody")
    replace(folder, receipts[3], None)
    folder.delete([layout.receipt_file(planned.run_id, 4)])
    folder.write(layout.receipt_file(planned.run_id, 7), b"{}")
    replace(folder, receipts[READ_AT_ONCE + 2], None)
    with pytest.raises(DamagedShardsError) as raised:
        merge_shards(folder, planned.run_id, 0, range(planned.num_shards))
    assert set(raised.value.shards) == {1, 3, 4, 7, READ_AT_ONCE + 2}
    assert all(f"{shard:07d}" in found for shard, found in raised.value.shards.items())


def test_a_shard_of_quarantined_images_adds_no_rows(folder: Lake, planned: RunRecord) -> None:
    bad = image_keys(40, lines=("2", None, "1"))
    first = sorted(bad, key=lambda key: (key.split("/")[0] != "-", key))[:4]
    score_shards(folder, planned, bad=first)
    (file,) = merge(folder, planned)
    assert file.num_rows == 36


def test_the_list_of_files_is_kept_and_none_is_no_list(folder: Lake, planned: RunRecord) -> None:
    assert load_files(folder, planned.run_id, layout.MERGED) is None
    score_shards(folder, planned)
    files = merge(folder, planned, merge_bytes=1)
    assert load_files(folder, planned.run_id, layout.MERGED) == files
    save_files(folder, planned.run_id, layout.QUARANTINE, [])
    assert load_files(folder, planned.run_id, layout.QUARANTINE) == []


_SIGNALLED = """
import os, signal, sys, time
from steel_batch import interrupt, schema
from steel_batch.lake import Lake
from steel_batch.tables.merge import write_file
from tests.made_up_run import image_keys, made_up_row, rows_table

rows = rows_table([made_up_row(key, "r") for key in image_keys(1000)])
taken = 0

def many():
    global taken
    while taken < 500:
        taken += 1
        if taken == 40:
            os.kill(os.getpid(), signal.SIGTERM)
            while not interrupt.is_requested():
                time.sleep(0.01)
        yield rows

interrupt.install()
with interrupt.noted():
    try:
        write_file(Lake(sys.argv[1]), schema.PREDICTIONS, many(), merged="merged", target="t")
    except interrupt.Interrupted:
        print("stopped")
print(taken)
"""


def test_a_signal_ends_the_writing_of_a_file_at_its_next_row_group(tmp_path: Path) -> None:
    """No request is made meanwhile, at which it would be noticed."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, str(tmp_path / "store")],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    stopped, num_taken = done.stdout.split()
    assert stopped == "stopped"
    assert int(num_taken) <= 40 + ROW_GROUP_ROWS // 1000 + 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
