"""Ray Data's statistics do not grow with the blocks of a dataset."""

from __future__ import annotations

import pytest
import ray
from ray.data import DataContext

from steel_batch.cluster.block_stats import ForgetBlockStats

NUM_BLOCKS = 200


def most_held(monkeypatch: pytest.MonkeyPatch, callbacks: list[type]) -> int:
    """The highest number of blocks of which Ray Data holds statistics."""
    context = DataContext.get_current()
    monkeypatch.setattr(context, "custom_execution_callback_classes", callbacks)
    dataset = ray.data.from_items(list(range(NUM_BLOCKS)), override_num_blocks=NUM_BLOCKS)
    dataset = dataset.map_batches(lambda batch: batch, batch_size=1)
    most = num_seen = 0
    for _ in dataset.iter_batches(batch_size=None, prefetch_batches=0):
        num_seen += 1
        executor = dataset._current_executor
        operators = executor._topology if executor is not None else ()
        held = [getattr(operator, "_output_blocks_stats", ()) for operator in operators]
        most = max(most, *map(len, held), 0)
    assert num_seen == NUM_BLOCKS
    return most


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_statistics_of_blocks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_held(monkeypatch, []) > NUM_BLOCKS // 2, "Ray keeps them under another name"
    assert most_held(monkeypatch, [ForgetBlockStats]) < NUM_BLOCKS // 4
