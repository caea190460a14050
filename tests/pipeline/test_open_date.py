"""What a date needs once it is open: scoring, only a commit, or nothing; told without a cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.scope import DateScope
from steel_batch.pipeline.states import DateState, NothingNew, ToCommit, ToScore
from steel_batch.runs.events import AttemptEnd, Progress, last_end, read_events
from steel_batch.runs.record import RunRecord, read_run
from tests.conftest import committed_rows, fill_lake, scope_of, score_config
from tests.made_up_run import merge, score_shards

NUM_IMAGES = 12


@pytest.fixture
def scope(tmp_path: Path, tiny_engine: Path) -> DateScope:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=NUM_IMAGES)
    return scope_of(score_config(images, store, tiny_engine, shard_images=4), store)


def begin(scope: DateScope) -> RunRecord:
    """What an attempt leaves that is interrupted before a shard is scored."""
    with open_date(scope, lambda _: None) as state:
        assert isinstance(state, ToScore)
        run_id = state.work.run_id
    record = read_run(scope.store, run_id).record
    assert record is not None
    return record


def num_waiting(state: DateState) -> int:
    assert isinstance(state, ToScore)
    return sum(len(shards) for shards in state.work.pending.values())


def test_a_date_is_to_score_then_to_commit_and_then_has_nothing_new(scope: DateScope) -> None:
    record = begin(scope)
    with open_date(scope, lambda _: None) as state:
        assert num_waiting(state) == record.num_shards == 3
    score_shards(scope.store, record)
    with open_date(scope, lambda _: None) as state:
        assert num_waiting(state) == 0, "all is scored, and nothing is merged"
    merge(scope.store, record)
    with open_date(scope, lambda _: None) as state:
        assert isinstance(state, ToCommit)
        assert committed_rows(scope.store) == []
        result = state.commit()
    assert (result.run_id, result.num_scored, result.num_resumed_shards) == (record.run_id, 12, 3)
    assert len(committed_rows(scope.store)) == NUM_IMAGES
    with open_date(scope, lambda _: None) as state:
        assert isinstance(state, NothingNew)
        assert state.result.run_id is None
        assert state.result.num_changed == NUM_IMAGES, "made-up rows have etags of their own"


def test_an_attempt_without_a_result_notes_why(scope: DateScope) -> None:
    record = begin(scope)
    assert last_end(list(read_events(scope.store, record.run_id))).kind == "unknown"
    with pytest.raises(ZeroDivisionError), open_date(scope, lambda _: None):
        raise ZeroDivisionError("of some library")
    ended = last_end(list(read_events(scope.store, record.run_id)))
    assert dataclasses.replace(ended, at="") == AttemptEnd(
        kind="failed", error="ZeroDivisionError", message="of some library"
    )


def test_a_date_is_locked_while_it_is_open_and_free_after(scope: DateScope) -> None:
    name = layout.lock_series(scope.engine_name, scope.date)
    with open_date(scope, lambda _: None):
        with pytest.raises(LockHeldError), Lease(scope.store, name, what="the date"):
            pass
        with pytest.raises(LockHeldError), open_date(scope, lambda _: None):
            pass
    with pytest.raises(ZeroDivisionError), open_date(scope, lambda _: None):
        raise ZeroDivisionError
    with Lease(scope.store, name, what="the date"):
        pass


def test_planning_reports_how_many_images_it_has_listed(scope: DateScope) -> None:
    seen: list[Progress] = []
    with open_date(scope, seen.append):
        pass
    assert {progress.step for progress in seen} == {"planning"}
    listed = [progress.num_done for progress in seen]
    assert listed == sorted(listed)
    assert (listed[0], listed[-1]) == (0, NUM_IMAGES)
