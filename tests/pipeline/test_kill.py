"""The driver is killed at every durable step; the same command brings the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.tables.verify import verify
from tests.conftest import (
    DATE,
    cluster_address,
    committed_rows,
    fill_lake,
    png,
    run_score,
    score_config,
)
from tests.pipeline.killing import AMID_RECEIPTS, RECEIPT, Step, kill_driver
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STEPS = {
    "the lock is taken": Step("^locks/"),
    "the plan is written": Step("plan.parquet$"),
    "the run is recorded": Step("run.json$"),
    "one of two shards has its receipt": AMID_RECEIPTS,
    "both shards have theirs": Step(RECEIPT, nth=2),
    "the shards are merged": Step("files/merged.json$"),
    "before the predictions are published": Step("^predictions/", before=True),
    "one of two files is published": Step("^predictions/"),
    "both files are published": Step("^predictions/", nth=2),
    "the predictions are committed": Step("merged/class_summaries/", before=True),
    "the summary is published": Step("^class_summaries/"),
    "the summary is committed": Step("merged/quarantine/", before=True),
    "the quarantine is published": Step("^quarantine/"),
    "the log of the predictions is written": Step("look:predictions", before=True),
    "the predictions were looked at": Step("look:predictions"),
    "they were looked at and swept": Step("look:predictions", nth=2),
    "the quarantine was looked at": Step("look:quarantine"),
    "all three were looked at again": Step("look:quarantine", nth=3),
    "all three are committed": Step("result.json$", before=True),
    "the result is written": Step("result.json$"),
}
MERGED = "the shards are merged"
Rows = dict[str, list[dict[str, object]]]


def _fill(images: Lake) -> Lake:
    fill_lake(images, num_images=20)
    images.write("line=2/date=2026-11-21/broken.png", b"\x89PNG\r\n\x1a\nhalf")
    return images


def _config(images: Lake, store: Lake, engine: Path) -> ScoreConfig:
    return score_config(
        images, store, engine, max_bad=0.5, lease_seconds=1.0, lock_wait_seconds=30.0,
        merge_bytes=1, shard_images=11, ray_address=cluster_address(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return _fill(Lake(str(tmp_path_factory.mktemp("images"))))


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, images: Lake, tiny_engine: Path, ray_cluster: None
) -> Rows:
    """The rows of the same images without a kill."""
    store = Lake(str(tmp_path_factory.mktemp("undisturbed")))
    score_here(score_config(images, store, tiny_engine, max_bad=0.5))
    return {t: committed_rows(store, t) for t in ("predictions", "class_summaries", "quarantine")}


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, images: Lake, tiny_engine: Path, ray_cluster: None
) -> dict[str, Lake]:
    """For each step a store whose driver was killed there.

    All are killed before any is continued, so that the locks of the dead run out meanwhile. Past
    the merge, it is the second driver that dies, which continued what another one left there.
    """
    base = tmp_path_factory.mktemp("killed")
    stores = {step: Lake(str(base / f"{number}")) for number, step in enumerate(STEPS)}
    for name, step in STEPS.items():
        if list(STEPS).index(name) > list(STEPS).index(MERGED):
            shutil.copytree(stores[MERGED].url, stores[name].url)
        kill_driver(_config(images, stores[name], tiny_engine), step)
    return stores


def _continue(config: ScoreConfig, store: Lake, undisturbed: Rows, step: Step) -> None:
    visible = committed_rows(store)
    assert visible in ([], undisturbed["predictions"])
    result = run_score(config) if step == AMID_RECEIPTS else score_here(config)
    if step.pattern == RECEIPT:
        assert result.num_resumed_shards >= step.nth
    for table, rows in undisturbed.items():
        assert committed_rows(store, table) == rows
    assert list(verify(store)) == []
    assert score_here(config).run_id is None


@pytest.mark.parametrize("step", STEPS)
def test_killed_after(
    step: str, images: Lake, killed: dict[str, Lake], tiny_engine: Path, undisturbed: Rows
) -> None:
    config = _config(images, killed[step], tiny_engine)
    _continue(config, killed[step], undisturbed, STEPS[step])


@pytest.mark.s3
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.quick("the predictions are committed")
def test_killed_on_s3_after(
    step: str, bucket: str, s3_endpoint: str, tiny_engine: Path, undisturbed: Rows
) -> None:
    """Here the first driver dies, wherever that is."""
    images = _fill(Lake(f"{bucket}/images", endpoint_url=s3_endpoint))
    store = Lake(f"{bucket}/store", endpoint_url=s3_endpoint)
    config = _config(images, store, tiny_engine)
    kill_driver(config, STEPS[step])
    _continue(config, store, undisturbed, STEPS[step])


REPLACING = {
    "the new files are listed": Step("files/predictions.json$"),
    "one of two files is published": Step("^predictions/"),
    "the rows are replaced": Step("merged/class_summaries/", before=True),
    "the result is written": Step("result.json$"),
}


@pytest.mark.parametrize("step", REPLACING)
@pytest.mark.quick("the rows are replaced")
def test_killed_while_rows_are_replaced_after(step: str, tiny_engine: Path, tmp_path: Path) -> None:
    """Delta readers see the rows before or the rows after, and each image once."""
    images, store = _fill(Lake(str(tmp_path / "images"))), Lake(str(tmp_path / "store"))
    config = _config(images, store, tiny_engine).replace(merge_bytes=1 << 20)
    score_here(config)
    before = committed_rows(store)
    for i in range(0, 20, 4):
        key = f"line=1/date={DATE}/im{i:05d}.png"
        images.write(key, png(np.full((64, 160), 250, np.uint8)))
    quiet = Lake(str(tmp_path / "quiet"))
    score_here(_config(images, quiet, tiny_engine))
    after = committed_rows(quiet)
    assert after != before
    config = config.replace(rescore_changed=True)
    kill_driver(config, REPLACING[step])
    assert committed_rows(store) in (before, after)
    assert score_here(config).num_images in (0, 5)
    for table in ("predictions", "class_summaries", "quarantine"):
        assert committed_rows(store, table) == committed_rows(quiet, table)
    assert list(verify(store)) == []
