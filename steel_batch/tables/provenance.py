"""Reads a table's log itself, for missing entries and the origin of files.

delta-rs shows what a table contains now. `verify` also needs to know which entry added a file, and
whether entries are missing, so it reads the log's JSON entries. It never writes any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote

from steel_batch.errors import LakeError
from steel_batch.lake import Lake, ReadRequest

READ_AT_ONCE = 256
_ENTRY = re.compile(r"(?P<version>\d{20})\.json")
_CHECKPOINT = re.compile(r"(?P<version>\d{20})\.checkpoint\..*parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """A log entry that replaced files with others."""

    version: int
    operation: str
    added: dict[str, int | None]
    """Keys of the files that it added, with their rows if it states them."""
    removed: tuple[str, ...]
    keeps_rows: bool
    """Whether it states that the rows did not change, as an OPTIMIZE does."""


def missing_entries(store: Lake, table: str) -> list[str]:
    """The keys of missing log entries without which no version of the table can be read.

    Entries before a checkpoint are not needed and may have been cleaned up.
    """
    versions, checkpoints = set(), [-1]
    folder = f"{table}/_delta_log/"
    for item in store.list_objects(folder):
        name = item.key.removeprefix(folder)
        if match := _ENTRY.fullmatch(name):
            versions.add(int(match["version"]))
        elif match := _CHECKPOINT.fullmatch(name):
            checkpoints.append(int(match["version"]))
    needed = range(max(checkpoints) + 1, max(versions, default=-1) + 1)
    return [f"{folder}{version:020d}.json" for version in needed if version not in versions]


def rewritings(store: Lake, table: str) -> Iterator[Rewriting]:
    """The entries that both added and removed files, as far back as the log has its entries."""
    for version, actions in _entries(store, table):
        found = _rewriting(table, version, actions)
        if found is not None:
            yield found


def _entries(store: Lake, table: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The actions of each entry, as far back as the log has its entries."""
    folder = f"{table}/_delta_log/"
    keys = iter(
        sorted(
            item.key
            for item in store.list_objects(folder)
            if _ENTRY.fullmatch(item.key.removeprefix(folder))
        )
    )
    while batch := list(islice(keys, READ_AT_ONCE)):
        for key, data in zip(
            batch, store.read_many([ReadRequest(key=key) for key in batch]), strict=True
        ):
            if isinstance(data, LakeError):
                continue  # cleaned up after it was listed
            lines = [json.loads(line) for line in data.splitlines() if line.strip()]
            yield int(key[len(folder) : -len(".json")]), lines


def removals(store: Lake, table: str) -> set[str]:
    """The keys of all files that some entry removed, as far back as the log has its entries."""
    return {
        f"{table}/{unquote(action['remove']['path'])}"
        for _, actions in _entries(store, table)
        for action in actions
        if "remove" in action
    }


def _rewriting(table: str, version: int, actions: list[dict[str, Any]]) -> Rewriting | None:
    adds = [action["add"] for action in actions if "add" in action]
    removes = [action["remove"] for action in actions if "remove" in action]
    if not adds or not removes:
        return None
    info: dict[str, object] = {}
    for action in actions:
        info = action.get("commitInfo", info)
    return Rewriting(
        version=version,
        operation=str(info.get("operation", "an unnamed operation")),
        added={f"{table}/{unquote(add['path'])}": _num_rows(add) for add in adds},
        removed=tuple(f"{table}/{unquote(remove['path'])}" for remove in removes),
        keeps_rows=not any(action.get("dataChange", True) for action in (*adds, *removes)),
    )


def _num_rows(add: dict[str, object]) -> int | None:
    try:
        return int(json.loads(str(add["stats"]))["numRecords"])
    except (KeyError, ValueError, TypeError):
        return None
