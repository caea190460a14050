"""How runs stand, for who looks at them the morning after."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.lake.lock import holder_of
from steel_batch.runs.events import last_end, read_events
from steel_batch.runs.record import UNREADABLE, Run

SHORT: Final = {
    "TooManyBadImagesError": "too many bad images",
    "LockHeldError": "lost its lock",
}
"""What a kind of failure is called in a table; others by the first sentence of their message."""
LONGEST_REASON: Final = 100
READ_AT_ONCE: Final = 16
"""Runs whose events and locks are read at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a run stands."""

    state: str
    """``committed``, ``running``, ``failed``, ``interrupted``, ``killed``, ``unplanned``,
    ``abandoned``, or ``unreadable`` where a file of it is damaged or of a newer build."""
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


def try_endings(store: Lake, runs: Sequence[Run | LakeError]) -> Iterator[Ending | LakeError]:
    """How each run stands, in order; many are looked up at once.

    Args:
        store: The store.
        runs: Runs, and errors in the place of those that cannot be read (`try_runs`).

    Yields:
        Of a run with an unreadable file, the error.

    Raises:
        LakeError: The store failed.
    """
    with ThreadPoolExecutor(READ_AT_ONCE, "ending") as pool:
        yield from pool.map(partial(_try_ending, store), runs)


def _try_ending(store: Lake, run: Run | LakeError) -> Ending | LakeError:
    try:
        if isinstance(run, LakeError):
            raise run
        return ending_of(store, run)
    except UNREADABLE as error:
        return error


def first_sentence(message: str) -> str:
    """What fits a table of a message."""
    first, *_ = re.split(r"(?<=[.;])\s", message, maxsplit=1)
    first = first.rstrip(".;")
    return first if len(first) <= LONGEST_REASON else f"{first[: LONGEST_REASON - 1]}…"
