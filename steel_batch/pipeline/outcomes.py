"""The outcome of each of many dates, and their progress."""

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
    """The outcome of one date."""

    date: str
    state: DateEnd
    """``committed`` even if nothing was new; ``done before`` if an earlier command finished it."""
    seconds: float = 0.0
    """From opening to commit; dates overlap, so the sum exceeds the total duration."""
    result: RunResult | None = None
    error: Exception | None = None
    """Why there is no result, else None."""
    was_listed: bool = True
    """Whether this command listed the date's images; if not, the result is the earlier one."""


class Outcomes:
    """Collects the outcomes of dates from several threads, and reports their progress.

    Args:
        num_before: Dates that were finished before.
        observe: Called with the overall progress, from the thread that has news.
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
        """Number of dates that failed."""
        return self._num_failed

    def expect(self, num_dates: int) -> None:
        """Set the number of dates."""
        self._num_dates = self._num_before + num_dates

    def add(self, outcome: DateOutcome) -> None:
        """Record the outcome of a date."""
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
        """Yield the outcomes since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._ended.get_nowait()

    def report_progress(self, open_dates: Iterable[str], note: str) -> None:
        """Pass the progress to the observer.

        Args:
            open_dates: Dates that are being worked on.
            note: What the actors do before they score, if that takes minutes.
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
