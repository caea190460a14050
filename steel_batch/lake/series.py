"""Things that change, as numbered series of objects that do not.

The object with the highest number is the truth. Changing it is putting the next number where there
is none: a compare-and-swap that any store with put-if-absent can do. History stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator

from steel_batch.errors import MissingObjectError
from steel_batch.lake.lake import Lake


def entry_key(series: str, number: int) -> str:
    """The key of one entry."""
    return f"{series}/{number:08d}.json"


def numbers(lake: Lake, series: str) -> list[int]:
    """The numbers of a series, ascending."""
    names = (item.key.rpartition("/")[2] for item in lake.list_objects(f"{series}/"))
    return sorted(
        int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()
    )


def latest(lake: Lake, series: str) -> tuple[int, bytes] | None:
    """Number and content of the newest entry, or None for an empty series."""
    while found := numbers(lake, series):
        try:
            return found[-1], lake.read(entry_key(series, found[-1]))
        except MissingObjectError:  # pruned since it was listed: there is a newer one
            continue
    return None


def put_next(lake: Lake, series: str, number: int, data: bytes) -> bool:
    """Put an entry; False where somebody else put that number first."""
    return lake.put_if_absent(entry_key(series, number), data)


def history(lake: Lake, series: str) -> Iterator[tuple[int, bytes]]:
    """Every entry, oldest first."""
    for number in numbers(lake, series):
        yield number, lake.read(entry_key(series, number))


def prune(lake: Lake, series: str, below: int) -> None:
    """Delete entries with lower numbers than `below`, which must not be above the highest.

    A writer that is late by more than the entries kept can put a pruned number again: where a
    series is pruned, an entry stands only if its writer then sees none above it.
    """
    lake.delete(entry_key(series, n) for n in numbers(lake, series) if n < below)
