"""Scoring actors that cannot go on: the run does, or ends and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.data import DataContext

from steel_batch.errors import DeviceError, EngineError
from steel_batch.lake import Lake
from steel_batch.tables.verify import verify
from tests.conftest import (
    committed_rows,
    complete,
    fill_lake,
    run_score,
    scope_of,
    score_config,
)
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class FailingLake(Lake):
    """A store; whoever first stages rows in it finds that its GPU has failed."""

    def __init__(self, url: str, failed: Path) -> None:
        super().__init__(url)
        self._failed = failed

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if "/receipts/" in key and not self._failed.exists():
            self._failed.touch()
            raise DeviceError("the GPU failed.")
        return super().put_if_absent(key, data)


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "images"))
    fill_lake(lake, num_images=12)
    return lake


def test_an_actor_whose_device_fails_is_started_anew_and_no_row_is_lost(
    images: Lake, tmp_path: Path, tiny_engine: Path
) -> None:
    quiet, store = Lake(str(tmp_path / "quiet")), Lake(str(tmp_path / "store"))
    score_here(score_config(images, quiet, tiny_engine))
    config = score_config(images, store, tiny_engine)
    failing, failed = FailingLake(store.url, tmp_path / "failed"), tmp_path / "failed"
    assert complete(scope_of(config, failing)).num_scored == 12
    assert failed.exists()
    assert committed_rows(store) == committed_rows(quiet)
    assert list(verify(store)) == []


def test_actors_that_die_while_they_load_end_the_run_and_not_never(
    images: Lake, tmp_path: Path, tiny_engine: Path
) -> None:
    store = Lake(str(tmp_path / "store"))
    decoder = "tests.pipeline.deadly_import:decode"
    with pytest.raises(EngineError, match="loading the engine ended its process 5 times"):
        run_score(score_config(images, store, tiny_engine, decoder=decoder, num_actors=1))
    assert committed_rows(store) == []


def test_a_shard_that_takes_longer_than_ray_data_waits_for_any_progress_is_waited_for(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1)
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=4)  # a second each
    decoder = "tests.pipeline.decoders:very_slow"
    config = score_config(images, store, tiny_engine, decoder=decoder, num_actors=1)
    assert run_score(config).num_scored == 4
