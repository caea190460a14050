"""The view `current`: for each date, the engine whose rows count.

Aliases are moved, new engines are tried on dates that already have rows, and late images arrive
after a promotion. So an engine counts for a date if `production` pointed to it when a run of the
date was planned; see `table_of_current`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from steel_batch import layout
from steel_batch.answers.known_engines import Known, instant_of
from steel_batch.answers.past_runs import created_at
from steel_batch.registry.aliases import AliasEntry, rolled_back_from
from steel_batch.runs.record import Run

PRODUCTION: Final = "production"
FIELDS: Final = pa.schema(
    [
        pa.field("date", pa.date32(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("run_id", pa.string()),
        pa.field("why", pa.string(), nullable=False),
    ]
)
_BEGINNING: Final = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Claim:
    """The case for one engine on one date; the claim with the greatest `rank` wins."""

    engine: str
    run_id: str | None
    is_meant: bool
    """Whether `production` points to it now."""
    was_meant: bool
    """Whether `production` pointed to it when a run of the date was planned."""
    is_left: bool
    """Whether `production` was rolled back from it since."""
    at: datetime.datetime
    """When the newest such run was planned; without one, the newest run."""

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, datetime.datetime, str]:
        was_meant = self.was_meant
        return (
            self.is_meant and was_meant, was_meant and not self.is_left, self.is_meant, was_meant,
            self.at, self.engine,
        )  # fmt: skip

    @property
    def why(self) -> str:
        if self.was_meant:
            return "is production" if self.is_meant else "was production"
        return "became production" if self.is_meant else "newest"


def table_of_current(places: Iterable[tuple[str, str]], runs: Sequence[Run], known: Known) -> Any:
    """Return rows of `FIELDS`, one per date.

    Of the engines that have rows of a date, the first of these counts:

    1. the one that `production` points to, if it did so when a run of the date was planned;
    2. the one with the newest run of those planned while `production` pointed to their engine,
       except engines that `production` was rolled back from;
    3. the one that `production` points to;
    4. as 2, for all engines;
    5. the one with the newest run.

    Args:
        places: Engines and dates that have rows.
        runs: The runs that are committed.
        known: Aliases and cards.
    """
    of_place: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        engine, date, _ = layout.split_run_id(run.run_id)
        of_place.setdefault((engine, date), []).append(run)
    best: dict[str, _Claim] = {}
    for engine, date in sorted(set(places)):
        claim = _claim(engine, of_place.get((engine, date), []), known)
        if date not in best or claim.rank > best[date].rank:
            best[date] = claim
    rows = [
        {
            "date": datetime.date.fromisoformat(date), "engine": claim.engine,
            "run_id": claim.run_id, "why": claim.why,
        }
        for date, claim in sorted(best.items())
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=FIELDS)


def _claim(engine: str, runs: Sequence[Run], known: Known) -> _Claim:
    model, _, version = engine.rpartition("-")
    moves = known.moves.get(model, {}).get(PRODUCTION, [])
    productive = [run for run in runs if _meant_at(moves, _planned_at(run)) == version]
    newest = max(productive or runs, key=_planned_at, default=None)
    return _Claim(
        engine=engine,
        run_id=None if newest is None else newest.run_id,
        is_meant=bool(moves) and moves[-1].version == version,
        was_meant=bool(productive),
        is_left=rolled_back_from(moves, version) is not None,
        at=_BEGINNING if newest is None else _planned_at(newest),
    )


def _planned_at(run: Run) -> datetime.datetime:
    return created_at(run) or _BEGINNING


def _meant_at(moves: Sequence[AliasEntry], at: datetime.datetime) -> str | None:
    """Return the version that an alias pointed to at a time."""
    before = [move for move in moves if instant_of(move) <= at]
    return before[-1].version if before else None
