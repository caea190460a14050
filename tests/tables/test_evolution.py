"""Tables of an earlier build become those of this one, and readers find all rows at each step."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Schema

from steel_batch import layout, schema
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.committed import read_file
from steel_batch.tables.evolution import evolve, missing_columns, partly_bounded_files
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import (
    SCHEMAS,
    all_live_files,
    ensure_tables,
    live_files,
    open_table,
)
from steel_batch.tables.verify import verify
from tests.golden_store import GOLDEN_ENGINE, copy_golden_store
from tests.made_up_run import begin, commit_run, image_keys, merge, score_shards

PREDICTIONS = layout.PREDICTIONS
OLD_DATE = "2026-11-20"


@pytest.fixture
def golden(tmp_path: Path) -> Lake:
    return copy_golden_store(tmp_path).store


def count(store: Lake, table: str, where: pc.Expression) -> int:
    """What the README's reader of Delta tables finds."""
    found = DeltaTable(store.uri(table)).to_pyarrow_table(filters=where)
    return int(found.num_rows)


def versions(store: Lake) -> list[int]:
    return [open_table(store, table).version() for table in layout.TABLES]


def test_the_golden_store_has_the_fault_that_it_is_kept_for(golden: Lake) -> None:
    assert count(golden, "class_summaries", pc.field("class_name") == "band_1") == 0
    assert count(golden, PREDICTIONS, pc.field("width") == 160) == 0


def test_a_query_of_an_earlier_builds_store_finds_all_rows(golden: Lake) -> None:
    for where, table, num in (
        ("class_name = 'band_1'", "class_summaries", 4),
        ("width = 160", PREDICTIONS, 26),
        ("width = 1 OR has_defect OR NOT has_defect", PREDICTIONS, 26),
        ("runtime IS NULL AND decoder IS NULL", PREDICTIONS, 26),
        ("bytes = 0", "quarantine", 1),
    ):
        found = run_query(golden, f"SELECT count(*) AS n FROM {table} WHERE {where}").to_pylist()
        assert found == [{"n": num}], where
    assert versions(golden) == [4, 4, 2], "a query writes nothing"


def test_readers_of_a_store_that_was_brought_up_to_date_find_all_rows(golden: Lake) -> None:
    before = {t: DeltaTable(golden.uri(t)).to_pyarrow_table().num_rows for t in layout.TABLES}
    ensure_tables(golden)
    assert count(golden, "class_summaries", pc.field("class_name") == "band_1") == 4
    assert count(golden, PREDICTIONS, pc.field("width") == 160) == 26
    assert count(golden, PREDICTIONS, pc.field("runtime").is_null()) == 26
    for table, num in before.items():
        found = DeltaTable(golden.uri(table)).to_pyarrow_table()
        assert found.num_rows == num
        assert found.schema.names == SCHEMAS[table].names
    assert list(verify(golden)) == []


def test_a_store_is_brought_up_to_date_once(golden: Lake, folder: Lake) -> None:
    ensure_tables(golden)
    first = versions(golden)
    ensure_tables(golden)
    assert versions(golden) == first == [6, 5, 3]
    commit_run(folder, image_keys(4))
    before = versions(folder)
    ensure_tables(folder)
    assert versions(folder) == before


def test_two_runs_may_bring_a_store_up_to_date_at_once(golden: Lake) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            ensure_tables(Lake(golden.url))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    names = [field.name for field in open_table(golden, PREDICTIONS).schema().fields]
    assert names == SCHEMAS[PREDICTIONS].names
    assert count(golden, PREDICTIONS, pc.field("width") == 160) == 26


def test_every_step_on_the_way_leaves_readers_all_rows(golden: Lake) -> None:
    """After a process dies between two commits, the next one continues from that state."""
    steps: list[tuple[int, int, int]] = []

    def reopen() -> DeltaTable:
        opened = open_table(golden, PREDICTIONS)
        names = [field.name for field in opened.schema().fields]
        here = opened.to_pyarrow_dataset()
        num_null = 26
        if "runtime" in names:
            num_null = here.to_table(filter=pc.field("runtime").is_null()).num_rows
        found = here.to_table(filter=pc.field("width") == 160).num_rows
        steps.append((opened.version(), found, num_null))
        return opened

    assert evolve(reopen, SCHEMAS[PREDICTIONS])
    assert steps == [(4, 0, 26), (5, 26, 26), (6, 26, 26)]


def test_a_file_that_is_taken_out_meanwhile_is_not_put_back(golden: Lake) -> None:
    """Its statistics are put into the log by naming it again."""
    taken = False

    def reopen() -> DeltaTable:
        nonlocal taken
        opened = open_table(golden, PREDICTIONS)
        if not taken:
            taken = True
            DeltaTable(golden.uri(PREDICTIONS)).delete(f"date = '{OLD_DATE}'")
        return opened

    evolve(reopen, SCHEMAS[PREDICTIONS])
    assert {file.date for file in all_live_files(golden, PREDICTIONS)} == {"2026-11-21"}


def test_a_file_whose_bounds_are_whole_keeps_them(golden: Lake, folder: Lake) -> None:
    commit_run(folder, image_keys(4))
    before = open_table(folder, PREDICTIONS).get_add_actions()
    ensure_tables(folder)
    assert pa.table(open_table(folder, PREDICTIONS).get_add_actions()).equals(pa.table(before))


NO_BOUNDS: dict[str, Any] = {"minValues": {}, "maxValues": {}, "nullCount": {}}


@pytest.mark.parametrize(
    "changes",
    [
        NO_BOUNDS,
        {**NO_BOUNDS, "minValues": {"image_key": "1"}, "maxValues": {"image_key": "3"}},
        {"minValues": {}},
        {"maxValues": {}},
    ],
)
def test_bounds_of_no_column_or_of_one_are_taken_back(
    folder: Lake, changes: dict[str, Any]
) -> None:
    """Also those of other writers: an empty ``minValues`` is as bad as one that lacks a column."""
    record, files = ready(folder)
    log = folder.uri(PREDICTIONS) + "/_delta_log/00000000000000000001.json"
    land(folder, PREDICTIONS, record.run_id, files)
    told = {**files[0].stats, **changes}
    entry = [json.loads(line) for line in Path(log).read_text().splitlines()]
    for action in entry:
        if "add" in action:
            action["add"]["stats"] = json.dumps(told)
    Path(log).write_text("\n".join(map(json.dumps, entry)) + "\n")
    assert count(folder, PREDICTIONS, pc.field("width") == 160) == 0
    ensure_tables(folder)
    assert count(folder, PREDICTIONS, pc.field("width") == 160) == 8
    assert partly_bounded_files(open_table(folder, PREDICTIONS)).num_rows == 0


def test_bounds_without_a_count_of_nulls_are_taken_back(folder: Lake) -> None:
    commit_run(folder, image_keys(6, lines=(None, "1")))
    log = Path(folder.uri(PREDICTIONS)) / "_delta_log" / "00000000000000000001.json"
    entry = [json.loads(line) for line in log.read_text().splitlines()]
    for action in entry:
        if "add" in action:
            told = json.loads(action["add"]["stats"])
            action["add"]["stats"] = json.dumps({**told, "nullCount": {}})
    log.write_text("\n".join(map(json.dumps, entry)) + "\n")
    assert count(folder, PREDICTIONS, pc.field("line").is_null()) == 0
    ensure_tables(folder)
    assert count(folder, PREDICTIONS, pc.field("line").is_null()) == 3


def ready(store: Lake) -> tuple[Any, list[DataFile]]:
    record = begin(store, image_keys(8))
    score_shards(store, record)
    return record, merge(store, record)


def test_statistics_that_an_earlier_build_made_are_not_committed(folder: Lake) -> None:
    """Its run was ended between the merge and the commit, and this build continues it."""
    record, (file,) = ready(folder)
    stats = {
        name: values if name == "numRecords" else {"image_key": values["image_key"]}
        for name, values in file.stats.items()
    }
    raw = {**file.to_json(), "stats": stats}
    land(folder, PREDICTIONS, record.run_id, [DataFile(**raw)])
    assert count(folder, PREDICTIONS, pc.field("width") == 160) == 8


def test_rows_that_an_earlier_build_staged_are_merged_with_null_in_new_columns(
    folder: Lake,
) -> None:
    record = begin(folder, image_keys(8))
    old = pa.schema([f for f in schema.PREDICTIONS if f.name not in schema.PROVENANCE.names])
    score_shards(folder, record, fields=old)
    (file,) = merge(folder, record)
    with folder.open_input(file.merged) as stream:
        rows = pq.read_table(stream)
    assert rows.schema.equals(schema.PREDICTIONS)
    assert rows["runtime"].null_count == rows.num_rows == 8


def test_a_column_that_others_added_is_filled_with_null_by_later_runs(folder: Lake) -> None:
    commit_run(folder, image_keys(4))
    add_column(folder, "remark")
    assert count(folder, PREDICTIONS, pc.field("remark").is_null()) == 0, "as it was added"
    commit_run(folder, image_keys(4, first=4))
    assert count(folder, PREDICTIONS, pc.field("remark").is_null()) == 8
    assert count(folder, PREDICTIONS, pc.field("width") == 160) == 8
    found = run_query(folder, "SELECT count(*) AS n FROM predictions WHERE remark IS NULL")
    assert found.to_pylist() == [{"n": 8}]


def add_column(store: Lake, name: str, kind: pa.DataType | None = None) -> None:
    field = pa.field(name, kind or pa.string())
    table = DeltaTable(store.uri(PREDICTIONS))
    table.alter.add_columns(
        Schema.from_arrow(pa.schema([field])).fields,
        commit_properties=CommitProperties(custom_metadata={"by": "somebody"}),
    )


def test_a_column_of_another_type_is_named_and_nothing_is_written(folder: Lake) -> None:
    commit_run(folder, image_keys(4))
    wanted = pa.schema([*SCHEMAS[PREDICTIONS], pa.field("remark", pa.int64())])
    add_column(folder, "remark")
    before = versions(folder)
    with pytest.raises(LakeError, match=r"column remark .* is string, but this build .* long"):
        evolve(partial(open_table, folder, PREDICTIONS), wanted)
    assert versions(folder) == before


def test_a_table_of_something_else_is_refused(folder: Lake) -> None:
    other = pa.schema([("engine", pa.string()), ("date", pa.date32()), ("x", pa.int32())])
    DeltaTable.create(folder.uri(PREDICTIONS), other, partition_by=["engine", "date"])
    with pytest.raises(LakeError, match=r"has no column image_key: it is not a table of steel"):
        ensure_tables(folder)


def test_columns_after_those_of_28_november_may_be_null(golden: Lake) -> None:
    """As files of that build lack them; a column that must be there cannot be added."""
    for table, fields in SCHEMAS.items():
        added = missing_columns(open_table(golden, table), fields)
        assert all(field.nullable for field in added)
        kept = [name for name in fields.names if name not in added.names]
        assert fields.names == [*kept, *added.names], "at the end"


@pytest.mark.parametrize("names", [["image_key", "runtime"], ["runtime"]])
def test_an_earlier_builds_file_is_read_with_null_in_new_columns(
    golden: Lake, names: list[str]
) -> None:
    fields = pa.schema([schema.PREDICTIONS.field(name) for name in names])
    file = live_files(golden, PREDICTIONS, GOLDEN_ENGINE, OLD_DATE)[0]
    batches = list(read_file(golden, file.key, fields))
    rows = pa.Table.from_batches(batches, schema=fields)
    assert rows.num_rows == file.num_rows
    assert rows["runtime"].null_count == file.num_rows


def test_a_log_that_cannot_be_written_is_named(golden: Lake) -> None:
    """Every commit loses against another one that is there first."""
    number = 100

    def reopen() -> DeltaTable:
        nonlocal number
        number += 1
        opened = open_table(golden, "quarantine")
        DeltaTable(golden.uri("quarantine")).alter.set_table_description(str(number))
        return opened

    with pytest.raises(LakeError, match=r"cannot be brought up to date: .* same command again"):
        evolve(reopen, SCHEMAS["quarantine"])
