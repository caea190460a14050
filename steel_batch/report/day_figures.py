"""The figures of one date that are judged: counts, rates, drift and the quarantine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.drift.compare import Comparison, LineDays, compare
from steel_batch.drift.series import ask, days_before, quoted, read_days
from steel_batch.drift.words import sentence
from steel_batch.errors import ConfigError

DAYS_BEFORE: Final = 28
"""That a date is compared with, unless others are asked for."""


class DayFigures:
    """One engine's figures of one date.

    Each is read from the tables when it is first asked for, so damage hides only the figures that
    need what is damaged. No record of a run and no file of the registry is read. Reading one raises
    `LakeError` if a table cannot be read, and whatever `open_store` raises.

    Args:
        open_store: Opens the store; called when the first figure is asked for.
        date: The date.
        engine: Whose rows.
        against: The date to compare with; by default the days before.
        num_days: How many days before.

    Raises:
        ConfigError: The dates are none, or the same.
    """

    def __init__(
        self,
        open_store: Callable[[], OpenStore],
        date: str,
        engine: str,
        *,
        against: str | None = None,
        num_days: int = DAYS_BEFORE,
    ) -> None:
        layout.check_date(date)
        if against is not None:
            layout.check_date(against)
            if against == date:
                raise ConfigError(f"--against {against} is the date itself: give another.")
        self.date = date
        self.engine = engine
        self.against = against
        self.of_day = f"engine = {quoted(engine)} AND date = DATE '{date}'"
        """SQL that selects the date's rows of a table."""
        self._open_store = open_store
        self._num_days = num_days

    @functools.cached_property
    def store(self) -> OpenStore:
        """The store."""
        return self._open_store()

    @functools.cached_property
    def images(self) -> int:
        """Images that were scored."""
        ((num,),) = self._ask(
            f"SELECT coalesce(sum(num_images), 0) FROM line_summaries WHERE {self.of_day}"  # noqa: S608 - quoted
        )
        return int(num)

    @functools.cached_property
    def quarantine(self) -> list[tuple[Any, ...]]:
        """Code, images, and the key and message of one."""
        return self._ask(
            "SELECT error_code, count(*), min(image_key), arg_min(message, image_key) "  # noqa: S608 - quoted
            f"FROM quarantine WHERE {self.of_day} GROUP BY 1 ORDER BY 2 DESC, 1"
        )

    @property
    def quarantined(self) -> float:
        """Share of the date's images that could not be scored."""
        num_bad = sum(row[1] for row in self.quarantine)
        return float(num_bad / max(1, self.images + num_bad))

    @functools.cached_property
    def defect_rates(self) -> Mapping[str, float]:
        """Share of the scored images that have a class, by its name."""
        return dict(
            self._ask(
                "SELECT class_name, sum(num_defective) / greatest(1, sum(num_images)) "  # noqa: S608 - quoted
                f"FROM class_summaries WHERE {self.of_day} GROUP BY 1"
            )
        )

    @functools.cached_property
    def dates(self) -> tuple[str, ...]:
        """The days that are compared, the date being the last."""
        before = [self.against] if self.against is not None else self._days_before()
        return (*before, self.date)

    @functools.cached_property
    def lines(self) -> Sequence[LineDays]:
        """What each line has on `dates`."""
        return read_days(self.store, self.engine, self.dates)

    @functools.cached_property
    def comparison(self) -> Comparison:
        """What differs from the days before."""
        return compare(self.lines)

    @functools.cached_property
    def classes(self) -> Mapping[int, str]:
        """The engine's classes, by number, as rows of `dates` have them."""
        chosen = ", ".join(f"DATE '{date}'" for date in self.dates)
        return dict(
            self._ask(
                "SELECT DISTINCT class_id, class_name FROM class_summaries "  # noqa: S608 - quoted
                f"WHERE engine = {quoted(self.engine)} AND date IN ({chosen}) ORDER BY 1"
            )
        )

    @property
    def drifts(self) -> Sequence[str]:
        """What differs from the days before, in words."""
        found = self.comparison.drifts
        return [sentence(drift, self.dates, self.classes) for drift in found]

    def _days_before(self) -> list[str]:
        return days_before(self.store, self.engine, self.date, self._num_days)

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        return ask(self.store, sql)
