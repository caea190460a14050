"""Keeps Ray Data's statistics of a dataset from growing with its blocks.

Ray Data holds 1.3 kB for each block until the dataset ends, for a summary that nothing here asks
for: 1 GB in the driver for 100 million images, two blocks a shard.

A module of its own, without the engine's libraries: Ray Data sends the class to each of its tasks.
"""

from __future__ import annotations

from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback


class ForgetBlockStats(ExecutionCallback):  # type: ignore[misc]
    """Empties the statistics of blocks that have gone on, some ten times per second."""

    def on_execution_step(self, executor: Any) -> None:
        """Empty those of each operator; one that keeps none under this name keeps them."""
        for operator in executor._topology:
            stats = getattr(operator, "_output_blocks_stats", None)
            if isinstance(stats, list):
                stats.clear()
