"""Dates that need nothing are found without opening them, and no other date is taken for one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.backfill import backfill
from steel_batch.pipeline.backfill_config import BackfillConfig
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.scope import open_scope
from steel_batch.pipeline.settled import settled_dates
from steel_batch.pipeline.states import NothingNew, ToScore
from steel_batch.runs.record import RunResult, put_record, put_result, read_run
from steel_batch.tables.table_log import live_files, open_table
from tests.conftest import band_image, fill_lake, png, score_config
from tests.score_here import score_here

DATES = [f"2026-10-{day:02d}" for day in range(1, 5)]
BAD = f"line=1/date={DATES[0]}/bad.png"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Path:
    """A lake and a store in which every date is committed; one has a bad image."""
    path = tmp_path_factory.mktemp("scored")
    images, store = Lake(str(path / "images")), Lake(str(path / "store"))
    for date in DATES:
        fill_lake(images, num_images=4, date=date)
    images.write(BAD, b"half an image")
    images.write(f"line=1/date={DATES[1]}/notes.txt", b"no image")
    for date in DATES:
        score_here(score_config(images, store, tiny_engine, date=date, max_bad=0.5))
    return path


@pytest.fixture
def config(scored: Path, tmp_path: Path, tiny_engine: Path) -> ScoreConfig:
    """Of a copy, in which the images have the times of the original."""
    shutil.copytree(scored, tmp_path, dirs_exist_ok=True)
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    return score_config(images, store, tiny_engine, date="all", max_bad=0.5)


def settled(config: ScoreConfig, dates: list[str] = DATES) -> dict[str, RunResult]:
    """What is found of the dates, by date."""
    return {result.date: result for result in settled_dates(open_scope(config), dates)}


def opened(config: ScoreConfig, date: str) -> RunResult | None:
    """What opening a date finds, if that is nothing new."""
    with open_date(open_scope(config).at(date), lambda _: None) as state:
        return state.result if isinstance(state, NothingNew) else None


def test_a_settled_date_is_what_opening_it_would_find(config: ScoreConfig) -> None:
    changed = Path(config.images) / f"line=1/date={DATES[2]}/im00000.png"
    changed.write_bytes(png(band_image(99)))
    found = settled(config, [*DATES, "2026-11-30"])
    assert sorted(found) == DATES
    store = Lake(config.store)
    versions = [open_table(store, table).version() for table in layout.TABLES]
    for date, result in found.items():
        expected = opened(config, date)
        assert expected is not None
        assert dataclasses.replace(result, seconds=0) == dataclasses.replace(expected, seconds=0)
    assert [open_table(store, table).version() for table in layout.TABLES] == versions
    assert found[DATES[0]].num_committed_before == 5, "an entry in quarantine is one of them"
    assert found[DATES[1]].num_left_out == 1
    assert found[DATES[2]].num_changed == 1
    rescored = dataclasses.replace(config, rescore_changed=True)
    assert sorted(settled(rescored)) == [date for date in DATES if date != DATES[2]]


def test_nothing_is_written_to_find_settled_dates(config: ScoreConfig) -> None:
    store = Lake(config.store)
    before = sorted(item.key for item in store.list_objects())
    scope = dataclasses.replace(open_scope(config), store=store)
    assert len(list(settled_dates(scope, DATES))) == len(DATES)
    assert sorted(item.key for item in store.list_objects()) == before


CHANGES = [
    "late image", "quarantined image changed", "unfinished run", "file left over", "commit lost",
    "damaged record", "missing file", "damaged file", "no images left", "newer run of another kind",
]  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_date_with_something_left_to_do_is_opened(config: ScoreConfig, what: str) -> None:
    images, store, date = Lake(config.images), Lake(config.store), DATES[0]
    scope = open_scope(config)
    run_id = layout.run_id(scope.engine_name, date, 1)
    later = layout.run_id(scope.engine_name, date, 2)
    (file,) = live_files(store, layout.PREDICTIONS, scope.engine_name, date)
    run = read_run(store, run_id)
    assert run.record is not None
    assert run.result is not None
    if what == "late image":
        images.write(f"line=1/date={date}/late.png", png(band_image(7)))
    elif what == "quarantined image changed":
        images.write(BAD, png(band_image(7)))
    elif what == "unfinished run":
        images.write(f"line=1/date={date}/late.png", png(band_image(7)))
        with open_date(scope.at(date), lambda _: None) as state:
            assert isinstance(state, ToScore)
        images.delete([f"line=1/date={date}/late.png"])
    elif what == "file left over":
        store.copy(file.key, layout.table_file("predictions", scope.engine_name, date, later, 0))
    elif what == "commit lost":
        put_record(store, dataclasses.replace(run.record, run_id=later))
        put_result(store, dataclasses.replace(run.result, run_id=later))
    elif what == "damaged record":
        store.write(layout.run_file(run_id, "run.json"), b"{")
    elif what == "missing file":
        store.delete([file.key])
    elif what == "damaged file":
        store.write(file.key, bytes(file.size_bytes))
    elif what == "no images left":
        images.delete([item.key for item in images.list_objects() if date in item.key])
    else:
        store.write(layout.run_file(later, "plan.parquet"), b"half of it")
    assert sorted(settled(config)) == DATES[1:]


def test_a_damaged_table_settles_nothing(config: ScoreConfig) -> None:
    key = f"{layout.PREDICTIONS}/_delta_log/{0:020d}.json"
    Lake(config.store).write(key, b"{")
    assert settled(config) == {}


def test_rechecking_an_archive_without_news_starts_no_cluster(config: ScoreConfig) -> None:
    """And writes what an earlier command could not: an entry of its ledger for each date."""
    settings = BackfillConfig(recheck=True)
    for states in (["done before"] * 4, ["committed"] * 4):
        outcomes = backfill(
            dataclasses.replace(config, ray_address="10.255.255.1:1"), settings, lambda _: None
        )
        assert [outcome.date for outcome in outcomes] == DATES
        assert [outcome.state for outcome in outcomes] == states
    assert len(list(Lake(config.store).list_objects("backfills/"))) == len(DATES)
