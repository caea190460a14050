"""The progress of a run, as one line on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from steel_batch.cli.output import console, duration, say
from steel_batch.runs.events import Observer, Progress


@contextmanager
def progress_line(*, every_seconds: float = 30.0) -> Iterator[Observer]:
    """Show progress on one line of stderr, which is rewritten while the run goes on.

    Args:
        every_seconds: If the line cannot be rewritten, as in a log, a new line is printed at
            every step, and this long after the last one.
    """
    if not console.is_terminal:
        last = ("", 0.0)

        def note(progress: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            if progress.step != last[0] or now - last[1] >= every_seconds:
                last = (progress.step, now)
                say(describe(progress))

        yield note
        return
    with console.status("starting") as status:
        yield lambda progress: status.update(describe(progress))


def describe(progress: Progress) -> str:
    """Return a run's progress as one line."""
    parts = [progress.step]
    if progress.num_images:
        parts.append(f"{progress.num_done:,} of {progress.num_images:,} images")
    elif progress.num_done:
        parts.append(f"{progress.num_done:,} images")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:,.0f} images/s")
    if progress.seconds_left:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.num_quarantined:
        parts.append(f"{progress.num_quarantined:,} quarantined")
    if progress.detail:
        parts.append(progress.detail)
    return " · ".join(parts)
