"""`score --date all`: every date that the images name, by the mechanism of a backfill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import LockHeldError, TooManyBadImagesError
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.score import in_order, score
from steel_batch.registry.versions import load_engine
from steel_batch.runs.record import RunResult
from tests.conftest import PATTERN, fill_lake, score_config
from tests.made_up_run import commit_run, keys_of
from tests.pipeline.decoders import NOTE

DATES = ("2026-11-20", "2026-11-21", "2026-11-22")
NOBODY = "http://127.0.0.1:9"
"""An address of no cluster; at one that might be a head, the command would wait for it to start."""


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    """Four images of each of three dates."""
    lake = Lake(str(tmp_path / "images"))
    for date in DATES:
        fill_lake(lake, num_images=4, date=date)
    return lake


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_all_dates_are_scored_by_one_actor_that_loads_the_engine_once(
    images: Lake, store: Lake, tiny_engine: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    for item in list(images.list_objects()):
        images.write(item.key, images.read(item.key) + NOTE + bytes(tmp_path / "notes"))
    config = score_config(
        images, store, tiny_engine, date="all", num_actors=1,
        decoder="tests.pipeline.decoders:noting",
    )  # fmt: skip
    results = list(score(config, lambda _: None))
    assert [(result.date, result.num_scored) for result in results] == [(d, 4) for d in DATES]
    assert len(list((tmp_path / "notes").iterdir())) == 1, "processes that decoded"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_after_a_date_that_fails_the_results_of_the_others_come_before_its_error(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    images.write(f"line=1/date={DATES[0]}/broken.png", b"half")
    results: list[RunResult] = []

    def collect(**changes: object) -> Iterator[RunResult]:
        for result in score(
            score_config(images, store, tiny_engine, date="all", **changes), lambda _: None
        ):
            results.append(result)
            yield result

    with pytest.raises(TooManyBadImagesError, match="1 of 5 images"):
        list(collect())
    assert DATES[0] not in {result.date for result in results}
    done = {result.date for result in results}
    again = [result for result in collect(max_bad=0.5) if result.run_id is not None]
    assert {result.date for result in again} == {*DATES} - done


def test_dates_with_nothing_new_join_no_cluster(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    engine = load_engine(str(tiny_engine), store=None).card.name
    for date in DATES:
        keys = sorted(key for key in keys_of(images) if f"/date={date}/" in key)
        commit_run(store, keys, engine=engine, date=date)
    command = [
        sys.executable, "-m", "steel_batch.cli", "score", "--images", images.url, "--store",
        store.url, "--key-pattern", PATTERN, "--engine", str(tiny_engine), "--date", "all",
        "--ray-address", NOBODY, "--output", "json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(result["date"], result["run_id"]) for result in results] == [(d, None) for d in DATES]
    fill_lake(images, num_images=6, date=DATES[1])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"the Ray cluster at '{NOBODY}' cannot be joined" in done.stderr
    assert [json.loads(line)["date"] for line in done.stdout.splitlines()] == [DATES[0]]


def test_a_date_that_another_run_holds_ends_the_command_before_the_next(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    engine = load_engine(str(tiny_engine), store=None).card.name
    name = layout.lock_series(engine, DATES[0])
    with Lease(store, name, what="the date"), pytest.raises(LockHeldError):
        list(score(score_config(images, store, tiny_engine, date="all"), lambda _: None))
    assert keys_of(store, "locks/") == keys_of(store, name), "no other date was opened"


def test_outcomes_come_in_the_order_of_their_dates_as_early_as_that_goes() -> None:
    dates = ["a", "b", "c", "d", "e"]
    given: list[str] = []

    def ends() -> Iterator[DateOutcome]:
        for date in ("b", "a", "e", "c"):
            given.append(date)
            yield DateOutcome(date=date, state="committed")

    taken = [(outcome.date, len(given)) for outcome in in_order(dates, ends())]
    assert taken == [("a", 2), ("b", 2), ("c", 4), ("e", 4)]
