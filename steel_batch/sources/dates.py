"""Which spellings of dates in keys, manifests and columns are read, and which day each means.

Year first, then month and day: ``2026-11-05``, ``2026-11-5``, ``2026_11_05``, ``2026.11.05``,
``20261105``. Nothing else is read as a date: in ``05.11.2026``, either number may be the month,
unless a key pattern states the order with ``{day}.{month}.{year}``.
"""

from __future__ import annotations

import datetime
import functools
import re
from typing import Final

EXPECTED: Final = "YYYY-MM-DD (or YYYYMMDD)"
SPELLED: Final = (
    "{date} reads 2026-11-05, 2026-11-5, 20261105, 2026_11_05 and 2026.11.05; for another order "
    "name the parts, as in {day}.{month}.{year}."
)
"""The accepted spellings, for messages."""
_SEPARATORS: Final = ("-", "_", ".")
_NUMBER: Final = "(?:[0-9]{2}|(?<![0-9])[0-9](?![0-9]))"
"""A month or day; a single digit must stand alone, or ``2026111`` would be two dates."""

STRICT: Final = {
    "date": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "year": "[0-9]{4}", "month": "[0-9]{2}",
    "day": "[0-9]{2}",
}  # fmt: skip
"""A regular expression for each date placeholder of a key pattern, in its usual spelling."""
LENIENT: Final = {
    "date": "(?:"
    + "|".join(f"[0-9]{{4}}{re.escape(s)}{_NUMBER}{re.escape(s)}{_NUMBER}" for s in _SEPARATORS)
    + "|(?<![0-9])[0-9]{8})",
    "year": "[0-9]{4}",
    "month": _NUMBER,
    "day": _NUMBER,
}
"""The same, for every accepted spelling."""

_DATE: Final = re.compile(
    "([0-9]{4})(?:([-_./])([0-9]{1,2})\\2([0-9]{1,2})|([0-9]{2})([0-9]{2}))"
    "(?:[T ][0-9]{2}:[0-9]{2}.*)?",
    re.DOTALL,
)


@functools.lru_cache(maxsize=4096)
def read_date(text: str) -> str | None:
    """Read a date as YYYY-MM-DD; None if the text is not a valid date.

    A time after the date is ignored, without conversion between time zones.
    """
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    year, _, *rest = match.groups()
    month, day = (value for value in rest if value is not None)
    return calendar_day(year, month, day)


def calendar_day(year: str, month: str, day: str) -> str | None:
    """Year, month and day as YYYY-MM-DD; None if there is no such day."""
    try:
        return datetime.date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return None


def date_of(fields: dict[str, str]) -> str | None:
    """The date stated by a key pattern's placeholders; None if there is none or it is invalid."""
    said = fields.get("date")
    date = None if said is None else read_date(said)
    if "year" not in fields:
        return date
    day = calendar_day(fields["year"], fields["month"], fields["day"])
    return day if said is None or date == day else None


def may_be_a_date(fields: dict[str, str]) -> bool:
    """Whether a key that begins with these values can still end up as a valid date."""
    if "date" in fields and read_date(fields["date"]) is None:
        return False
    return calendar_day("2024", fields.get("month", "1"), fields.get("day", "1")) is not None


def agrees(fields: dict[str, str], date: str) -> bool:
    """Whether placeholders, perhaps only some of a date's, are consistent with a date."""
    if "date" in fields and read_date(fields["date"]) != date:
        return False
    numbers = zip(("year", "month", "day"), date.split("-"), strict=True)
    return all(int(fields[name]) == int(value) for name, value in numbers if name in fields)


def spellings(name: str, date: str) -> list[str]:
    """Every accepted spelling of a placeholder's part of a date.

    Args:
        name: ``date``, ``year``, ``month`` or ``day``.
        date: YYYY-MM-DD.
    """
    year, month, day = date.split("-")
    if name == "year":
        return [year]
    months, days = ({value, value.lstrip("0")} for value in (month, day))
    if name == "month":
        return sorted(months)
    if name == "day":
        return sorted(days)
    parts = [f"{s}{m}{s}{d}" for s in _SEPARATORS for m in months for d in days]
    return sorted(f"{year}{part}" for part in [*parts, f"{month}{day}"])
