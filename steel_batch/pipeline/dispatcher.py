"""Who hands works to the read tasks, and counts how often each shard was started.

A module of its own that imports next to nothing: the process of this actor is there at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left to score of one run."""

    run_id: str
    plan_digest: str
    pending: Mapping[int, Sequence[int]]
    """Per row group of the plan, its shards that are to be scored."""


class Dispatcher:
    """Hands works to the read tasks, and counts how often each shard was started.

    An actor of its own: what kills a scoring actor does not reach it.
    """

    def __init__(self) -> None:
        self._works: dict[int, Work | None] = {}
        self._is_there: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._started: Counter[tuple[str, int]] = Counter()

    async def put(self, index: int, work: Work | None) -> None:
        """Say what a work is; None where there is nothing to do, or no more."""
        self._works[index] = work
        self._is_there[index].set()

    async def put_if_unknown(self, index: int, work: Work | None) -> None:
        """Say what a work is, unless that was said."""
        if index not in self._works:
            await self.put(index, work)

    async def take(self, index: int, part: int, num_parts: int) -> Work | None:
        """One part of a work, as soon as it is known what that is."""
        await self._is_there[index].wait()
        work = self._works[index]
        if work is None:
            return None
        groups = sorted(work.pending)[part::num_parts]
        return dataclasses.replace(work, pending={g: work.pending[g] for g in groups})

    async def start(self, run_id: str, shard: int) -> int:
        """Note a start; returns which one it is, from 1."""
        self._started[run_id, shard] += 1
        return self._started[run_id, shard]

    async def finish(self, run_id: str, shard: int) -> None:
        """Forget a shard that is done."""
        del self._started[run_id, shard]
