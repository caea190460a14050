"""What a read task reads and sends while the actors load their engines, and after."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
import ray

from steel_batch.cluster.dispatcher import Dispatcher, Work
from steel_batch.cluster.read_stage import ReadStage
from steel_batch.cluster.score_stage import Setup
from steel_batch.errors import ConfigError, LakeError, SteelBatchError
from steel_batch.scoring.shard import ShardInput

pytestmark = pytest.mark.ray

WORK = Work(run_id="run", plan_digest="digest", pending={0: [0], 1: [1], 2: [2], 3: [3], 4: [4]})


class Reading(ReadStage):
    """Reads nothing, and notes which shards it should have read."""

    def __init__(self, dispatcher: Any) -> None:
        card = SimpleNamespace(height=256, width=1600)
        setup = SimpleNamespace(
            lake=None, store=None, agreement=None, limits=None,
            engine=SimpleNamespace(card=card), decoding=SimpleNamespace(is_usual=True),
        )  # fmt: skip
        super().__init__(cast(Setup, setup), dispatcher)
        self.read: list[int] = []

    def _read(self, work: Work) -> Iterator[ShardInput]:
        for (shard,) in work.pending.values():
            self.read.append(shard)
            yield ShardInput.failed(work.run_id, work.plan_digest, shard, LakeError("It is gone."))


def begun(part: int, num_parts: int) -> tuple[Any, Reading, Iterator[int]]:
    """A dispatcher with a work, and the shards that a read task of one of its parts sends."""
    dispatcher = ray.remote(num_cpus=0)(Dispatcher).remote(num_awaited=1)
    ray.get(dispatcher.put.remote(0, WORK))
    stage = Reading(dispatcher)
    sent = stage(pa.table({"index": [0], "part": [part], "num_parts": [num_parts]}))
    return dispatcher, stage, (ShardInput.from_wire(table).shard for table in sent)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("part", "early", "late"), [(0, [0], [2, 4]), (1, [], [1, 3])])
def test_the_first_shard_is_sent_and_another_read_while_actors_load(
    part: int, early: list[int], late: list[int]
) -> None:
    dispatcher, stage, sent = begun(part, num_parts=2)
    assert [next(sent) for _ in early] == early
    with ThreadPoolExecutor(1) as thread:
        rest = thread.submit(list, sent)
        with pytest.raises(NotYetError):
            rest.result(1.0)
        assert stage.read == [*early, late[0]]
        ray.get(dispatcher.answer.remote("actor", "node", None))
        assert rest.result(60.0) == late


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_more_is_sent_if_an_actor_cannot_score() -> None:
    dispatcher, stage, sent = begun(0, num_parts=1)
    assert next(sent) == 0
    error: SteelBatchError = ConfigError("driver: too old.")
    ray.get(dispatcher.answer.remote("actor", "node", error))
    assert list(sent) == []
    assert stage.read == [0, 1]
    assert ray.get(dispatcher.start.remote("run", 0)) is None
