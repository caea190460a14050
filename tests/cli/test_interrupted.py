"""Commands that are interrupted at random moments end with 130, say so, and hold no lock.

And the same command continues. `INTERRUPTIONS=300 make test-slow` says how many are made of all
commands together; `pytest -s` shows what was seen of each. Those of `train` are in
`tests/training/test_interrupted.py`.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.interrupt import MESSAGE
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.registry.versions import load_engine
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    PATTERN,
    cluster_address,
    committed_rows,
    fill_lake,
    use_test_credentials,
)
from tests.interrupting import (
    NUM_SLOW,
    held_locks,
    interrupt,
    interrupt_again_and_again,
    once_asked,
    once_in,
    once_said,
    once_worked,
    steel_batch,
)
from tests.made_up_run import commit_run, image_keys

pytestmark = pytest.mark.timeout(7200)  # hundreds of commands

NUM_IMAGES = 24
DATES = tuple(f"2026-10-{day:02d}" for day in range(1, 5))


def num_trials(few: int) -> list[object]:
    """Few for every day, and as many as the issue asks for."""
    return [few, pytest.param(NUM_SLOW, marks=pytest.mark.slow)]


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "images"))


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "store"))


@pytest.mark.parametrize("num", num_trials(1))
@pytest.mark.parametrize("name", ["verify", "gc"])
def test_what_only_looks_at_a_store_or_cleans_it_up(name: str, num: int, store: Lake) -> None:
    for day in (1, 2, 3):
        commit_run(store, image_keys(20), date=f"2026-10-{day:02d}")
    before = committed_rows(store)

    def renew() -> None:
        assert committed_rows(store) == before

    command = steel_batch(name, "--store", store.url)
    interrupt_again_and_again(command, store, num, seed=1, renew=renew)
    assert list(verify(store)) == []


@pytest.mark.parametrize("num", num_trials(1))
def test_a_plan(num: int, images: Lake, store: Lake, tiny_engine: Path) -> None:
    fill_lake(images, num_images=300)
    command = steel_batch(
        "plan", "--images", images.url, "--key-pattern", PATTERN, "--store", store.url,
        "--engine", tiny_engine, "--date", DATE,
    )  # fmt: skip
    interrupt_again_and_again(command, store, num, seed=8, renew=lambda: None)
    assert list(store.list_objects()) == []


@pytest.mark.parametrize("num", num_trials(1))
def test_a_packing(num: int, images: Lake, tmp_path: Path) -> None:
    fill_lake(images, num_images=300)
    out = Lake(str(tmp_path / "out"))
    command = steel_batch(
        "pack", "--images", images.url, "--key-pattern", PATTERN, "--out", out.url,
        "--shard-bytes", 40_000,
    )  # fmt: skip
    whole: list[dict[str, bytes]] = []

    def renew() -> None:
        found = {item.key: out.read(item.key) for item in out.list_objects()}
        whole.append(found)
        assert found == whole[0], "as an undisturbed packing"
        out.delete(found)

    interrupt_again_and_again(command, out, num, seed=3, renew=renew)


@pytest.mark.parametrize("num_refused", [0, 2], ids=["silent", "refusing"])
def test_waiting_for_a_store_ends_at_once(num_refused: int) -> None:
    """The one never answers, for which a request waits 30 s; the other is tried again for 20 s."""
    use_test_credentials()
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        url = f"http://127.0.0.1:{place.getsockname()[1]}"
        command = steel_batch("verify", "--store", "s3://bucket/store", "--endpoint-url", url)
        ended = interrupt(command, signal.SIGTERM, once_asked(place, num_refused))
    assert ended.was_running, ended
    assert ended.code == 130, ended
    assert ended.err == f"{MESSAGE}\n"
    assert ended.seconds < 12


def test_waiting_for_a_lock_ends_at_once(images: Lake, store: Lake, tiny_engine: Path) -> None:
    fill_lake(images, num_images=4)
    name = load_engine(str(tiny_engine), store=store).card.name
    with Lease(store, layout.lock_series(name, DATE), what="a test"):
        command = steel_batch(
            "score", "--images", images.url, "--key-pattern", PATTERN, "--store", store.url,
            "--engine", tiny_engine, "--date", DATE, "--lock-wait", 100,
        )  # fmt: skip
        ended = interrupt(command, signal.SIGINT, once_said("waiting up to"))
        assert len(held_locks(store)) == 1, "another's stays"
    assert (ended.was_running, ended.code) == (True, 130), ended
    assert "waiting up to 100 s for the lock" in ended.err
    assert ended.err.endswith(f"{MESSAGE}\n")


def test_a_long_query_ends_at_once(store: Lake) -> None:
    commit_run(store, image_keys(20))
    sql = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    command = steel_batch("query", "--store", store.url, sql)
    ended = interrupt(command, signal.SIGTERM, once_worked(1.5))
    assert (ended.was_running, ended.code) == (True, 130), ended
    assert ended.out == ""
    assert ended.err.endswith(f"{MESSAGE}\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_temporary_files_are_deleted(
    how: signal.Signals, store: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(1, 6):
        commit_run(store, image_keys(4), date=f"2026-10-{day:02d}")
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    code = 0
    while code == 0:  # it may end before the signal comes
        ended = interrupt(steel_batch("gc", "--store", store.url), how, once_in(place))
        code = ended.code
    assert code == 130, ended
    assert list(place.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["score", "backfill"])
def test_scoring(name: str, images: Lake, tmp_path: Path, tiny_engine: Path) -> None:
    """`test_lost_workers` has a SIGINT and a SIGTERM of one date, `test_backfill` one of many."""
    for date in DATES:
        fill_lake(images, num_images=NUM_IMAGES // len(DATES), date=date)
    store = Lake(str(tmp_path / "store"))
    command = steel_batch(
        name, "--images", images.url, "--key-pattern", PATTERN, "--store", store.url,
        "--engine", tiny_engine, "--ray-address", cluster_address(), "--shard-images", 2,
        *(["--dates-from-lake"] if name == "backfill" else ["--date", "all"]),
    )  # fmt: skip
    whole: list[list[dict[str, object]]] = []

    def renew() -> None:
        whole.append(committed_rows(store))
        assert len(whole[0]) == NUM_IMAGES
        assert whole[-1] == whole[0], "as an undisturbed run"
        assert list(verify(store)) == []
        store.delete([item.key for item in store.list_objects()])

    interrupt_again_and_again(command, store, NUM_SLOW, seed=4, renew=renew)
    assert len(committed_rows(store)) == NUM_IMAGES


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_starts_ray_itself(images: Lake, tmp_path: Path, tiny_engine: Path) -> None:
    fill_lake(images, num_images=NUM_IMAGES)
    store = Lake(str(tmp_path / "store"))
    command = steel_batch(
        "score", "--images", images.url, "--key-pattern", PATTERN, "--store", store.url,
        "--engine", tiny_engine, "--date", DATE, "--shard-images", 2,
    )  # fmt: skip

    def renew() -> None:
        assert len(committed_rows(store)) == NUM_IMAGES
        store.delete([item.key for item in store.list_objects()])

    interrupt_again_and_again(command, store, NUM_SLOW // 3, seed=5, renew=renew)
