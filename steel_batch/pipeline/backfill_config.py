"""The configuration of a backfill: which dates, in which order. How each is scored: `config`."""

from __future__ import annotations

from dataclasses import dataclass

from steel_batch.errors import ConfigError
from steel_batch.layout import check_date


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfillConfig:
    """One `backfill` command."""

    first_date: str | None = None
    """First date; None for the lake's first."""
    last_date: str | None = None
    """Last date; None for the lake's last."""
    newest_first: bool = False
    max_dates_at_once: int = 4
    """Dates that are planned, scored or committed at the same time."""
    stop_after: int | None = None
    """Failed dates after which no further date is started; None for no limit."""
    recheck: bool = False
    """List dates again that the ledger has as finished, to find late images."""

    def __post_init__(self) -> None:
        """Refuse values that no backfill can use."""
        for name in ("max_dates_at_once", "stop_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected 1 or more.")
        for date in (self.first_date, self.last_date):
            if date is not None:
                check_date(date)
        if self.first_date and self.last_date and self.first_date > self.last_date:
            raise ConfigError(f"--from {self.first_date} is later than --to {self.last_date}.")
