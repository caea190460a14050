"""An earlier moment of a store, and the content of its tables at that moment.

`predictions` has a log of versions, and a moment is one of them. The other tables are committed
after it, run by run, so their earlier content follows from the runs of that version. Class
summaries are computed again from its rows, because each run replaces the file of the previous one.
The quarantine of a date is as the last of those runs left it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from steel_batch import layout
from steel_batch.errors import ConfigError, LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.tables.table_log import LiveFile, files_of, open_table

Answer = TypeVar("Answer")

_VERSION: Final = re.compile(r"\d{1,18}", re.ASCII)
_TIME: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})(?:[T ](?P<time>\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)"
    r"(?P<zone>Z|[+-]\d{2}:\d{2})?)?",
    re.ASCII,
)
UTC: Final = datetime.timezone.utc


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A version of `predictions`, and its time."""

    version: int
    at: datetime.datetime
    """The requested time; for a requested version, its commit time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Commit:
    version: int
    at: datetime.datetime
    run_id: str | None


def find_moment(store: Lake, text: str) -> Moment:
    """Find the moment that a user names.

    Args:
        store: The store.
        text: A version of `predictions`, as `score` prints it; or a time: ``2026-11-22`` (its
            midnight) or ``2026-11-22T06:30``, in UTC unless it has an offset.

    Raises:
        ConfigError: It is neither, or the store had no version at that time.
    """
    wanted = _parse(text)
    table = open_table(store, layout.PREDICTIONS)
    commits = _history(store, layout.PREDICTIONS, table)
    first, last = commits[0], commits[-1]
    if isinstance(wanted, int):
        if not first.version <= wanted <= last.version:
            raise ConfigError(
                f"there is no version {wanted} of the predictions in {store.url}: expected "
                f"{first.version} to {last.version}."
            )
        return Moment(version=wanted, at=commits[wanted - first.version].at)
    if wanted > datetime.datetime.now(UTC):
        raise ConfigError(f"{text} is in the future: expected a time until now.")
    before = [commit for commit in commits if commit.at <= wanted]
    if not before:
        raise ConfigError(
            f"the log of {store.uri(layout.PREDICTIONS)} begins at {first.at.isoformat()}, with "
            f"version {first.version}: the table's content at {text} is unknown."
        )
    return Moment(version=before[-1].version, at=wanted)


def _parse(text: str) -> int | datetime.datetime:
    if _VERSION.fullmatch(text):
        return int(text)
    match = _TIME.fullmatch(text)
    if match is not None:
        layout.check_date(match["date"])
        zone = (match["zone"] or "+00:00").replace("Z", "+00:00")
        time, _, fraction = (match["time"] or "00:00").partition(".")
        seconds = "" if time.count(":") == 2 else ":00"
        moment = f"{match['date']}T{time}{seconds}.{fraction:0<6}{zone}"
        try:
            return datetime.datetime.fromisoformat(moment).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise ConfigError(
        f"{text!r} is neither a version of the predictions, such as 12, nor a time, such as "
        "2026-11-22 or 2026-11-22T06:30 (UTC, or with an offset: 2026-11-22T06:30+01:00)."
    )


def _history(store: Lake, table: str, opened: DeltaTable) -> list[_Commit]:
    """Return a table's commits, oldest first, with times that never decrease."""
    found: list[_Commit] = []
    for entry in sorted(
        _ask(store, table, opened.history), key=lambda entry: int(entry["version"])
    ):
        at = datetime.datetime.fromtimestamp(entry.get("timestamp", 0) / 1000, UTC)
        if found and at < found[-1].at:  # a writer whose clock is late
            at = found[-1].at
        found.append(_Commit(version=int(entry["version"]), at=at, run_id=entry.get("run_id")))
    return found


def open_version(store: Lake, table: str, version: int | None) -> DeltaTable:
    """Open a table's newest version, or an earlier one.

    Raises:
        LakeError: There is no such version, or the log does not reach back that far.
    """
    opened = open_table(store, table)
    if version is not None:
        _ask(store, table, partial(opened.load_as_version, version))
    return opened


def quarantine_files(
    store: Lake, has_landed: Callable[[str], bool]
) -> tuple[DeltaTable, list[LiveFile]]:
    """Return the quarantine as a set of committed runs left it.

    Args:
        store: The store.
        has_landed: Returns whether a run belongs to the set.

    Returns:
        The table, and its files at that moment.
    """
    table = layout.QUARANTINE
    opened = open_table(store, table)
    commits = _history(store, table, opened)
    of_runs = [commit for commit in commits if commit.run_id is not None]
    landed = [commit.version for commit in of_runs if has_landed(str(commit.run_id))]
    last = max(landed, default=commits[0].version)
    # Runs of several dates commit in any order, so commits of other dates may be in between.
    later: dict[tuple[str, str], int] = {}
    for commit in of_runs:
        if commit.version <= last and not has_landed(str(commit.run_id)):
            engine, date, _ = layout.split_run_id(str(commit.run_id))
            later.setdefault((engine, date), commit.version - 1)
    opened = open_version(store, table, last)
    files = [f for f in files_of(opened, table) if (f.engine, f.date) not in later]
    for place, version in later.items():
        before = files_of(open_version(store, table, version), table)
        files += [f for f in before if (f.engine, f.date) == place]
    return opened, files


def landed_by(store: Lake, opened: DeltaTable, run_ids: Sequence[str]) -> set[str]:
    """Return which of these runs were committed in a version of `predictions`."""

    def ask() -> set[str]:
        return {run_id for run_id in run_ids if opened.transaction_version(run_id) is not None}

    return _ask(store, layout.PREDICTIONS, ask)


def _ask(store: Lake, table: str, question: Callable[[], Answer]) -> Answer:
    uri = store.uri(table)
    try:
        return store.call_with_retry(uri, question)
    except (DeltaError, OSError) as error:
        raise LakeError(f"the log of {uri} cannot be read: {paragraph_of(error)}.") from error
