"""A run is begun under the lock, and continued where its plan is still what has no rows."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from steel_batch import layout
from steel_batch.config import ScoreConfig
from steel_batch.errors import LockHeldError, PlanMismatchError
from steel_batch.lake import Lake, series
from steel_batch.lake.lock import CONFIRM_SECONDS
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.states import DateState, NothingNew, ToScore
from steel_batch.registry.versions import load_engine
from steel_batch.runs.events import Observer, Progress
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunRecord, list_runs, read_run
from tests.conftest import DATE, band_image, fill_lake, png, scope_of, score_config
from tests.made_up_run import begin, commit_run, finish, keys_of, merge, score_shards

LATE = f"line=1/date={DATE}/late.png"


@dataclass
class Place:
    """Eight images of a date and a store; what is scored there is made up, without Ray."""

    images: Lake
    store: Lake
    config: ScoreConfig

    @property
    def engine(self) -> str:
        return load_engine(self.config.engine, store=self.store).card.name

    @property
    def keys(self) -> list[str]:
        return sorted(keys_of(self.images))

    def open(
        self, store: Lake | None = None, observe: Observer = lambda _: None, **changes: object
    ) -> AbstractContextManager[DateState]:
        """What a command does up to scoring."""
        return open_date(scope_of(self.config.replace(**changes), store or self.store), observe)

    def interrupted(self, **changes: Any) -> str:
        """The run that a command begins or continues before it is interrupted."""
        with self.open(**changes) as state:
            assert isinstance(state, ToScore)
            return state.work.run_id

    def land(self, record: RunRecord) -> None:
        score_shards(self.store, record)
        finish(self.store, record, merge(self.store, record))

    def take_lock(self) -> None:
        """As another does once the holder was suspended for longer than its lease."""
        name = layout.lock_series(self.engine, DATE)
        found = series.latest(self.store, name)
        assert found is not None
        theirs = {**json.loads(found[1]), "token": "another"}
        assert series.put_next(self.store, name, found[0] + 1, json.dumps(theirs).encode())
        time.sleep(CONFIRM_SECONDS + 0.1)  # for so long the holder does not ask


@pytest.fixture
def place(tmp_path: Path, tiny_engine: Path) -> Place:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=8)
    return Place(images, store, score_config(images, store, tiny_engine))


class PlanningLake(Lake):
    """Has something happen when a plan was written."""

    def __init__(self, url: str, *, then: Callable[[str], object]) -> None:
        super().__init__(url)
        self._then = then

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        with super().open_output(key) as stream:
            yield stream
        if key.endswith("plan.parquet"):
            self._then(key)


def test_a_run_that_lost_its_lock_while_it_planned_leaves_no_plan(place: Place) -> None:
    def observe(progress: Progress) -> None:
        assert progress.step == "planning"
        place.take_lock()

    with pytest.raises(LockHeldError, match="lost its lock"), place.open(observe=observe):
        pass
    assert list(list_runs(place.store)) == []


def test_a_run_that_lost_its_lock_while_its_plan_went_up_is_not_begun(place: Place) -> None:
    store = PlanningLake(place.store.url, then=lambda _: place.take_lock())
    with pytest.raises(LockHeldError, match="lost its lock"), place.open(store):
        pass
    (run_id,) = list_runs(place.store)
    assert read_run(place.store, run_id).state == "unplanned"


def test_a_run_whose_number_another_took_is_not_begun(place: Place) -> None:
    def put_theirs(key: str) -> None:
        place.store.write(key.replace("plan.parquet", "run.json"), b"theirs")

    store = PlanningLake(place.store.url, then=put_theirs)
    with (
        pytest.raises(LockHeldError, match=r"another process created run .*-0001 at"),
        place.open(store),
    ):
        pass


def test_a_run_is_abandoned_where_another_landed_since_its_plan(place: Place) -> None:
    """Ours lost the lock while it planned, and was begun all the same."""
    theirs = begin(place.store, place.keys, engine=place.engine)
    ours = place.interrupted(fresh=True)
    assert ours.endswith("-0002")
    place.land(theirs)
    with place.open() as state:
        assert isinstance(state, NothingNew)
        assert (state.result.run_id, state.result.num_images) == (None, 0)
    place.images.write(LATE, png(band_image(1)))
    late = place.interrupted()
    assert late.endswith("-0003")
    (planned,) = Plan(place.store, late)
    assert planned["image_key"].to_pylist() == [LATE]
    assert place.interrupted() == late


def test_a_run_that_a_landed_one_quarantined_all_images_of_is_abandoned_too(place: Place) -> None:
    theirs = begin(place.store, place.keys, engine=place.engine)
    ours = place.interrupted(fresh=True)
    etags = {item.key: item.etag for item in place.images.list_objects()}
    score_shards(place.store, theirs, bad=etags)
    finish(place.store, theirs, merge(place.store, theirs))
    with place.open() as state:
        assert isinstance(state, NothingNew)
    assert ours.endswith("-0002")


@pytest.mark.parametrize(
    "settings", [{}, {"rescore_changed": True}, {"retry_quarantined": True}], ids=str
)
def test_a_run_is_continued_where_none_landed_since(
    place: Place, settings: dict[str, bool]
) -> None:
    commit_run(place.store, place.keys, bad=place.keys[:2], engine=place.engine)
    place.images.write(LATE, png(band_image(1)))
    first = place.interrupted(**settings)
    assert first.endswith("-0002")
    assert place.interrupted(**settings) == first
    fresh = place.interrupted(fresh=True, **settings)
    assert fresh.endswith("-0003")
    assert place.interrupted(**settings) == fresh


def test_a_run_of_an_earlier_version_is_continued(place: Place) -> None:
    run_id = place.interrupted()
    key = layout.run_file(run_id, "run.json")
    record = json.loads(place.store.read(key))
    assert record.pop("files_digest")
    place.store.write(key, json.dumps(record).encode())
    assert place.interrupted() == run_id


def test_a_run_whose_plan_was_written_over_is_not_continued(place: Place) -> None:
    run_id = place.interrupted()
    other = begin(place.store, place.keys[:3], engine=place.engine, date="2026-11-22")
    plan = place.store.read(layout.run_file(other.run_id, "plan.parquet"))
    place.store.write(layout.run_file(run_id, "plan.parquet"), plan)
    with pytest.raises(PlanMismatchError, match="another plan has overwritten it"):
        place.interrupted()
