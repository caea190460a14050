"""Mutable state, stored as numbered series of immutable objects.

The object with the highest number is valid. A change writes the next number if it is still free: a
compare-and-swap that any store with put-if-absent supports. The history stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from steel_batch.errors import MissingObjectError
from steel_batch.lake.documents import MAX_BYTES
from steel_batch.lake.lake import Lake

_MOST_DIGITS: Final = 18


def entry_key(series: str, number: int) -> str:
    """The key of one entry."""
    return f"{series}/{number:08d}.json"


def numbers(lake: Lake, series: str) -> list[int]:
    """The numbers of a series, ascending. Objects of other names are no part of it."""
    found = []
    for item in lake.list_objects(f"{series}/"):
        digits = item.key[len(series) + 1 :].removesuffix(".json")
        if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
            number = int(digits)
            if item.key == entry_key(series, number):
                found.append(number)
    return sorted(found)


def latest(lake: Lake, series: str) -> tuple[int, bytes] | None:
    """Number and content of the newest entry, or None for an empty series."""
    while found := numbers(lake, series):
        try:
            return found[-1], lake.read(entry_key(series, found[-1]), max_bytes=MAX_BYTES)
        except MissingObjectError:  # pruned after it was listed: there is a newer one
            continue
    return None


def put_next(lake: Lake, series: str, number: int, data: bytes) -> bool:
    """Write an entry; False if somebody else wrote that number first."""
    return lake.put_if_absent(entry_key(series, number), data)


def history(lake: Lake, series: str) -> Iterator[tuple[int, bytes]]:
    """Every entry, oldest first."""
    for number in numbers(lake, series):
        yield number, lake.read(entry_key(series, number))


def prune(lake: Lake, series: str, below: int) -> None:
    """Delete entries with numbers lower than `below`, which must not exceed the highest.

    A writer that is late by more than the number of kept entries can write a pruned number again.
    So in a pruned series, an entry is valid only if its writer then sees none above it.
    """
    lake.delete(entry_key(series, n) for n in numbers(lake, series) if n < below)
