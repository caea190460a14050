"""What became of each of many dates, and how far they are."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from steel_batch.runs.events import Observer, Progress, Rate
from steel_batch.runs.record import RunResult

DateEnd = Literal["committed", "done before", "no images", "failed", "not begun"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DateOutcome:
    """What became of one date."""

    date: str
    state: DateEnd
    """``committed``, also where there was nothing new; ``done before`` by an earlier command."""
    seconds: float = 0.0
    """From its opening to its commit; dates overlap, so the sum is more than the whole took."""
    result: RunResult | None = None
    error: Exception | None = None
    """Why there is no result."""
    was_listed: bool = True
    """Whether this command looked for images of the date: else the result is what it was then."""


class Outcomes:
    """Collects the outcomes of dates from several threads, and reports how far they are.

    Args:
        num_before: Dates that were done before.
        observe: Told how far all of it is, from the thread that knows it.
    """

    def __init__(self, *, num_before: int, observe: Observer) -> None:
        self._num_dates = self._num_before = num_before
        self._observe = observe
        self._counting = threading.Lock()
        self._num_done = self._num_failed = self._num_images = 0
        self._ended: queue.SimpleQueue[DateOutcome] = queue.SimpleQueue()
        self._rate = Rate()
        self._started = time.monotonic()

    @property
    def num_failed(self) -> int:
        """Dates that failed."""
        return self._num_failed

    def expect(self, num_dates: int) -> None:
        """Say how many dates there will be."""
        self._num_dates = self._num_before + num_dates

    def add(self, outcome: DateOutcome) -> None:
        """Note what became of a date."""
        with self._counting:
            if outcome.state == "failed":
                self._num_failed += 1
            else:
                self._num_done += 1
        self._ended.put(outcome)

    def add_images(self, num_images: int) -> None:
        """Count images that were scored."""
        with self._counting:
            self._num_images += num_images

    def take(self) -> Iterator[DateOutcome]:
        """The outcomes since the last time."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._ended.get_nowait()

    def report_progress(self, open_dates: Iterable[str], note: str) -> None:
        """Tell the observer how far it is.

        Args:
            open_dates: Dates that are at work.
            note: What the actors do before they score, where that takes minutes.
        """
        with self._counting:
            num_ended = self._num_done + self._num_failed
            rate = self._rate.add(self._num_images)
        done = f"{self._num_before + self._num_done:,} of {self._num_dates:,} dates done"
        failed = f"{self._num_failed:,} failed" if self._num_failed else ""
        at_work = ", ".join(sorted(open_dates))
        num_left = self._num_dates - self._num_before - num_ended
        seconds = time.monotonic() - self._started
        self._observe(
            Progress(
                step=" · ".join(filter(None, [done, failed, note])),
                num_done=self._num_images,
                images_per_second=rate,
                seconds_left=seconds / num_ended * num_left if num_ended else None,
                detail=f"at {at_work}" if at_work else "",
            )
        )
