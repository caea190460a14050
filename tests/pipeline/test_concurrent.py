"""Several processes score at once: one has a date, all have dates of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from steel_batch import layout
from steel_batch.commit import open_table
from steel_batch.lake import Lake
from steel_batch.verify import verify
from tests.conftest import DATE, PATTERN, committed_rows, fill_lake, run_score, score_config
from tests.pipeline.decoders import GATE, reached

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

DECODER = "tests.pipeline.decoders:gated"
NUM_IMAGES = 20
SHARD_IMAGES = 8
PATIENCE_SECONDS = 120.0
Rows = dict[str, list[dict[str, object]]]


def rows_of(store: Lake) -> Rows:
    return {table: committed_rows(store, table) for table in layout.TABLES}


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
    run_score(score_config(images, store, tiny_engine, max_bad=0.5, decoder=DECODER))
    return rows_of(store)


@contextmanager
def started(
    images: Lake, store: Lake, engine: Path, dates: Sequence[str], *flags: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each of some dates, started as a group; none is left."""
    address = ray.get_runtime_context().gcs_address
    endpoint = ["--endpoint-url", images.endpoint_url] if images.endpoint_url else []
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-m", "steel_batch.cli", "score", "--images", images.url,
                "--store", store.url, "--key-pattern", PATTERN, "--engine", str(engine),
                "--date", date, "--shard-images", str(SHARD_IMAGES), "--max-bad", "0.5",
                "--decoder", DECODER, "--decode-seconds", str(PATIENCE_SECONDS),
                "--num-actors", "1", "--cpus-per-actor", "0.5", "--ray-address", address,
                "--output", "json", *endpoint, *flags,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for date in dates
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_until(met: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def num_ended(processes: Sequence[subprocess.Popen[str]]) -> int:
    return sum(process.poll() is not None for process in processes)


def num_commits(store: Lake) -> dict[str, int]:
    """How often each table was committed to, after it was made."""
    return {table: open_table(store, table).version() for table in layout.TABLES}


ONCE = dict.fromkeys(layout.TABLES, 1)


@pytest.mark.parametrize(
    ("num_processes", "lake"),
    [
        pytest.param(2, "folder"),
        pytest.param(8, "folder"),
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
    with started(images, store, tiny_engine, [DATE] * num_processes) as processes:
        # Whoever has the lock cannot end before the others did.
        wait_until(lambda: num_ended(processes) >= num_processes - 1)
        assert num_ended(processes) == num_processes - 1
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
    assert json.loads(winner[1])["num_scored"] == NUM_IMAGES
    assert rows_of(store) == undisturbed
    assert list(verify(store)) == []
    assert num_commits(store) == ONCE
    with started(images, store, tiny_engine, [DATE]) as (late,):
        out, err = late.communicate()
    assert late.returncode == 0, err
    assert json.loads(out)["run_id"] is None
    assert num_commits(store) == ONCE


def test_a_run_that_was_stopped_and_lost_its_lock_exits_4_and_commits_nothing(
    tiny_engine: Path, tmp_path: Path, undisturbed: Rows
) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    gate = tmp_path / "gate"
    fill(images, gate)
    with started(images, store, tiny_engine, [DATE], "--lease-seconds", "1") as (stopped,):
        wait_until(lambda: reached(gate).exists() or num_ended([stopped]) > 0)
        assert num_ended([stopped]) == 0, stopped.communicate()
        os.kill(stopped.pid, signal.SIGSTOP)
        gate.touch()
        run_score(
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
    assert num_commits(store) == ONCE
    assert list(verify(store)) == []
