"""Objects below a folder or prefix, found by listing it."""

from __future__ import annotations

from dataclasses import dataclass

from steel_batch.lake import Lake
from steel_batch.manifest import KeyPattern, Listing, find_dates


@dataclass(frozen=True, slots=True)
class Prefix:
    """Every object below the lake's root whose key matches; see `Source`."""

    lake: Lake
    pattern: KeyPattern
    companion: str = ""
    """Suffix of objects beside those, which are not counted as left out."""

    def dates(self) -> list[str]:
        """See `Source`; lists folders alone where the date stands in a folder's name."""
        return find_dates(self.lake, self.pattern)

    def select(self, date: str | None) -> Listing:
        """See `Source`; with a date in the pattern, only that date's folders are listed."""
        return Listing(self.lake, self.pattern, date, companion=self.companion)
