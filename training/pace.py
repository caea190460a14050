"""The progress of a training run, and its remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from training.recipe import TrainConfig


class Pace:
    """Estimates the duration of the remaining steps from those of this process.

    Args:
        config: The recipe, with its number of steps.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return progress to add to a report of the training loop.

        Args:
            record: The report, with ``step`` and, in the first one, ``images_per_second``.

        Returns:
            ``num_steps``, and ``seconds_left`` until the last step, including evaluations on the
            validation part; None if it is not known yet.
        """
        step, now = int(record["step"]), self._clock()
        if self._first is None or step < self._first[0]:  # workers died: resumed at a checkpoint
            self._first = (step, now)
        first_step, first_time = self._first
        num_left = self._config.num_steps - step
        seconds = None
        if step > first_step:
            seconds = num_left * (now - first_time) / (step - first_step)
        elif record.get("images_per_second"):
            seconds = num_left * self._config.batch_size / record["images_per_second"]
        return {"num_steps": self._config.num_steps, "seconds_left": seconds}
