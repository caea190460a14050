"""`verify` compares the rows with what runs, plans and records state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from steel_batch import layout, schema
from steel_batch.lake import Lake
from steel_batch.runs.record import RunResult
from steel_batch.tables.commit import land
from steel_batch.tables.committed import read_rows
from steel_batch.tables.file_lists import load_files, save_files
from steel_batch.tables.table_log import live_files
from steel_batch.tables.verify import Problem, verify
from tests.made_up_run import (
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    merge,
    score_shards,
)
from tests.tables.conftest import sound_store
from tests.tables.sound_store import found, relist, with_column

store = sound_store


def test_a_duplicate_commit_is_found(store: Lake) -> None:
    """The same rows once more, as a run under another id that did not know of the first."""
    record = begin(store, image_keys(3, first=10))
    score_shards(store, record)
    finish(store, record, merge(store, record))
    (problem,) = verify(store)
    assert (problem.kind, problem.key) == (
        "duplicate", f"predictions/{layout.partition(ENGINE, DATE)}",
    )  # fmt: skip
    assert problem.message == ("3 images have more than one row, for example 1/im00010.jpg")


def test_the_same_file_committed_under_another_name_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 1)
    (file, *_) = load_files(store, run_id, "predictions") or []
    again = layout.run_id(ENGINE, DATE, 9)
    copy = dataclasses.replace(
        file, merged=file.target, target=layout.table_file("predictions", ENGINE, DATE, again, 0)
    )
    land(store, "predictions", again, [copy])
    partition = f"predictions/{layout.partition(ENGINE, DATE)}"
    assert found(store) == [("unrecorded", copy.target), ("duplicate", partition)]


def test_the_same_image_of_two_dates_or_engines_is_no_duplicate(store: Lake) -> None:
    commit_run(store, image_keys(4), engine="other-ffffffffffff")
    assert found(store) == []


def rewrite_result(store: Lake, change: Callable[[RunResult], RunResult]) -> str:
    key = layout.run_file(layout.run_id(ENGINE, DATE, 1), "result.json")
    changed = change(RunResult.from_json(store.read(key), source=key))
    store.write(key, json.dumps(changed.to_json()).encode())
    return key


@pytest.mark.parametrize(
    "counts",
    [
        {"num_scored": 7},
        {"num_quarantined": 1},
        {"num_scored": 9, "num_quarantined": 1},
        {"num_scored": 7, "num_quarantined": 3},
    ],
    ids=str,
)
def test_counts_that_do_not_add_up_are_found(store: Lake, counts: dict[str, int]) -> None:
    """Of ten images, eight were predicted and two quarantined."""
    key = rewrite_result(store, lambda result: dataclasses.replace(result, **counts))  # type: ignore[arg-type]
    assert found(store) == [("miscounted", key)]


def test_a_plan_with_more_images_than_were_scored_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 1)
    key = layout.run_file(run_id, "run.json")
    record = json.loads(store.read(key))
    store.write(key, json.dumps({**record, "num_images": 11}).encode())
    (problem,) = verify(store)
    assert problem == Problem(
        kind="miscounted",
        key=layout.run_file(run_id, "result.json"),
        message="planned 11, predicted 8 (8 in files), quarantined 2 (2 in files)",
    )


def test_quarantine_entries_that_were_not_written_are_found(store: Lake) -> None:
    """The run says that it set two images aside, and its file holds one."""
    run_id = layout.run_id(ENGINE, DATE, 1)
    (file,) = load_files(store, run_id, "quarantine") or []
    save_files(store, run_id, "quarantine", [dataclasses.replace(file, num_rows=1)])
    (log_says, counts) = verify(store)
    assert (log_says.kind, log_says.key) == ("miscounted", file.target)
    assert counts.message.endswith("quarantined 2 (1 in files)")


def test_rows_that_the_log_counts_otherwise_are_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 2)
    (file,) = load_files(store, run_id, "predictions") or []
    save_files(store, run_id, "predictions", [dataclasses.replace(file, num_rows=2)])
    assert found(store) == [("miscounted", file.target)]


def test_a_file_without_a_record_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 2)
    store.delete([layout.files_list(run_id, "predictions")])
    assert found(store) == [("unrecorded", first_file_of(store, run_id))]


def first_file_of(store: Lake, run_id: str) -> str:
    (key,) = [f.key for f in live_files(store, "predictions", ENGINE, DATE) if run_id in f.key]
    return key


def test_images_that_were_tried_again_and_left_the_quarantine_are_no_problem(store: Lake) -> None:
    keys = image_keys(2)
    commit_run(store, keys, retry_quarantined=True, bad=keys[1:])
    assert found(store) == []


def test_dates_that_are_checked_together_are_told_apart(tmp_path: Path) -> None:
    """Each of them has the same keys, and five of them have another fault."""
    store = Lake(str(tmp_path / "store"))
    dates = [f"2026-10-{day:02d}" for day in range(1, 13)]
    keys = image_keys(6)
    runs = {date: commit_run(store, keys, date=date, bad=keys[:1]) for date in dates}

    def part(table: str, date: str) -> str:
        return f"{table}/{layout.partition(ENGINE, date)}"

    def rows_of(table: str, date: str) -> pa.Table:
        return pa.Table.from_batches(
            read_rows(store, live_files(store, table, ENGINE, date), schema.TABLES[table]),
            schema=schema.TABLES[table],
        )

    def change(table: str, date: str, rows: pa.Table) -> None:
        relist(store, table, str(runs[date].run_id), rows)

    summary = rows_of(layout.CLASS_SUMMARIES, dates[2])
    counts = [n + (i == 3) for i, n in enumerate(summary["num_images"].to_pylist())]
    change(layout.CLASS_SUMMARIES, dates[2], with_column(summary, "num_images", counts))
    change(layout.CLASS_SUMMARIES, dates[4], summary.slice(0, 0))
    change(layout.CLASS_SUMMARIES, dates[10], rows_of(layout.CLASS_SUMMARIES, dates[10])[:-1])
    twice = rows_of(layout.PREDICTIONS, dates[6])
    change(layout.PREDICTIONS, dates[6], pa.concat_tables([twice.slice(1), twice.slice(1, 1)]))
    both = rows_of(layout.QUARANTINE, dates[8])
    change(layout.QUARANTINE, dates[8], with_column(both, "image_key", [keys[3]]))

    problems = {problem.key: problem for problem in verify(store)}
    assert {key: problem.kind for key, problem in problems.items()} == {
        part(layout.CLASS_SUMMARIES, dates[2]): "miscounted",
        part(layout.CLASS_SUMMARIES, dates[4]): "lost",
        part(layout.CLASS_SUMMARIES, dates[10]): "miscounted",
        part(layout.PREDICTIONS, dates[6]): "duplicate",
        part(layout.QUARANTINE, dates[8]): "duplicate",
    }
    assert "line 1, class 4 has num_images" in problems[part("class_summaries", dates[2])].message
    assert "line 2, class 4 is only in the predictions" in (
        problems[part("class_summaries", dates[10])].message
    )
    assert f"for example {keys[3]}" in problems[part("quarantine", dates[8])].message
