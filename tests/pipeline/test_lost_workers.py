"""Processes of the cluster are killed while they score; the rows are those of a quiet run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.runs.events import read_events
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    PATTERN,
    cluster_address,
    committed_rows,
    fill_lake,
    group,
    run_score,
    score_config,
)
from tests.interrupting import held_locks
from tests.score_here import score_here

pytestmark = pytest.mark.ray

SLOW = "tests.pipeline.decoders:slow"
NUM_IMAGES = 96
Rows = list[dict[str, object]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    fill_lake(lake, num_images=NUM_IMAGES)
    return lake


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, images: Lake, tiny_engine: Path, ray_cluster: None
) -> Rows:
    store = Lake(str(tmp_path_factory.mktemp("undisturbed")))
    score_here(score_config(images, store, tiny_engine))
    return committed_rows(store)


def _command(
    module: str, images: Lake, store: Lake, engine: Path, tmp_path: Path, **changes: object
) -> list[str]:
    config = score_config(images, store, engine, decoder=SLOW, lease_seconds=1.0,
                          lock_wait_seconds=30.0, **changes)  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dataclasses.asdict(config)))
    return [sys.executable, "-m", module, str(file)]


def _score_once(images: Lake, store: Lake, engine: Path, tmp_path: Path) -> list[str]:
    """What scores on the cluster that this process is connected to."""
    address = cluster_address()
    return _command(
        "tests.pipeline.score_once", images, store, engine, tmp_path, ray_address=address
    )


def _wait_for_receipts(store: Lake, number: int, process: subprocess.Popen[str]) -> None:
    while sum("/receipts/" in item.key for item in store.list_objects("runs/")) < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def _workers(title: str) -> Iterator[int]:
    """This cluster's worker processes whose title, as Ray sets it, contains a text."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and title in _title(int(entry.name)):
            pid = raylet = int(entry.name)
            while raylet > 1 and raylet != os.getpid():
                raylet = _parent(raylet)
            if raylet == os.getpid():
                yield pid


@pytest.mark.slow  # `test_kill` kills a driver at chosen steps, after a receipt among others
@pytest.mark.parametrize("number", [1, 5])
def test_the_driver_killed_after_a_receipt_loses_no_receipt(
    number: int, images: Lake, store: Lake, tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    command = _score_once(images, store, tiny_engine, tmp_path)
    with group([command]) as (process,):
        _wait_for_receipts(store, number, process)
        process.kill()
    assert committed_rows(store) == []
    result = run_score(score_config(images, store, tiny_engine, lock_wait_seconds=30.0))
    assert result.num_resumed_shards >= number
    assert committed_rows(store) == undisturbed
    assert list(verify(store)) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_an_interrupted_run_exits_130_gives_its_lock_back_and_is_continued(
    how: signal.Signals, images: Lake, store: Lake, tiny_engine: Path, undisturbed: Rows
) -> None:
    command = [
        sys.executable, "-m", "steel_batch.cli", "score", "--images", images.url, "--store",
        store.url, "--key-pattern", PATTERN, "--engine", str(tiny_engine), "--date", DATE,
        "--shard-images", "8", "--decoder", SLOW, "--ray-address", cluster_address(),
    ]  # fmt: skip
    with group([command]) as (process,):
        _wait_for_receipts(store, 2, process)
        process.send_signal(how)
        if how == signal.SIGINT:  # as impatient people do
            time.sleep(0.2)
            process.send_signal(how)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted: run the same command again to resume" in err
    assert "Traceback" not in err
    assert held_locks(store) == []
    result = score_here(score_config(images, store, tiny_engine))
    assert result.num_resumed_shards >= 2
    assert committed_rows(store) == undisturbed
    events = [event["event"] for event in read_events(store, str(result.run_id))]
    assert events[:2] == ["attempt", "interrupted"]


@pytest.mark.parametrize(
    "titles",
    [("ray::MapWorker(MapBatches(ScoreStage))",), ("ray::Map", "ray::IDLE")],
    ids=["the scoring actor", "every worker"],
)
@pytest.mark.quick("the scoring actor")
def test_a_killed_worker_costs_only_its_shards(
    titles: tuple[str, ...],
    images: Lake,
    store: Lake,
    tiny_engine: Path,
    tmp_path: Path,
    undisturbed: Rows,
) -> None:
    command = _score_once(images, store, tiny_engine, tmp_path)
    with group([command]) as (process,):
        _wait_for_receipts(store, 2, process)
        victims = [pid for title in titles for pid in _workers(title)]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["num_scored"] == NUM_IMAGES
    assert committed_rows(store) == undisturbed
    assert list(verify(store)) == []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it ended meanwhile
        return ""


def _parent(pid: int) -> int:
    """The process that started one; of what forks workers, the raylet."""
    if "\0tests.worker_forks\0" in (title := _title(pid)):
        return int(title.split("\0")[-2])
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return 0


def test_a_killed_node_costs_only_its_shards(
    images: Lake, store: Lake, tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    command = _command("tests.pipeline.two_nodes", images, store, tiny_engine, tmp_path)
    with group([command]) as (process,):
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert told["receipts_when_killed"]
    assert told["receipts_when_killed"][0] < told["num_shards"]
    assert committed_rows(store) == undisturbed
    assert list(verify(store)) == []
