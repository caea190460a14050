"""The lists of files that a run leaves: what it adds to each table, and what that replaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from steel_batch import layout
from steel_batch.errors import LakeError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import MAX_BYTES, list_of
from steel_batch.lake.format_version import FileFormat

T = TypeVar("T")

FILES: Final = FileFormat("the list of a run's files", newest=2, bare="files")
REPLACED: Final = FileFormat("the list of the files that a run replaces", newest=2, bare="keys")
LISTS_AT_ONCE: Final = 256
"""Lists of runs' files that are read at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One complete file that a commit will add to a table."""

    merged: str
    """Its key until it is published."""
    target: str
    """Its key in the table."""
    bytes: int
    sha256: str
    num_rows: int
    stats: dict[str, Any]
    """See `statistics.file_statistics`."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return dataclasses.asdict(self)


RunLists = Mapping[tuple[str, str], Sequence[DataFile] | None]
"""The files that runs added to a table, by run and table; None if that was not decided."""


def save_files(store: Lake, run_id: str, table: str, files: Sequence[DataFile]) -> None:
    """Make the list of complete files that a run adds to a table durable."""
    data = FILES.dump({"files": [file.to_json() for file in files]})
    store.write(layout.files_list(run_id, table), data)


def load_files(store: Lake, run_id: str, table: str) -> list[DataFile] | None:
    """The files that a run adds to a table; None if that is not decided yet.

    Raises:
        FormatError: The list has a newer format.
        LakeError: It is damaged.
    """
    return _load(store, layout.files_list(run_id, table), FILES, "files", DataFile)


def save_replaced(store: Lake, run_id: str, table: str, keys: Sequence[str]) -> None:
    """Make the list of the files durable that a run's files take the place of."""
    store.write(layout.replaced_list(run_id, table), REPLACED.dump({"keys": sorted(keys)}))


def load_replaced(store: Lake, run_id: str, table: str) -> list[str]:
    """The keys of the files that a run's files take the place of, as far as that is settled.

    Raises:
        FormatError: The list has a newer format.
        LakeError: It is damaged.
    """
    return _load(store, layout.replaced_list(run_id, table), REPLACED, "keys", str) or []


def load_many_files(store: Lake, wanted: Iterable[tuple[str, str]]) -> RunLists:
    """`load_files` for many runs and tables; the lists are read many at once.

    Args:
        store: The store.
        wanted: Runs, each with a table; they may repeat.
    """
    each = sorted(set(wanted))
    keys = [layout.files_list(*one) for one in each]
    return dict(zip(each, _load_many(store, keys, FILES, "files", DataFile), strict=True))


def load_many_replaced(store: Lake, wanted: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """`load_replaced` for many runs and tables, in order; the lists are read many at once."""
    keys = [layout.replaced_list(*each) for each in wanted]
    return (keys or [] for keys in _load_many(store, keys, REPLACED, "keys", str))


def _load(store: Lake, key: str, form: FileFormat, name: str, kind: type[T]) -> list[T] | None:
    """A list that a run left in the store; None if it left none."""
    (found,) = _load_many(store, [key], form, name, kind)
    return found


def _load_many(
    store: Lake, keys: Sequence[str], form: FileFormat, name: str, kind: type[T]
) -> Iterator[list[T] | None]:
    for start in range(0, len(keys), LISTS_AT_ONCE):
        batch = keys[start : start + LISTS_AT_ONCE]
        requests = [ReadRequest(key=key, max_bytes=MAX_BYTES) for key in batch]
        for key, data in zip(batch, store.read_many(requests), strict=True):
            yield _parsed(data, form, name, kind, source=store.uri(key))


def _parsed(
    data: bytes | LakeError, form: FileFormat, name: str, kind: type[T], *, source: str
) -> list[T] | None:
    if isinstance(data, MissingObjectError):
        return None
    if isinstance(data, LakeError):
        raise data
    try:
        return list_of(kind, form.load(data, source=source).get(name))
    except ValueError as error:
        raise LakeError(f"{source} is damaged: {error}. Restore it from a backup.") from error
