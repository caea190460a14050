"""How runs stand, for who looks at them the morning after."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.lake.lock import holder_of
from steel_batch.runs.events import last_end, read_events
from steel_batch.runs.record import Run

SHORT: Final = {
    "TooManyBadImagesError": "too many bad images",
    "LockHeldError": "lost its lock",
}
"""What a kind of failure is called in a table; others by the first sentence of their message."""
LONGEST_REASON: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a run stands."""

    state: str
    """``committed``, ``running``, ``failed``, ``interrupted``, ``killed``, ``unplanned``,
    ``abandoned``, or ``unreadable`` where a newer build wrote it."""
    reason: str | None = None
    """Why it has no result: the whole message."""
    short: str = ""
    """The reason, as it fits a table."""


def ending_of(store: Lake, run: Run) -> Ending:
    """Why a run has no result, from its events and its date's lock."""
    if run.result is not None:
        return Ending(run.state)
    engine, date, _ = layout.split_run_id(run.run_id)
    if run.is_newest:
        holder = holder_of(store, layout.lock_series(engine, date))
        if holder is not None:
            return Ending("running", str(holder), str(holder))
    end = last_end(list(read_events(store, run.run_id)))
    reason: str | None = None
    if end.kind == "failed":
        reason = end.message or end.error
        short = SHORT.get(end.error) or first_sentence(reason)
    elif end.kind == "interrupted":
        reason = short = f"by Ctrl-C or SIGTERM at {end.at}"
    elif run.record is not None:
        reason = short = f"last heard of at {end.at or run.record.created_at}"
    else:
        short = ""
    kind = "killed" if end.kind == "unknown" else end.kind
    if not run.is_newest:
        return Ending(run.state, reason and f"{kind}: {reason}", short and f"{kind}: {short}")
    return Ending(run.state if run.record is None else kind, reason, short)


def first_sentence(message: str) -> str:
    """What fits a table of a message."""
    first, *_ = re.split(r"(?<=[.;])\s", message, maxsplit=1)
    first = first.rstrip(".;")
    return first if len(first) <= LONGEST_REASON else f"{first[: LONGEST_REASON - 1]}…"
