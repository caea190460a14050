"""Staged rows that the store damaged are scored again, so often and no more; the rest is kept."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from steel_batch import layout
from steel_batch.cluster.merging import merge_files
from steel_batch.config import ScoreConfig
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.runs.events import read_events
from steel_batch.tables.verify import verify
from tests.conftest import (
    committed_rows,
    complete,
    fill_lake,
    scope_of,
    score_config,
)
from tests.made_up_run import begin, image_keys, keys_of, score_shards
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

DAMAGED = (1, 3)
PATIENCE_SECONDS = 120.0


class DamagingLake(Lake):
    """Keeps the rows of two shards wrongly, the first few times; notes what is written, anywhere.

    Args:
        url: The store.
        notes: A folder for the notes.
        num_damages: How often.
    """

    def __init__(self, url: str, *, notes: Path, num_damages: int) -> None:
        super().__init__(url)
        self._notes, self._num_damages = notes, num_damages

    def write(self, key: str, data: bytes) -> None:
        staged = re.search(r"/shards/(\d+)-", key)
        if staged and int(staged[1]) in DAMAGED:
            self._note(f"shard {int(staged[1])}")
            if self.writes()[f"shard {int(staged[1])}"] <= self._num_damages:
                data = data[:-1] + bytes([data[-1] ^ 1])
        super().write(key, data)

    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]:
        if merged := re.search(r"/merged/predictions/(\d+)", key):
            self._note(f"file {int(merged[1])}")
        return super().open_output(key)

    def _note(self, what: str) -> None:
        (self._notes / f"{what}-{uuid.uuid4().hex}").touch()

    def writes(self) -> Counter[str]:
        """How often each thing was written."""
        return Counter(path.name.partition("-")[0] for path in self._notes.iterdir())


@pytest.fixture
def config(tmp_path: Path, tiny_engine: Path) -> ScoreConfig:
    """A run of five shards, each merged into a file of its own."""
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=20)
    return score_config(images, store, tiny_engine, shard_images=4, merge_bytes=1, shard_attempts=2)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def test_only_damaged_shards_are_scored_again_and_only_their_files_merged_again(
    config: ScoreConfig, notes: Path
) -> None:
    store = DamagingLake(config.store, notes=notes, num_damages=1)
    result = complete(scope_of(config, store))
    assert (result.num_shards, result.num_scored) == (5, 20)
    assert len(committed_rows(store)) == 20
    assert list(verify(store)) == []
    damaged = [e for e in read_events(store, str(result.run_id)) if e["event"] == "damaged"]
    assert [event["shards"] for event in damaged] == [list(DAMAGED)]
    twice = {f"{what} {number}": 2 for what in ("shard", "file") for number in DAMAGED}
    assert store.writes() == {**twice, "file 0": 1, "file 2": 1, "file 4": 1}
    assert min(result.attempt_seconds.values()) >= 0


def test_a_store_that_keeps_damaging_is_named_and_what_is_whole_is_kept(
    config: ScoreConfig, notes: Path
) -> None:
    store = DamagingLake(config.store, notes=notes, num_damages=9)
    with pytest.raises(
        LakeError, match=r"2 shards in .* are not what .* after 2 attempts"
    ) as raised:
        complete(scope_of(config, store))
    named = re.findall(r"/shards/(\d+)-", str(raised.value))
    assert {int(shard) for shard in named} <= set(DAMAGED), "whichever was merged first"
    assert named
    assert str(raised.value).isprintable()
    assert committed_rows(store) == []
    assert {what: n for what, n in store.writes().items() if "shard" in what} == {
        f"shard {shard}": 2 for shard in DAMAGED
    }
    result = score_here(config)
    assert result.num_resumed_shards == 3
    assert len(committed_rows(store)) == 20


class StallingLake(Lake):
    """Refuses to read the first shard as soon as another merge waits for the second, for ever."""

    def __init__(self, url: str, *, notes: Path) -> None:
        super().__init__(url)
        self._waiting, self.ended = notes / "waiting", notes / "ended"

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        if requests[0].key.endswith("/0000000.json"):
            wait_for(self._waiting)
            raise LakeError("the store says no.")
        self._waiting.touch()
        try:
            while True:
                time.sleep(0.02)
        finally:
            self.ended.touch()


def wait_for(path: Path) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_merges_that_run_are_cancelled_where_one_fails(tmp_path: Path, notes: Path) -> None:
    folder = Lake(str(tmp_path / "store"))
    record = begin(folder, image_keys(8))
    score_shards(folder, record)
    store = StallingLake(folder.url, notes=notes)
    cuts = [(number, range(number, number + 1)) for number in range(2)]
    with pytest.raises(LakeError, match="the store says no"):
        merge_files(store, record.run_id, cuts, lambda _: None)
    wait_for(store.ended)
    assert keys_of(folder, f"{layout.RUNS}/{record.run_id}/merged/") == set()
