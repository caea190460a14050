"""The driver is killed at every durable step; the same command brings the same rows."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.verify import verify
from tests.conftest import committed_rows, fill_lake, run_score, score_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STEPS = {
    "the lock is taken": ("^locks/", 1, False),
    "the plan is written": ("plan.parquet$", 1, False),
    "the run is recorded": ("run.json$", 1, False),
    "the shards are merged": ("files/merged.json$", 1, False),
    "before the predictions are published": ("^predictions/", 1, True),
    "one of two files is published": ("^predictions/", 1, False),
    "both files are published": ("^predictions/", 2, False),
    "the predictions are committed": ("merged/class_summaries/", 1, True),
    "the summary is published": ("^class_summaries/", 1, False),
    "the summary is committed": ("merged/quarantine/", 1, True),
    "the quarantine is published": ("^quarantine/", 1, False),
    "all three are committed": ("result.json$", 1, True),
    "the result is written": ("result.json$", 1, False),
}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path, ray_cluster: None
) -> dict[str, list[dict[str, object]]]:
    """The rows of the same images without a kill."""
    base = tmp_path_factory.mktemp("undisturbed")
    images, store = Lake(str(base / "images")), Lake(str(base / "store"))
    _fill(images)
    run_score(score_config(images, store, tiny_engine, max_bad=0.5))
    return {t: committed_rows(store, t) for t in ("predictions", "class_summaries", "quarantine")}


def _fill(images: Lake) -> None:
    fill_lake(images, num_images=20)
    images.write("line=2/date=2026-11-21/broken.png", b"\x89PNG\r\n\x1a\nhalf")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.quick(
    "folder-the plan is written",
    "folder-the shards are merged",
    "folder-before the predictions are published",
    "folder-one of two files is published",
    "folder-the predictions are committed",
    "folder-all three are committed",
    "s3-both files are published",
)
def test_killed_after(
    step: str,
    lake: Lake,
    tiny_engine: Path,
    tmp_path: Path,
    undisturbed: dict[str, list[dict[str, object]]],
) -> None:
    images = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    store = Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)
    _fill(images)
    config = score_config(
        images, store, tiny_engine, max_bad=0.5, lease_seconds=1.0, lock_wait_seconds=30.0,
        merge_bytes=1, shard_images=11,
    )  # fmt: skip
    pattern, nth, before = STEPS[step]
    file = tmp_path / "wanted.json"
    file.write_text(
        json.dumps(
            {
                "config": {**dataclasses.asdict(config), "ray_address": "auto"},
                "pattern": pattern,
                "nth": nth,
                "before": before,
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.killing", str(file)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    visible = committed_rows(store)
    assert visible in ([], undisturbed["predictions"])
    run_score(config)
    for table, rows in undisturbed.items():
        assert committed_rows(store, table) == rows
    assert list(verify(store)) == []
    assert run_score(config).run_id is None
