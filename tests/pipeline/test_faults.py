"""A store that fails: the run waits, makes up for it, or says what is wrong and commits nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steel_batch.config import ScoreConfig
from steel_batch.errors import LakeError, SteelBatchError, TooManyBadImagesError, TransientLakeError
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.pipeline.scope import DateScope
from steel_batch.runs import planning
from steel_batch.runs.events import Observer, Progress, read_events
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunResult, latest_run, list_runs
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.prefix import Prefix
from steel_batch.tables.table_log import ensure_tables
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    PATTERN,
    band_image,
    committed_rows,
    complete,
    fill_lake,
    png,
    scope_of,
    score_config,
)
from tests.fault_proxy import FaultProxy, Faults
from tests.score_here import complete_here, score_here

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.usefixtures("ray_cluster")]

TABLES = ("predictions", "class_summaries", "quarantine")
NUM_IMAGES = 20
RETRY = Retry(base_seconds=0.02, max_seconds=1.0, answer_seconds=1.0)
Rows = dict[str, list[dict[str, object]]]


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def images(bucket: str, s3_endpoint: str) -> Lake:
    """Images and one that is none, behind no proxy."""
    place = Lake(f"{bucket}/images", endpoint_url=s3_endpoint)
    fill(place)
    return place


@pytest.fixture
def store(bucket: str, s3_endpoint: str) -> Lake:
    """The store behind no proxy, to look at what a run left."""
    return Lake(f"{bucket}/store", endpoint_url=s3_endpoint)


@pytest.fixture
def config(images: Lake, store: Lake, tiny_engine: Path, proxy: FaultProxy) -> ScoreConfig:
    """A run whose every request passes the proxy, which does nothing yet."""
    proxy.set(Faults())
    return score_config(images, store, tiny_engine, endpoint_url=proxy.url, max_bad=0.5)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path, ray_cluster: None
) -> Rows:
    """The rows of the same images without a fault."""
    base = tmp_path_factory.mktemp("undisturbed")
    images, store = Lake(str(base / "images")), Lake(str(base / "store"))
    fill(images)
    score_here(score_config(images, store, tiny_engine, max_bad=0.5))
    return {table: committed_rows(store, table) for table in TABLES}


def fill(images: Lake) -> None:
    fill_lake(images, num_images=NUM_IMAGES)
    images.write(f"line=2/date={DATE}/broken.png", b"\x89PNG\r\n\x1a\nhalf")


def score_patiently(
    config: ScoreConfig,
    retry: Retry = RETRY,
    observe: Callable[[Progress], None] = lambda _: None,
    how: Callable[[DateScope, Observer], RunResult] = complete,
) -> RunResult:
    """What `score` does, with other limits of asking again."""
    store = Lake(config.store, endpoint_url=config.endpoint_url, retry=retry)
    lake = Lake(config.images, endpoint_url=config.endpoint_url, retry=retry)
    ensure_tables(store)
    return how(scope_of(config, store, Prefix(lake, KeyPattern(PATTERN))), observe)


def assert_right(store: Lake, undisturbed: Rows) -> None:
    for table, rows in undisturbed.items():
        assert committed_rows(store, table) == rows, table
    assert list(verify(store)) == []


def test_with_a_tenth_of_all_requests_faulty_the_rows_are_those_of_an_undisturbed_run(
    config: ScoreConfig, store: Lake, proxy: FaultProxy, undisturbed: Rows
) -> None:
    proxy.set(Faults(share=0.1, delay_seconds=1.5))
    result = score_patiently(config)
    counts = proxy.counts()
    num_faults = counts.total() - counts["requests"] - counts["most_at_once"]
    assert num_faults > 0.05 * counts["requests"]
    assert result.num_scored == NUM_IMAGES
    assert_right(store, undisturbed)
    # Nearly all that was asked again is accounted for: the rest is delta-rs's own.
    events = list(read_events(store, str(result.run_id)))
    (committed,) = [event for event in events if event["event"] == "committed"]
    lake = committed["lake"]
    kinds = {k: n for k, n in lake.items() if k.startswith("retries_")}
    assert sum(kinds.values()) == lake["retries"] > 0
    assert lake["requests"] > 60
    assert lake["bytes_read"] > 10_000


@pytest.mark.slow
def test_what_a_shard_met_with_stands_in_the_events(
    config: ScoreConfig, store: Lake, proxy: FaultProxy, undisturbed: Rows
) -> None:
    proxy.set(Faults(share=0.5, kinds=("slow_down",), only=r"GET .*/images/.*\.png"))
    result = score_patiently(config)
    events = list(read_events(store, str(result.run_id)))
    retried = [event for event in events if event["event"] == "retried"]
    assert {event["shard"] for event in retried} <= set(range(result.num_shards))
    num_retries = sum(event["SlowDown"] for event in retried)
    assert num_retries == proxy.counts()["slow_down"] > 0
    assert events[-1]["lake"]["retries_SlowDown"] == num_retries
    assert_right(store, undisturbed)


@pytest.mark.parametrize(
    ("seconds", "lease_seconds"),
    [(2.5, 1.0), pytest.param(60.0, 60.0, marks=pytest.mark.slow)],
)
def test_a_store_that_answers_slow_down_to_everything_is_waited_for(
    seconds: float,
    lease_seconds: float,
    config: ScoreConfig,
    store: Lake,
    proxy: FaultProxy,
    undisturbed: Rows,
) -> None:
    """It begins in the middle of scoring, and may last longer than the lease of the lock."""
    over = threading.Timer(seconds, lambda: proxy.set(Faults()))

    def begin(progress: Progress) -> None:
        if progress.step == "scoring" and progress.num_done and over.ident is None:
            proxy.set(Faults(share=1.0, kinds=("slow_down",)))
            over.start()

    retry = RETRY if seconds < 30 else Retry()
    try:
        result = score_patiently(config.replace(lease_seconds=lease_seconds), retry, begin)
        over.join()
    finally:
        over.cancel()
    assert result.seconds > seconds
    assert result.num_resumed_shards == 0
    assert_right(store, undisturbed)


@pytest.mark.slow
def test_a_store_that_is_away_when_the_run_begins_is_waited_for(
    config: ScoreConfig, store: Lake, proxy: FaultProxy, undisturbed: Rows
) -> None:
    with proxy.doing(Faults(share=1.0, kinds=("slow_down", "internal_error")), seconds=3.0):
        assert score_patiently(config).seconds > 0
    assert_right(store, undisturbed)


DENIED = {
    "everything": "",
    "the listing": r"GET .*prefix=images",
    "the images": r"GET .*/images/.*\.png",
    "the staged rows": r"PUT .*/shards/",
    "the plan": r"GET .*/plan\.parquet",
    "the merged files": r"PUT .*/merged/",
    "the tables' logs": r"_delta_log",
    "the commit": r"PUT .*predictions/_delta_log/0+1\.json",
}


@pytest.mark.parametrize("what", DENIED)
@pytest.mark.quick("the images", "the tables' logs", "the commit")
def test_permanent_denial_fails_with_its_cause_and_commits_nothing(
    what: str,
    config: ScoreConfig,
    store: Lake,
    proxy: FaultProxy,
    undisturbed: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.set(Faults(share=1.0, kinds=("access_denied",), only=DENIED[what]))
    how = complete_here if what in ("the images", "the commit") else complete
    # One shard: of several at once, what one met with may come with another that is done first.
    monkeypatch.setattr(planning, "FIRST_IMAGES", 64)
    with pytest.raises(SteelBatchError) as raised:
        score_patiently(config.replace(shard_images=64), how=how)
    message = str(raised.value)
    assert "AccessDenied" in message
    assert isinstance(raised.value, LakeError) == (what != "the commit")
    assert message.isprintable(), "one paragraph, without colours"
    assert message.count("AccessDenied") == 1
    assert len(message) < 600
    proxy.set(Faults())
    ensure_tables(store)
    assert committed_rows(store) == []
    # The first cause stands in the events too, and what was scored is kept.
    for run_id in list_runs(store):
        for failed in (e for e in read_events(store, run_id) if e["event"] == "failed"):
            assert failed["message"] == message
            assert failed["lake"].get("retries", 0) > 0 or what == "the commit"
    if what == "the commit":
        score_patiently(config.replace(shard_images=64), how=complete_here)
        assert_right(store, undisturbed)


def test_a_plan_that_the_workers_cannot_read_is_named_too(
    config: ScoreConfig, store: Lake, proxy: FaultProxy
) -> None:
    def deny(progress: Progress) -> None:
        if progress.step == "starting":
            proxy.set(Faults(share=1.0, kinds=("access_denied",), only=DENIED["the plan"]))

    with pytest.raises(
        LakeError, match=r"^shard \d+: s3://.*/plan\.parquet: the store answers"
    ) as raised:
        score_patiently(config, observe=deny)
    assert str(raised.value).isprintable()
    proxy.set(Faults())
    assert committed_rows(store) == []


@pytest.mark.parametrize("what", ["everything", "the images", "the tables' logs"])
@pytest.mark.quick("the images")
def test_expired_credentials_are_named(
    what: str, config: ScoreConfig, store: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=1.0, kinds=("expired_token",), only=DENIED[what]))
    with pytest.raises(LakeError, match="the credentials have expired: log in again") as raised:
        score_patiently(config, how=complete_here)
    assert str(raised.value).isprintable()
    proxy.set(Faults())
    ensure_tables(store)
    assert committed_rows(store) == []


def test_shards_that_keep_failing_are_named_and_continued(
    config: ScoreConfig, store: Lake, proxy: FaultProxy, undisturbed: Rows
) -> None:
    proxy.set(Faults(share=1.0, kinds=("internal_error",), only=r"GET .*/im00005\.png"))
    hasty = Retry(base_seconds=0.02, max_seconds=0.1, total_seconds=0.5)
    with pytest.raises(TransientLakeError, match=r"^1 of \d+ shards failed 2 times") as raised:
        score_patiently(config.replace(shard_attempts=2), hasty)
    assert "im00005.png: the store answers InternalError" in str(raised.value)
    assert str(raised.value).isprintable()
    proxy.set(Faults())
    result = score_patiently(config, how=complete_here)
    assert result.num_resumed_shards == result.num_shards - 1
    assert_right(store, undisturbed)


@pytest.mark.slow
def test_a_listing_that_changes_while_planning_gives_one_plan_that_stays(
    config: ScoreConfig, images: Lake, store: Lake, proxy: FaultProxy
) -> None:
    """Objects that it shows twice, or that are gone when they are read; others come too late."""
    proxy.set(
        Faults(share=1.0, kinds=("listing_repeats", "listing_invents"), only="GET .*prefix=images")
    )
    with pytest.raises(TooManyBadImagesError):
        score_patiently(config.replace(max_bad=0.0))
    first = latest_run(store, engine_of(store), DATE)
    assert first is not None
    assert first.record is not None
    planned = [key for group in Plan(store, first.run_id) for key in group["image_key"].to_pylist()]
    assert len(set(planned)) == len(planned) == first.record.num_images
    gone = [key for key in planned if images.stat(key) is None]
    late = f"line=1/date={DATE}/late.png"
    images.write(late, png(band_image(1)))

    result = score_patiently(config)
    assert result.run_id == first.run_id
    assert result.num_images == len(planned) == result.num_scored + result.num_quarantined
    keys = [str(row["image_key"]) for row in committed_rows(store)]
    bad = {str(row["image_key"]): row["error_code"] for row in committed_rows(store, "quarantine")}
    assert sorted(keys + list(bad)) == sorted(planned)
    assert {bad[key] for key in gone} <= {"missing"}
    assert late not in keys

    proxy.set(Faults(share=1.0, kinds=("listing_forgets",), only="GET .*prefix=images"))
    added = score_patiently(config)
    proxy.set(Faults())
    rest = score_patiently(config)
    assert added.num_images + rest.num_images == 1
    keys = [str(row["image_key"]) for row in committed_rows(store)]
    assert keys.count(late) == 1
    assert len(set(keys)) == len(keys) == NUM_IMAGES + 1
    assert list(verify(store)) == []


def engine_of(store: Lake) -> str:
    (run_id,) = list_runs(store)
    match = re.fullmatch(rf"{DATE}-(.*)-\d{{4}}", run_id)
    assert match is not None
    return match[1]
