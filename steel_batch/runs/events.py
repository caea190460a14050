"""What a run reports: progress for the person who waits, events for the morning after."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from steel_batch import layout
from steel_batch.errors import DamagedFileError, LakeError, MissingObjectError
from steel_batch.lake import Lake
from steel_batch.lake.documents import MAX_BYTES, parse_json
from steel_batch.lake.format_version import FileFormat

MAX_EVENTS: Final = 20_000
"""Maximum number of events kept per run; beyond it, events from the middle are dropped."""
FORMAT: Final = FileFormat("the events of a run")
FLUSH_SECONDS: Final = 10.0
RATE_SECONDS: Final = 20.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a run."""

    step: str
    num_done: int = 0
    num_images: int = 0
    num_quarantined: int = 0
    images_per_second: float = 0.0
    seconds_left: float | None = None
    detail: str = ""
    """What it is at, where that changes often."""


Observer = Callable[[Progress], None]


class Rate:
    """Images per second over the last `RATE_SECONDS`, so that start-up soon stops to count."""

    def __init__(self) -> None:
        self._points: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, num_done: int) -> float:
        """Record the number done so far; return the rate since the oldest recorded point."""
        now = time.monotonic()
        self._points.append((now, num_done))
        while len(self._points) > 2 and now - self._points[0][0] > RATE_SECONDS:
            self._points.popleft()
        (first, before), (last, after) = self._points[0], self._points[-1]
        return (after - before) / (last - first) if last > first else 0.0


class Meter:
    """Counts what this process's requests to some lakes met with, in steps. Thread-safe.

    Args:
        lakes: The lakes; each is counted once, even if it is given twice.
    """

    def __init__(self, *lakes: Lake) -> None:
        self._lakes = {lake.url: lake for lake in lakes}
        self._lock = threading.Lock()
        self._seen: collections.Counter[str] = collections.Counter()
        self.take()

    def take(self) -> dict[str, int]:
        """Counts (`Lake.counts`) since the last call, without those that did not grow."""
        with self._lock:
            now: collections.Counter[str] = collections.Counter()
            for lake in self._lakes.values():
                now.update(lake.counts())
            del now["reads_at_once"]  # a current value, not a count
            new, self._seen = now - self._seen, now
        return dict(new)


def retries_of(counts: Mapping[str, int]) -> dict[str, int]:
    """From `Lake.counts`, how often requests were retried, by kind of failure."""
    prefix = "retries_"
    return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}


class Events:
    """A run's `events.jsonl`: what happened and when, including earlier attempts at the same run.

    An object store cannot append, so the whole file is written, at most every `FLUSH_SECONDS` and
    at the end. If the store fails here, events are lost, but the run continues without much delay.

    Args:
        store: The store.
        run_id: The run.
        is_new: Whether this is the first attempt at the run, so that there are no events yet.

    Raises:
        FormatError: An earlier attempt wrote a newer format.
    """

    def __init__(self, store: Lake, run_id: str, *, is_new: bool = False) -> None:
        self._store = store.with_retry(
            dataclasses.replace(store.retry, total_seconds=FLUSH_SECONDS)
        )
        self._key = layout.run_file(run_id, "events.jsonl")
        self._lock = threading.Lock()
        self._flushed = 0.0
        self._lines = [] if is_new else _lines_of(store, self._key)

    def add(self, event: str, **fields: Any) -> None:
        """Record an event; `fields` are plain JSON values."""
        line = _line(event, fields)
        with self._lock:
            self._lines.append(line)
            if len(self._lines) > MAX_EVENTS:
                self._drop_middle()
        log.info("%s %s", event, fields)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _drop_middle(self) -> None:
        """Make room for one event; an event in the middle states how many were dropped there."""
        middle = json.loads(self._lines[MAX_EVENTS // 2])
        num_events = middle["num_events"] + 1 if middle["event"] == "dropped" else 2
        both = slice(MAX_EVENTS // 2, MAX_EVENTS // 2 + 2)
        self._lines[both] = [_line("dropped", {"num_events": num_events})]

    def flush(self) -> None:
        """Write the file."""
        with self._lock:
            self._flushed = time.monotonic()
            data = "".join(f"{line}\n" for line in (FORMAT.header, *self._lines)).encode()
        try:
            self._store.write(self._key, data)
        except LakeError as error:
            log.warning("cannot write the run's events: %s", error)


def _line(event: str, fields: dict[str, Any]) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"at": now, "event": event, **fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """How the last attempt at an unfinished run ended."""

    kind: Literal["failed", "interrupted", "unknown"]
    """``unknown``: still running, or killed."""
    error: str = ""
    """The error's class."""
    message: str = ""
    at: str = ""
    """When it was recorded (UTC); for ``unknown``, the time of the last event."""


def last_end(events: Sequence[Mapping[str, Any]]) -> AttemptEnd:
    """How the last attempt ended, according to its run's events."""
    last_at = str(events[-1]["at"]) if events else ""
    for event in reversed(events):
        if event["event"] == "attempt":
            break
        if event["event"] in ("failed", "interrupted"):
            return AttemptEnd(
                kind=event["event"],
                error=event.get("error", ""),
                message=event.get("message", ""),
                at=event["at"],
            )
    return AttemptEnd(kind="unknown", at=last_at)


def read_events(store: Lake, run_id: str) -> Iterator[dict[str, Any]]:
    """A run's events, oldest first.

    Raises:
        FormatError: They are of a newer format.
        DamagedFileError: They are damaged.
    """
    key = layout.run_file(run_id, "events.jsonl")
    for line in _lines_of(store, key):
        try:
            event = parse_json(line)
            if not isinstance(event, dict) or not {"at", "event"} <= event.keys():
                raise ValueError(f"{line[:80]!r} is not an event")
        except ValueError as error:
            raise DamagedFileError(
                f"{store.uri(key)} is damaged: {error}. It only tells what happened: restore it "
                "from a backup, or delete it."
            ) from error
        yield event


def _lines_of(store: Lake, key: str) -> list[str]:
    try:
        return FORMAT.lines(
            store.read(key, max_bytes=MAX_BYTES).decode(errors="replace").splitlines(),
            source=store.uri(key),
        )
    except MissingObjectError:
        return []
