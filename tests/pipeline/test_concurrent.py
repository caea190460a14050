"""Several processes score at once: one has a date, all have dates of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.runs.record import list_runs
from steel_batch.tables.table_log import open_table
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    PATTERN,
    cluster_address,
    committed_rows,
    fill_lake,
    group,
    score_config,
)
from tests.pipeline.decoders import GATE, reached
from tests.score_here import score_here

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(900),  # up to eight processes import Ray at once
]

DECODER = "tests.pipeline.decoders:gated"
NUM_IMAGES = 20
SHARD_IMAGES = 8
PATIENCE_SECONDS = 240.0
Rows = dict[str, list[dict[str, object]]]


def rows_of(store: Lake, date: str = DATE) -> Rows:
    """A date's rows in each table."""
    return {
        table: [row for row in committed_rows(store, table) if str(row["date"]) == date]
        for table in layout.TABLES
    }


def with_date(rows: Rows, date: str) -> str:
    """The rows, as they are where the same images are another date's."""
    return json.dumps(rows, default=str).replace(DATE, date)


def fill(images: Lake, gate: Path, date: str = DATE) -> None:
    """Images of which the last waits for a gate, and one that is none."""
    fill_lake(images, num_images=NUM_IMAGES, date=date)
    images.write(f"line=2/date={date}/broken.png", b"\x89PNG\r\n\x1a\nhalf")
    key = f"line=2/date={date}/im{NUM_IMAGES - 1:05d}.png"
    images.write(key, images.read(key) + GATE + bytes(gate).ljust(200))


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path, ray_cluster: None
) -> Rows:
    """The rows of the same images, of one process."""
    base = tmp_path_factory.mktemp("undisturbed")
    images, store = Lake(str(base / "images")), Lake(str(base / "store"))
    fill(images, base)
    score_here(score_config(images, store, tiny_engine, max_bad=0.5, decoder=DECODER))
    return rows_of(store)


def score_command(images: Lake, store: Lake, engine: Path, *flags: str) -> list[str]:
    """Scores `DATE` on the cluster of this test, with an actor that leaves room for another."""
    endpoint = ["--endpoint-url", images.endpoint_url] if images.endpoint_url else []
    return [
        sys.executable, "-m", "steel_batch.cli", "score", "--images", images.url, "--store",
        store.url, "--key-pattern", PATTERN, "--engine", str(engine), "--date", DATE,
        "--shard-images", str(SHARD_IMAGES), "--max-bad", "0.5", "--decoder", DECODER,
        "--decode-seconds", str(PATIENCE_SECONDS), "--num-actors", "1", "--cpus-per-actor", "0.5",
        "--ray-address", cluster_address(), "--output", "json", *endpoint, *flags,
    ]  # fmt: skip


def wait_until(met: Callable[[], bool], processes: Sequence[subprocess.Popen[str]]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not met():
        assert time.monotonic() < give_up, return_codes(processes)
        time.sleep(0.02)


def return_codes(processes: Sequence[subprocess.Popen[str]]) -> str:
    return f"return codes: {[process.poll() for process in processes]}"


def num_ended(processes: Sequence[subprocess.Popen[str]]) -> int:
    return sum(process.poll() is not None for process in processes)


def commits(store: Lake) -> dict[str, list[str]]:
    """What each table's log says to have happened, except for fences: runs, and what is none's."""
    logs = {table: open_table(store, table).history() for table in layout.TABLES}
    return {
        table: sorted(
            entry.get("run_id", entry["operation"]) for entry in log if "fence" not in entry
        )
        for table, log in logs.items()
    }


def once(*run_ids: str | None) -> dict[str, list[str | None]]:
    """The logs where each table was made once and each run is committed to it once."""
    return {table: [*run_ids, "CREATE TABLE"] for table in layout.TABLES}


@pytest.mark.parametrize(
    ("num_processes", "lake"),
    [
        (3, "folder"),
        pytest.param(8, "folder", marks=pytest.mark.slow),
        pytest.param(8, "s3", marks=[pytest.mark.slow, pytest.mark.s3]),
    ],
    indirect=["lake"],
)
def test_of_processes_that_score_one_date_at_once_one_commits_and_the_others_exit_4(
    num_processes: int, lake: Lake, tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    images = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    store = Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)
    gate = tmp_path / "gate"
    fill(images, gate)
    command = score_command(images, store, tiny_engine)
    with group([command] * num_processes) as processes:
        # Whoever has the lock cannot end before the others did.
        wait_until(lambda: num_ended(processes) >= num_processes - 1, processes)
        assert num_ended(processes) == num_processes - 1, return_codes(processes)
        assert rows_of(store)["predictions"] == []
        gate.touch()
        ended = [(process, *process.communicate()) for process in processes]
    (winner,) = [(process.pid, out) for process, out, _ in ended if process.returncode == 0]
    for process, out, err in ended:
        if process.pid != winner[0]:
            assert process.returncode == 4, err
            assert f"process {winner[0]} of " in err
            assert "Traceback" not in err
            assert out == ""
    result = json.loads(winner[1])
    assert result["num_scored"] == NUM_IMAGES
    assert rows_of(store) == undisturbed
    assert list(verify(store)) == []
    with group([command]) as (late,):
        out, err = late.communicate()
    assert late.returncode == 0, err
    assert json.loads(out)["run_id"] is None
    assert commits(store) == once(result["run_id"])


def test_a_run_that_was_stopped_and_lost_its_lock_exits_4_and_commits_nothing(
    tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    gate = tmp_path / "gate"
    fill(images, gate)
    command = score_command(images, store, tiny_engine, "--lease-seconds", "1")
    with group([command]) as (stopped,):
        wait_until(lambda: reached(gate).exists() or num_ended([stopped]) > 0, [stopped])
        assert num_ended([stopped]) == 0, stopped.communicate()
        os.kill(stopped.pid, signal.SIGSTOP)
        gate.touch()
        result = score_here(
            score_config(
                images, store, tiny_engine, max_bad=0.5, decoder=DECODER, num_actors=1,
                cpus_per_actor=0.5, lock_wait_seconds=PATIENCE_SECONDS,
            )
        )  # fmt: skip
        assert rows_of(store) == undisturbed
        os.kill(stopped.pid, signal.SIGCONT)
        out, err = stopped.communicate()
    assert stopped.returncode == 4, err
    assert "lost its lock" in err
    assert out == ""
    assert rows_of(store) == undisturbed
    assert commits(store) == once(result.run_id)
    assert list(verify(store)) == []


@pytest.mark.parametrize(
    ("num_dates", "lake"),
    [
        pytest.param(2, "folder"),
        pytest.param(8, "folder", marks=pytest.mark.slow),
        pytest.param(8, "s3", marks=[pytest.mark.slow, pytest.mark.s3]),
    ],
    indirect=["lake"],
)
def test_processes_that_commit_dates_of_their_own_at_once_all_commit(
    num_dates: int, lake: Lake, tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    images = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    store = Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)
    dates = [f"2026-11-{day:02d}" for day in range(1, num_dates + 1)]
    place = tmp_path / "place"
    place.mkdir()
    gate = tmp_path / "gate"
    gate.touch()
    commands = []
    for date in dates:
        fill(images, gate, date)
        config = score_config(
            images, store, tiny_engine, date=date, max_bad=0.5, shard_images=SHARD_IMAGES,
            decoder=DECODER, ray_address=cluster_address(),
        )  # fmt: skip
        wanted = {"config": dataclasses.asdict(config), "place": str(place), "num": num_dates}
        file = tmp_path / f"{date}.json"
        file.write_text(json.dumps(wanted))
        commands.append([sys.executable, "-m", "tests.pipeline.meeting", str(file)])
    with group(commands) as processes:
        for process in processes:
            _, err = process.communicate(timeout=2 * PATIENCE_SECONDS)
            assert process.returncode == 0, err
    for date in dates:
        assert with_date(rows_of(store, date), date) == with_date(undisturbed, date)
    assert list(verify(store)) == []
    run_ids = sorted(list_runs(store))
    assert [layout.split_run_id(run_id)[1:] for run_id in run_ids] == [(date, 1) for date in dates]
    assert commits(store) == once(*run_ids)
