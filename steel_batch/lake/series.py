"""Mutable state, stored as numbered series of immutable objects.

The object with the highest number is valid. A change writes the next number if it is still free: a
compare-and-swap that any store with put-if-absent supports. The history stays readable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from steel_batch.errors import LakeError, MissingObjectError
from steel_batch.lake.contract import ReadRequest
from steel_batch.lake.documents import MAX_BYTES
from steel_batch.lake.lake import Lake

_MOST_DIGITS: Final = 18


def entry_key(series: str, number: int) -> str:
    """The key of one entry."""
    return f"{series}/{number:08d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest entry of a series."""

    number: int
    data: bytes
    etag: str = ""
    """The store's; empty if the entry was written and not read since."""
    older: tuple[int, ...] = ()
    """The numbers of the other entries, as listed together with it."""

    def is_listed_as(self, number: int, etag: str) -> bool:
        """Whether a listed entry surely has this content: many stores' etags are MD5 digests."""
        if number != self.number or not etag:
            return False
        return etag in (self.etag, hashlib.md5(self.data, usedforsecurity=False).hexdigest())


def numbers(lake: Lake, series: str) -> list[int]:
    """The numbers of a series, ascending. Objects of other names are no part of it."""
    return sorted(_listed(lake, series))


def _listed(lake: Lake, series: str) -> dict[int, str]:
    """The numbers of a series with the etags of their objects."""
    found = {}
    for item in lake.list_objects(f"{series}/"):
        digits = item.key[len(series) + 1 :].removesuffix(".json")
        if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS:
            number = int(digits)
            if item.key == entry_key(series, number):
                found[number] = item.etag
    return found


def latest(lake: Lake, series: str) -> tuple[int, bytes] | None:
    """Number and content of the newest entry, or None for an empty series."""
    found = newest(lake, series)
    return None if found is None else (found.number, found.data)


def newest(lake: Lake, series: str, known: Newest | None = None) -> Newest | None:
    """The newest entry, or None for an empty series.

    Args:
        lake: The store.
        series: The series.
        known: An entry that was read or written. It is not read again if it is the newest one and
            its etag shows that nobody replaced it.
    """
    while found := _listed(lake, series):
        number = max(found)
        older = tuple(sorted(found.keys() - {number}))
        if known is not None and known.is_listed_as(number, found[number]):
            return replace(known, etag=found[number], older=older)
        request = ReadRequest(key=entry_key(series, number), max_bytes=MAX_BYTES)
        (entry,) = lake.read_objects([request])
        if isinstance(entry, MissingObjectError):  # pruned after it was listed
            continue
        if isinstance(entry, LakeError):
            raise entry
        return Newest(number=number, data=entry.data, etag=entry.etag, older=older)
    return None


def put_next(lake: Lake, series: str, number: int, data: bytes) -> bool:
    """Write an entry; False if somebody else wrote that number first."""
    return lake.put_if_absent(entry_key(series, number), data)


def history(lake: Lake, series: str) -> Iterator[tuple[int, bytes]]:
    """Every entry, oldest first."""
    for number in numbers(lake, series):
        yield number, lake.read(entry_key(series, number))


def prune(lake: Lake, series: str, older: Iterable[int]) -> None:
    """Delete entries that are older than the newest one (`Newest.older`).

    A writer that is late by more than the number of kept entries can write a pruned number again.
    So in a pruned series, an entry is valid only if its writer then sees none above it.
    """
    lake.delete(entry_key(series, number) for number in older)
