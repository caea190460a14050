"""The read stage: a task that turns parts of plans into shards of compressed bytes.

A module of its own, without the engine's libraries: each task's process pays for its imports before
it reads the first image.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import ray

from steel_batch.cluster.dispatcher import Work
from steel_batch.cluster.process_end import skip_exit_handlers
from steel_batch.cluster.store_pages import StorePages
from steel_batch.errors import SteelBatchError
from steel_batch.runs.events import Meter
from steel_batch.runs.plan import Plan
from steel_batch.scoring.memory import keep_freed_memory
from steel_batch.scoring.shard import ShardInput, check_jpegs, read_shards

if TYPE_CHECKING:
    from steel_batch.cluster.score_stage import Setup

_pages: Final = StorePages()
"""Of this process, which may run several read tasks, one after the other."""


class ReadStage:
    """Turns parts of work items into shards of compressed bytes.

    Args:
        setup: What to read, and how.
        dispatcher: Hands out the parts.
    """

    def __init__(self, setup: Setup, dispatcher: Any) -> None:
        # Without the engine: its files may travel with it, and every task is sent all of this.
        self._lake, self._store, self._agreement = setup.lake, setup.store, setup.agreement
        self._limits = setup.limits
        card = setup.engine.card
        self._jpeg_size = (card.height, card.width) if setup.decoding.is_usual else None
        self._dispatcher = dispatcher

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Read the wanted shards of each part, one row group of the plan after the other."""
        keep_freed_memory()
        skip_exit_handlers()
        for row in batch.to_pylist():
            # While this waits, Ray lends the task's CPU to others.
            work: Work | None = ray.get(self._dispatcher.take.remote(**row))
            if work is None:
                continue
            shards = self._read(work)
            if row["part"] == 0:  # the first shard is on its way while the actors load
                yield from (shard.to_wire() for shard in itertools.islice(shards, 1))
            ahead = [shard.to_wire() for shard in itertools.islice(shards, 1)]
            if ray.get(self._dispatcher.may_score.remote()):
                yield from ahead
                ahead.clear()  # it is sent
                for shard in shards:
                    _pages.map_filled()
                    yield shard.to_wire()

    def _read(self, work: Work) -> Iterator[ShardInput]:
        lake, store = self._lake, self._store
        meter = Meter(lake, store)
        left = {shard for shards in work.pending.values() for shard in shards}
        try:
            self._agreement.check()
            plan = Plan(store, work.run_id, digest=work.plan_digest)
            for group, shards in work.pending.items():
                refs = plan.read_group(group)
                for shard in read_shards(
                    lake, work.run_id, work.plan_digest, refs, shards, self._limits
                ):
                    left.remove(shard.shard)
                    if self._jpeg_size is not None:
                        shard = check_jpegs(shard, *self._jpeg_size, self._limits)
                    yield dataclasses.replace(shard, counts=meter.take())
        except SteelBatchError as error:
            for number in sorted(left):
                blamed = self._agreement.blame(error)
                failed = ShardInput.failed(work.run_id, work.plan_digest, number, blamed)
                yield dataclasses.replace(failed, counts=meter.take())
