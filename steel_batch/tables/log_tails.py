"""The last entries of the tables' logs in one object, for the process that reads them next.

A process that begins has no copy of the logs. It would read each entry since the last checkpoint by
a request of its own, and look for the checkpoint where a log is long. So a run that has committed
leaves all of that together. Nothing depends on it: each log is listed all the same, and an entry
counts only if the listed etag is its MD5. Where the object is missing, damaged, old or of another
build, or etags are no MD5s, the logs are read as if there were none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from steel_batch import layout
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json, read_document, record_of

MAX_ENTRY_BYTES: Final = 64 << 10
"""A larger entry, of a run with many files, is left out: it is read by a request of its own."""
MAX_BYTES: Final = 8 << 20
"""What is read at most: three tables with ten such entries, as JSON, are less."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of one table's log."""

    checkpoint: int = -1
    """The version of the last checkpoint; -1 if there was none."""
    entries: Mapping[str, str] = field(default_factory=dict)
    """The entries since then, by name, and the last one."""

    def entry(self, name: str, etag: str) -> bytes | None:
        """The bytes of an entry that is listed with an etag; None if they are not known."""
        data = self.entries.get(name, "").encode()
        return data if hashlib.md5(data, usedforsecurity=False).hexdigest() == etag else None


NO_TAIL: Final = Tail()


_found: dict[tuple[int, str, str | None], Mapping[str, Tail]] = {}
_finding = threading.Lock()


def tail_of(store: Lake, table: str) -> Tail:
    """What an earlier process left of a table's log. Read once per process, and only in a bucket.

    Args:
        store: The store.
        table: One of `layout.TABLES`.
    """
    if not store.is_s3:
        return NO_TAIL  # an entry in a folder takes no request
    place = (os.getpid(), store.url, store.endpoint_url)
    with _finding:
        if place not in _found:
            _found[place] = _read(store)
        return _found[place].get(table, NO_TAIL)


def _read(store: Lake) -> Mapping[str, Tail]:
    try:
        data = read_document(store, layout.LOG_TAILS, max_bytes=MAX_BYTES)
        found = {} if data is None else parse_json(data)
        return {str(table): record_of(Tail, raw) for table, raw in dict(found).items()}
    except (LakeError, ValueError, TypeError) as error:
        log.info("%s is not used: %s", store.uri(layout.LOG_TAILS), paragraph_of(error))
        return {}


def save_tails(store: Lake, tails: Mapping[str, Tail]) -> None:
    """Leave the ends of the tables' logs for the next process.

    Raises:
        LakeError: The store cannot be written. Nobody needs it.
    """
    fields = {
        table: {
            "checkpoint": tail.checkpoint,
            "entries": {k: v for k, v in tail.entries.items() if len(v) <= MAX_ENTRY_BYTES},
        }
        for table, tail in tails.items()
    }
    store.write(layout.LOG_TAILS, json.dumps(fields).encode())
