"""A single file is merged by the command's own process; `pipeline.test_damaged` merges many."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from steel_batch import layout
from steel_batch.cluster.merging import merge_files
from steel_batch.lake import Lake
from tests.made_up_run import begin, image_keys, score_shards


class NotingLake(Lake):
    """Notes which files this process writes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.written: list[str] = []

    def open_output(self, key: str) -> AbstractContextManager[BinaryIO]:
        self.written.append(key)
        return super().open_output(key)


def test_a_single_file_is_merged_by_this_process(tmp_path: Path) -> None:
    store = NotingLake(str(tmp_path / "store"))
    record = begin(store, image_keys(8))
    score_shards(store, record)
    cut = (0, range(2))
    counts: list[Mapping[str, int]] = []
    files, damaged = merge_files(store, record.run_id, [cut], counts.append)
    merged = layout.merged_file(record.run_id, layout.PREDICTIONS, 0)
    assert store.written == [merged]
    assert (files[cut].merged, files[cut].num_rows, damaged) == (merged, 8, {})
    assert counts == [{}], "requests of this process are counted where it counts its own"


def test_damage_in_a_single_file_is_returned_by_shard(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    record = begin(store, image_keys(8))
    score_shards(store, record)
    store.delete([layout.receipt_file(record.run_id, 1)])
    files, damaged = merge_files(store, record.run_id, [(0, range(2))], lambda _: None)
    assert files == {}
    assert list(damaged) == [1]
