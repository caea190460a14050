"""The tables and their logs: made once, readable, and what is said where a log cannot be read."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import SCHEMAS, all_live_files, ensure_tables, landed, open_table
from tests.made_up_run import commit_run, image_keys, keys_of
from tests.tables.merged_run import image_keys_in

PREDICTIONS = layout.PREDICTIONS


def test_tables_are_made_once_and_empty(folder: Lake) -> None:
    ensure_tables(folder)
    before = keys_of(folder)
    ensure_tables(folder)
    assert keys_of(folder) == before
    for table in layout.TABLES:
        assert open_table(folder, table).version() == 0
        assert all_live_files(folder, table) == []
        fields = run_query(folder, f"SELECT * FROM {table}").schema
        assert fields.names == SCHEMAS[table].names


def test_two_first_runs_may_make_the_tables_at_once(lake: Lake) -> None:
    errors: list[Exception] = []

    def make() -> None:
        try:
            ensure_tables(Lake(lake.url, endpoint_url=lake.endpoint_url))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [open_table(lake, table).version() for table in SCHEMAS] == [0, 0, 0]
    commit_run(lake, image_keys(4))
    assert image_keys_in(lake) == sorted(image_keys(4))


def test_a_store_without_tables_says_that_nothing_was_scored(lake: Lake) -> None:
    assert all_live_files(lake, PREDICTIONS) == []
    assert not landed(lake, PREDICTIONS, "r")
    with pytest.raises(LakeError, match=f"no table {lake.url}/predictions: nothing has been"):
        open_table(lake, PREDICTIONS)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        LakeError, match=r"file/store/predictions cannot be created: .*Check --store"
    ):
        ensure_tables(Lake(str(tmp_path / "file" / "store")))


def test_the_log_names_the_run_that_wrote_it(folder: Lake) -> None:
    result = commit_run(folder, image_keys(4))
    entry = folder.read("predictions/_delta_log/00000000000000000001.json").decode()
    actions = [json.loads(line) for line in entry.splitlines()]
    (transaction,) = [action["txn"] for action in actions if "txn" in action]
    assert transaction["appId"] == result.run_id


def test_a_log_entry_that_is_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    for day in (1, 2, 3):
        commit_run(store, image_keys(2), date=f"2026-10-{day:02d}")
    entry = "predictions/_delta_log/00000000000000000002.json"
    store.delete([entry])
    with pytest.raises(LakeError) as caught:
        run_query(store, "SELECT count(*) FROM predictions")
    assert str(caught.value) == (
        f"the table {store.uri('predictions')} cannot be read: its log lacks {store.uri(entry)}. "
        "Restore the entry from a backup, or from the bucket's versions."
    )
