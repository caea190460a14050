"""Makes the steps of Ray Data short until the first result.

In each of its steps, Ray Data waits a tenth of a second for its tasks, unless every one of them has
something to say. A first shard takes several steps: its block and then what is known of the block
are fetched in a step each, on the way to the actor and on the way back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from ray.data._internal.execution import streaming_executor_state as steps

STEP_SECONDS: Final = 0.02
"""A step costs the driver 2 to 3 ms of CPU."""
MOST_SECONDS: Final = 60.0
"""A run may wait for a GPU for hours, and nobody for its first result then."""
NAME: Final = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"
_USUAL: Final[float | None] = getattr(steps, NAME, None)
"""None with a version of Ray whose steps cannot be changed."""


@contextlib.contextmanager
def quick_steps() -> Iterator[None]:
    """Make the steps short for a `with` block, but not for long, nor once another thread's ends."""
    if _USUAL is None:
        yield
        return
    timer = threading.Timer(MOST_SECONDS, _end)
    timer.daemon = True
    try:
        setattr(steps, NAME, STEP_SECONDS)
        timer.start()
        yield
    finally:
        timer.cancel()
        _end()


def _end() -> None:
    setattr(steps, NAME, _USUAL)
