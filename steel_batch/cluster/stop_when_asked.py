"""Ends a dataset when a signal asks to stop.

A module of its own, without the engine's libraries: Ray Data sends the class to each of its tasks.
"""

from __future__ import annotations

import logging

from ray.data._internal.execution.execution_callback import ExecutionCallback

from steel_batch import interrupt


class StopWhenAsked(ExecutionCallback):  # type: ignore[misc]
    """Ends a dataset when a signal asks to stop.

    Ray Data calls it some ten times per second, and its exception reaches the consumer, which might
    otherwise wait minutes for the next block.
    """

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002 - Ray Data gives it
        """Check whether a signal asked to stop."""
        if interrupt.is_requested():
            # Or it would report this as a bug of its own, and print a traceback.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            raise RuntimeError("a signal asked to stop")
