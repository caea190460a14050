"""Types of flag values: each kind is parsed and refused the same way by every command.

A refused value ends the command with exit code 2 before anything is read or written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

from steel_batch.config import ALL_DATES
from steel_batch.errors import ConfigError
from steel_batch.lake.lake import check_endpoint, check_store, check_url
from steel_batch.layout import check_date, check_date_prefix

UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SIZE: Final = re.compile(r"(?P<number>\d[\d_]*(\.\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE)


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """Text that is checked by a function.

    Args:
        name: The name of the value in usage messages, if no metavar is given.
        check: Returns the value, or raises `ConfigError`.
        missing: What to give if the flag is required but missing.
    """

    def __init__(self, name: str, check: Callable[[str], Any], missing: str | None = None) -> None:
        self.name = name
        self._check = check
        self._missing = missing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        try:
            return self._check(value if isinstance(value, str) else str(value))
        except ConfigError as error:
            self.fail(error.message, param, ctx)

    def get_missing_message(
        self,
        param: click.Parameter,  # noqa: ARG002
        ctx: click.Context | None = None,  # noqa: ARG002
    ) -> str | None:
        """See `click.ParamType`."""
        return self._missing


def parse_bytes(text: str) -> int:
    """Parse a size: ``67108864``, ``64 MiB``, ``64MB``, ``1.5 GiB``.

    Raises:
        ConfigError: It is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = UNITS.get(match["unit"].lower()) if match else None
    if match is None or factor is None:
        raise ConfigError(f"{text!r} is not a size: expected a number of bytes, 64 MiB or 64 MB.")
    size = float(match["number"].replace("_", "")) * factor
    if "." not in match["number"]:
        size = int(match["number"].replace("_", "")) * factor
    if size != int(size):
        raise ConfigError(f"{text!r} is not a whole number of bytes.")
    return int(size)


def size_text(num_bytes: int) -> str:
    """Format a size for `parse_bytes`, in the largest unit of which it is a whole number."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes and num_bytes % UNITS[unit.lower()] == 0:
            return f"{num_bytes // UNITS[unit.lower()]} {unit}"
    return f"{num_bytes} B"


def _date_or_all(text: str) -> str:
    return text if text == ALL_DATES else check_date(text)


def _sql(text: str) -> str:
    """SQL as it was written, also where the locale is of ASCII and arguments are not."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ConfigError(f"{text!r} is not UTF-8, which SQL is read as.") from None


DATE: Final = Checked("date", check_date)
DATE_OR_ALL: Final = Checked(
    "date",
    _date_or_all,
    "Give YYYY-MM-DD for one date, or `--date all` for every date found in the keys.",
)
DATES: Final = Checked("date", check_date_prefix)
"""A date, or the start of one: a year or a month."""
PLACE: Final = Checked("url", check_url)
"""A folder or s3:// prefix. Empty text is refused: an unset variable is not the current folder."""
STORE: Final = Checked("url", check_store)
ENDPOINT: Final = Checked("url", check_endpoint)
SIZE: Final = Checked("bytes", parse_bytes)
SQL: Final = Checked("sql", _sql)
