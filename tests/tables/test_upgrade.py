"""`upgrade` makes a store of an earlier build what this one would have written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.cli import cli
from steel_batch.lake import Lake
from steel_batch.tables.evolution import partly_bounded_files, unbounded_files
from steel_batch.tables.table_log import all_live_files, ensure_tables, open_table
from steel_batch.tables.upgrade import upgrade_table
from steel_batch.tables.verify import verify
from tests.golden_store import copy_golden_store
from tests.made_up_run import commit_run, image_keys

PREDICTIONS = layout.PREDICTIONS


@pytest.fixture
def golden(tmp_path: Path) -> Lake:
    return copy_golden_store(tmp_path).store


def bounds(store: Lake, table: str) -> list[dict[str, object]]:
    found = pa.table(open_table(store, table).get_add_actions(flatten=True))
    names = [n for n in found.column_names if n.split(".")[0] in ("min", "max", "null_count")]
    return sorted(found.select(["path", *names]).to_pylist(), key=lambda row: str(row["path"]))


def test_every_file_gets_bounds_of_every_column(golden: Lake) -> None:
    for table in layout.TABLES:
        done = upgrade_table(golden, table)
        num_files = len(all_live_files(golden, table))
        assert (done.is_changed, done.num_bounded, done.unreadable) == (True, num_files, ())
        opened = open_table(golden, table)
        assert unbounded_files(opened).num_rows == partly_bounded_files(opened).num_rows == 0
    dataset = open_table(golden, PREDICTIONS).to_pyarrow_dataset()
    assert len(list(dataset.get_fragments(pc.field("width") == 160))) == 4
    assert len(list(dataset.get_fragments(pc.field("width") == 161))) == 0
    assert len(list(dataset.get_fragments(pc.field("runtime").is_null()))) == 4
    assert len(list(dataset.get_fragments(pc.field("runtime") == "onnxruntime"))) == 0
    assert list(verify(golden)) == []


def test_bounds_from_a_footer_are_those_that_a_run_writes(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    commit_run(store, image_keys(9, lines=("1", None)), bad=image_keys(2), merge_bytes=1)
    before = {table: bounds(store, table) for table in layout.TABLES}
    for table in layout.TABLES:
        withdraw_bounds(store, table)
        assert upgrade_table(store, table).num_bounded == len(before[table])
    assert {table: bounds(store, table) for table in layout.TABLES} == before


def withdraw_bounds(store: Lake, table: str) -> None:
    log = Path(store.uri(table)) / "_delta_log" / "00000000000000000001.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            told = json.loads(action["add"]["stats"])
            action["add"]["stats"] = json.dumps({"numRecords": told["numRecords"]})
    log.write_text("\n".join(map(json.dumps, actions)) + "\n")
    assert unbounded_files(open_table(store, table)).num_rows > 0


def test_a_second_upgrade_changes_nothing(golden: Lake) -> None:
    for table in layout.TABLES:
        upgrade_table(golden, table)
        version = open_table(golden, table).version()
        again = upgrade_table(golden, table)
        assert (again.is_changed, again.num_bounded) == (False, 0)
        assert open_table(golden, table).version() == version


def test_rows_are_those_of_before_and_a_checkpoint_keeps_the_bounds(golden: Lake) -> None:
    before = DeltaTable(golden.uri(PREDICTIONS)).to_pyarrow_table().sort_by("image_key")
    upgrade_table(golden, PREDICTIONS)
    table = DeltaTable(golden.uri(PREDICTIONS))
    table.create_checkpoint()
    for entry in sorted(Path(golden.uri(PREDICTIONS), "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()
    found = DeltaTable(golden.uri(PREDICTIONS)).to_pyarrow_table(filters=pc.field("width") == 160)
    assert found.select(before.column_names).sort_by("image_key").equals(before)


def test_a_file_that_is_damaged_is_named_and_the_others_get_their_bounds(golden: Lake) -> None:
    first, *others = all_live_files(golden, PREDICTIONS)
    golden.write(first.key, b"PAR1 no more")
    told = CliRunner().invoke(cli, ["upgrade", "--store", golden.url, "--output", "json"])
    assert told.exit_code == 1
    predictions = json.loads(told.stdout)[0]
    assert predictions["unreadable"] == [first.key]
    assert predictions["num_bounded"] == len(others)
    ensure_tables(golden)
    found = {file.key for file in all_live_files(golden, PREDICTIONS)}
    assert found == {first.key, *(file.key for file in others)}


def test_verify_says_what_readers_miss_until_the_store_is_upgraded(golden: Lake) -> None:
    ask = ["verify", "--store", golden.url]
    before = CliRunner().invoke(cli, ask)
    assert before.exit_code == 0
    assert "column bounds for some columns only, in 8 files" in " ".join(before.output.split())
    upgraded = CliRunner().invoke(cli, ["upgrade", "--store", golden.url])
    assert upgraded.exit_code == 0
    assert "predictions: updated; wrote column bounds of 4 files" in upgraded.output
    after = CliRunner().invoke(cli, ask)
    assert after.exit_code == 0
    assert "bounds" not in after.output
    again = CliRunner().invoke(cli, ["upgrade", "--store", golden.url])
    assert again.output.count("already up to date") == 3


def test_an_earlier_builds_archive_that_nobody_can_write_is_read(
    golden: Lake, tmp_path: Path
) -> None:
    """No command that reads brings it up to date."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for ask in (
        ["query", "SELECT count(runtime) FROM predictions", "--store", golden.url],
        ["quarantine", "list", "--store", golden.url],
        ["verify", "--store", golden.url],
        ["gc", "--store", golden.url, "--dry-run"],
    ):
        done = CliRunner().invoke(cli, ask)
        assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
