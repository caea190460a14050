"""A commit that a table's log lost is found by `verify`, and put back by the next command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.tables.gc import collect
from steel_batch.tables.mending import mend_date
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import landed, live_files
from steel_batch.tables.verify import verify
from tests.made_up_run import (
    CLASSES,
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    keys_of,
    merge,
    score_shards,
)

KEYS = image_keys(10)
LATE = image_keys(4, first=10)
OTHER_DATE = "2026-11-22"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of one date, of which the last one replaced rows, and one of another."""
    path = tmp_path_factory.mktemp("sound") / "store"
    store = Lake(str(path))
    commit_run(store, KEYS, bad=KEYS[:2])
    commit_run(store, LATE, bad=LATE[:1])
    commit_run(store, KEYS[:3], retry_quarantined=True, bad=KEYS[1:2])
    commit_run(store, image_keys(5), date=OTHER_DATE)
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Lake:
    shutil.copytree(sound, tmp_path / "store")
    return Lake(str(tmp_path / "store"))


def problems(store: Lake) -> set[tuple[str, str]]:
    return {(problem.kind, problem.key.partition("/")[0]) for problem in verify(store)}


def rows(store: Lake) -> dict[str, list[dict[str, object]]]:
    return {
        table: run_query(store, f"SELECT * FROM {table} ORDER BY ALL").to_pylist()
        for table in layout.TABLES
    }


def entries(store: Lake, table: str) -> list[Path]:
    return sorted(Path(store.url).glob(f"{table}/_delta_log/*.json"))


def entry_of(store: Lake, table: str, run_id: str) -> Path:
    (path,) = [path for path in entries(store, table) if f'"appId":"{run_id}"' in path.read_text()]
    return path


def overwrite_entry(store: Lake, table: str, run_id: str) -> None:
    """What is left where another writer's commit, of nothing here, took the place of a run's."""
    path = entry_of(store, table, run_id)
    path.write_text('{"commitInfo":{"timestamp":1,"operation":"WRITE"}}\n')


def mend(store: Lake, date: str = DATE) -> list[str]:
    with Lease(store, layout.lock_series(ENGINE, date), what="the date") as lease:
        return mend_date(store, ENGINE, date, CLASSES, lease)


def sweep_all(store: Lake) -> None:
    """Delete what no log names, as earlier builds did at once."""
    live = {f.key for t in layout.TABLES for f in live_files(store, t, ENGINE, DATE)}
    named = {
        k for t in layout.TABLES for k in keys_of(store, f"{t}/{layout.partition(ENGINE, DATE)}/")
    }
    store.delete(named - live)


def test_nothing_is_put_back_where_nothing_is_lost(store: Lake) -> None:
    before = keys_of(store, "predictions/")
    assert problems(store) == set()
    assert mend(store) == []
    assert keys_of(store, "predictions/") == before


@pytest.mark.parametrize("table", layout.TABLES)
def test_an_entry_that_another_replaced_is_found_and_put_back(table: str, store: Lake) -> None:
    before, run_id = rows(store), layout.run_id(ENGINE, DATE, 3)
    overwrite_entry(store, table, run_id)
    assert problems(store)
    assert mend(store) == [run_id]
    assert rows(store) == before
    assert problems(store) == set()


@pytest.mark.parametrize("table", ["predictions", "quarantine"])
def test_what_an_earlier_run_lost_is_found_and_not_put_beside_what_later_runs_scored(
    table: str, store: Lake
) -> None:
    """Its images are new to the next plan, which may have been made already."""
    run_id = layout.run_id(ENGINE, DATE, 2)
    overwrite_entry(store, table, run_id)
    assert ("lost", "runs") in problems(store)
    assert mend(store) == []
    commit_run(store, LATE if table == "predictions" else LATE[:1], bad=LATE[:1])
    sweep_all(store)
    assert {kind for kind, _ in problems(store)} <= {"duplicate"}


@pytest.mark.parametrize("table", layout.TABLES)
def test_the_newest_entry_that_is_deleted_by_hand_is_found_and_put_back(
    table: str, store: Lake
) -> None:
    before, run_id = rows(store), layout.run_id(ENGINE, DATE, 3)
    overwritten = entry_of(store, table, run_id)
    for path in entries(store, table):
        if path >= overwritten:
            path.unlink()
    assert problems(store)
    mended = mend(store)
    if table != layout.QUARANTINE:  # the other date has no entries in it
        assert mend(store, OTHER_DATE) == [layout.run_id(ENGINE, OTHER_DATE, 1)]
    assert mended == [run_id]
    assert rows(store) == before
    assert problems(store) == set()


def test_an_entry_in_the_middle_that_is_deleted_by_hand_is_named(store: Lake) -> None:
    path = entry_of(store, "predictions", layout.run_id(ENGINE, DATE, 2))
    path.unlink()
    (problem,) = verify(store)
    assert (problem.kind, problem.key) == ("missing", f"predictions/_delta_log/{path.name}")
    assert "restore it from a backup" in problem.message


def test_an_entry_behind_a_checkpoint_may_be_cleaned_up(store: Lake) -> None:
    DeltaTable(store.uri("predictions")).create_checkpoint()
    entry_of(store, "predictions", layout.run_id(ENGINE, DATE, 1)).unlink()
    assert problems(store) == set()


def test_the_files_of_a_lost_run_are_no_garbage(store: Lake) -> None:
    before, run_id = rows(store), layout.run_id(ENGINE, DATE, 3)
    overwrite_entry(store, "predictions", run_id)
    assert not [g for g in collect(store) if run_id in g.key and g.key.startswith("predictions/")]
    assert mend(store) == [run_id]
    assert rows(store) == before


def test_images_whose_rows_are_gone_for_good_are_lost_until_they_are_scored_again(
    tmp_path: Path,
) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, KEYS, bad=KEYS[:2])
    run_id = layout.run_id(ENGINE, DATE, 1)
    overwrite_entry(store, "predictions", run_id)
    sweep_all(store)
    lost = [problem for problem in verify(store) if problem.kind == "lost"]
    assert [problem.key for problem in lost] == [layout.run_file(run_id, "result.json")]
    assert "8 of its images have neither a row nor a quarantine entry" in lost[0].message
    assert "backfill --recheck" in lost[0].message
    assert mend(store) == []
    commit_run(store, KEYS[2:])  # what the next plan finds to be new
    assert problems(store) == set()


def test_a_lost_summary_is_made_again_where_its_file_is_gone_too(store: Lake) -> None:
    before, run_id = rows(store), layout.run_id(ENGINE, DATE, 3)
    overwrite_entry(store, "class_summaries", run_id)
    (old,) = [k for k in keys_of(store, "class_summaries/") if run_id in k]
    store.delete([old])
    assert mend(store) == [run_id]
    assert rows(store) == before
    assert problems(store) == set()


def test_a_lost_quarantine_is_made_again_from_the_receipts(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, KEYS, bad=KEYS[:2])
    before = rows(store)
    overwrite_entry(store, "quarantine", layout.run_id(ENGINE, DATE, 1))
    sweep_all(store)
    assert ("lost", "runs") in problems(store)
    assert mend(store) == [layout.run_id(ENGINE, DATE, 1)]
    assert rows(store) == before
    assert problems(store) == set()


def test_a_run_that_landed_after_it_was_given_up_is_finished(store: Lake) -> None:
    """A holder that was suspended landed its rows; another one had begun a later run by then."""
    record = begin(store, image_keys(4, first=50))
    score_shards(store, record)
    files = merge(store, record)

    class Killed(Lake):
        def copy(self, source: str, target: str) -> None:
            if target.startswith("class_summaries/"):
                raise KeyboardInterrupt
            super().copy(source, target)

    with pytest.raises(KeyboardInterrupt):
        finish(Killed(store.url), record, files)
    later = begin(store, image_keys(4, first=60))
    assert mend(store) == [record.run_id]
    assert landed(store, "class_summaries", record.run_id)
    score_shards(store, later)
    finish(store, later, merge(store, later))
    assert problems(store) == set()


def test_an_image_with_a_row_and_a_quarantine_entry_is_found(store: Lake) -> None:
    """As where a retry's rows landed and its quarantine is in no log."""
    for path in entries(store, "quarantine")[-1:]:
        path.unlink()
    assert problems(store), "the entries that were taken out are back"


def test_a_summary_that_is_not_that_of_its_rows_is_found(store: Lake) -> None:
    DeltaTable(store.uri("class_summaries")).update(
        updates={"num_defective": "num_defective + 1"}, predicate="class_id = 1"
    )
    found = [p for p in verify(store) if p.kind == "miscounted"]
    assert len(found) == 2, "of each date"
    assert "line 1, class 1 has num_defective" in found[0].message
