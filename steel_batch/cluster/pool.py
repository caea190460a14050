"""How many scoring actors a run has, what each claims, and how it is kept busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

READ_CPUS: Final = 0.25
"""CPUs that a read task claims: it mostly waits for the store."""
SHARDS_PER_READ: Final = 8
"""Minimum number of shards per read task: starting one costs as much as reading a small shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """How much is on its way to each scoring actor, so that it never waits."""

    num_reads: int
    """Concurrent read tasks; each reads and checks 1,000 to 2,000 images per second."""
    num_in_work: int
    """Concurrent shards of an actor, so that the device is busy at a shard's end."""
    num_in_flight: int
    """Shards sent to an actor, in progress or waiting in its node's memory. Ray Data sends new ones
    eight times per second; a shard sent to one actor cannot move to another."""
    num_ahead: int
    """Shards that may be in the cluster's memory for an actor, those in flight included: reading
    further ahead takes CPUs and fresh memory from what is scored now."""


ON_GPU: Final = Supply(num_reads=8, num_in_work=8, num_in_flight=64, num_ahead=96)
"""For 15,000 images per second and more: 64 shards in flight fed two H200s 2 % better than 32, and
24 a sixth worse."""
ON_CPU: Final = Supply(num_reads=2, num_in_work=2, num_in_flight=4, num_ahead=8)
"""Here a shard takes seconds, and reading the next one less."""
LEAST_SHARD_BYTES: Final = 32 << 20
"""Shards count as this large at least: an image may be larger than its shard should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPool:
    """How many scoring actors there are, and what each claims."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    num_slots: int
    """Batches in flight on a GPU."""

    @property
    def supply(self) -> Supply:
        """How much keeps one of them busy."""
        return ON_GPU if self.num_gpus else ON_CPU

    @property
    def num_reads(self) -> int:
        """Concurrent read tasks that keep all of them busy."""
        return self.num_actors * self.supply.num_reads

    def memory_bytes(self, shard_bytes: int) -> int:
        """How much of the cluster's memory may hold shards and what becomes of them.

        Args:
            shard_bytes: Size of the largest shard, unless a single image is larger.
        """
        return self.num_actors * self.supply.num_ahead * max(shard_bytes, LEAST_SHARD_BYTES)

    def num_parts(self, num_shards: int) -> int:
        """Number of read tasks for a run.

        A GPU needs all of its readers. A CPU is kept busy by one, and a second one that starts at
        the same time would delay the first shard: its process takes CPUs for as long as a hundred
        images.
        """
        least = self.num_reads if self.num_gpus else self.num_actors
        return max(least, num_shards // SHARDS_PER_READ)
