"""The child processes of an actor on a GPU, started while its engine is being loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steel_batch.lake import Lake
from steel_batch.registry.card import PostProcess
from steel_batch.scoring.describer import ChildDescriber
from steel_batch.scoring.writer import ChildWriter

WRITERS: Final = 6
"""Processes that make rows and stage them for a GPU: enough for 30 shards a second where the store
takes a tenth of a second for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """Child processes that describe batches and write shards; without any, the actor does it."""

    describers: Sequence[ChildDescriber] = ()
    writers: Sequence[ChildWriter] = ()

    @classmethod
    def start(
        cls,
        post_process: PostProcess,
        store: Lake,
        *,
        num_describers: int,
        num_writers: int = WRITERS,
    ) -> Children:
        """Start them; returns before they have loaded what they need.

        Args:
            post_process: Post-processing settings of the card.
            store: Where rows are staged and receipts are written.
            num_describers: How many describe: one for each batch in work, as a slot that waits for
                one keeps the GPU waiting. 0: the calling threads do.
            num_writers: How many write; 0: the calling threads do.

        Raises:
            ClusterError: A process cannot be started.
        """
        describers: list[ChildDescriber] = []
        writers: list[ChildWriter] = []
        try:
            for _ in range(num_describers):
                describers.append(ChildDescriber(post_process))
            for _ in range(num_writers):
                writers.append(ChildWriter(store))
        except BaseException:
            cls(describers=describers, writers=writers).close()
            raise
        return cls(describers=describers, writers=writers)

    def close(self) -> None:
        """End them; idempotent."""
        for describer in self.describers:
            describer.close()
        for writer in self.writers:
            writer.close()


NONE: Final = Children()
"""For an actor on CPUs, whose threads do all of it themselves."""
