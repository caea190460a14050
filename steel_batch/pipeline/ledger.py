"""A backfill's ledger in the store: one entry per finished date."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from steel_batch import layout
from steel_batch.config import canonical_place
from steel_batch.errors import LakeError
from steel_batch.lake import ReadRequest
from steel_batch.lake.documents import record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.scope import Scope
from steel_batch.runs.record import RESULT, RunResult, latest_result

ENTRY: Final = FileFormat("a date of a backfill")
SEEN: Final = ("num_changed", "num_left_out", "example_left_out")
"""Fields of a result that describe the lake as it was when the date was listed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """The ledger's record of a finished date."""

    seconds: float
    result: dict[str, Any]


class Ledger:
    """The finished dates of all commands with the same lake, key pattern and engine.

    Args:
        scope: The command.
    """

    def __init__(self, scope: Scope) -> None:
        images = scope.config.images
        self._store = scope.store
        places = (canonical_place(images), images.rstrip("/"))
        # Earlier builds used the second one, which has the folder as the user spelled it.
        folders = (layout.ledger_dir(_identity(place, scope)) for place in places)
        self._folders = list(dict.fromkeys(folders))

    def read(self, dates: Collection[str]) -> dict[str, DateOutcome]:
        """Return the outcomes of those dates that are finished, by date.

        Raises:
            FormatError: An entry is of a newer format.
            LakeError: The store cannot be read, or an entry is damaged.
        """
        found = {
            item.key.rpartition("/")[2].removesuffix(".json"): item.key
            for folder in reversed(self._folders)
            for item in self._store.list_objects(f"{folder}/")
        }
        done = [date for date in dates if date in found]
        requests = [ReadRequest(key=found[date]) for date in done]
        outcomes = {}
        for date, data in zip(done, self._store.read_many(requests), strict=True):
            if isinstance(data, LakeError):
                raise data
            source = self._store.uri(found[date])
            try:
                entry = record_of(_Entry, ENTRY.load(data, source=source))
                result = RunResult.from_fields(entry.result, source=source)
            except ValueError as error:
                raise LakeError(
                    f"{source} is damaged: {error}. Delete it and run the same command again, "
                    "which reads the date's outcome from its runs."
                ) from error
            outcomes[date] = DateOutcome(
                date=date,
                state="done before",
                seconds=entry.seconds,
                was_listed=False,
                result=result,
            )
        return outcomes

    def note(self, outcome: DateOutcome) -> DateOutcome:
        """Record a finished date, unless it has an entry and nothing was new.

        Returns:
            The outcome. If nothing was new and there is no entry, it is that of the newest run:
            of a `score`, or of a command that died before it could record it.
        """
        result = outcome.result
        if result is None:
            return outcome
        key = f"{self._folders[0]}/{outcome.date}.json"
        if result.run_id is None:
            if self._store.stat(key) is not None:
                return outcome
            before = latest_result(self._store, result.engine, outcome.date)
            if before is not None:
                seen = {name: getattr(result, name) for name in SEEN}
                result = dataclasses.replace(before, **seen)
                outcome = dataclasses.replace(
                    outcome, state="done before", seconds=before.seconds, result=result
                )
        entry = {"seconds": outcome.seconds, "result": RESULT.stamp(result.to_json())}
        self._store.write(key, ENTRY.dump(entry, indent=1))
        return outcome


def _identity(images: str, scope: Scope) -> str:
    """Return what identifies a backfill: the lake, its key pattern, and the engine."""
    text = json.dumps([images, scope.config.key_pattern, scope.engine_name])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
