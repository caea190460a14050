"""A table's log, copied to this machine as far as it is needed to open the table.

Opening a table in a bucket takes delta-rs two requests per entry since the last checkpoint, and 13
for the checkpoint. A run needs the table's state many times. So the objects are copied, each once,
and delta-rs opens the copy. Each look at a table lists its log from the copied checkpoint on:
by its etags, one request shows whether the copy is still what the store has, and what is new. If an
entry was replaced or is gone, or somebody wrote a newer checkpoint, all is copied again. So a look
finds what a reader would find who opened the table at that moment.

A commit is written by delta-rs to the copy, and then put into the store under the next number if
that is free. Checkpoints are written in the same way.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction, RemoveAction

from steel_batch import interrupt
from steel_batch.errors import ChangedObjectError, LakeError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.documents import read_document
from steel_batch.tables.log_tails import Tail, tail_of

FIRST_LISTED: Final = 1000
"""Objects of a log that are listed, in one request, before its newest checkpoint is asked for."""
LOOKS: Final = 20
"""How often a log is listed again because it changed while it was read."""
_ENTRY: Final = re.compile(r"(?P<version>\d{20})\.json")
_CHECKPOINT: Final = re.compile(
    r"(?P<version>\d{20})\.checkpoint(?:\.\d{10}\.(?P<parts>\d{10})|\.[0-9a-f-]{36})?"
    r"\.(?:parquet|json)"
)
_SIDECAR: Final = re.compile(r"_sidecars/[^/]+\.parquet")
_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was written."""

    version: int
    last: int
    """The version of the checkpoint before it; 0 if there was none."""
    properties: Mapping[str, str]
    """The table's."""


class LogMirror:
    """The copy of one table's log; for all threads of a process, see `log_mirror`.

    Args:
        table: The table.
    """

    def __init__(self, table: str) -> None:
        self._table, self._log = table, f"{table}/_delta_log/"
        self._lock = threading.RLock()
        self._folder = _Folder()
        self._etags: dict[str, str] = {}
        """Of what is copied, by name in the log's folder."""
        self._base = -1
        """The checkpoint that the copy begins with; -1 for the first entry."""
        self._opened: DeltaTable | None = None
        self._put = "", ""
        """The name of the entry that was put last, and its text."""
        self._written = -1
        """The checkpoint that was written last."""

    def look(self, store: Lake) -> DeltaTable | None:
        """The table in its current version, opened from the copy; None if there is none.

        The copy has no data files: the table is only to be asked what is in its log.

        Raises:
            LakeError: The log cannot be read, or keeps changing.
            DeltaError: It is damaged, or an entry is missing.
        """
        with self._lock:
            for _ in range(LOOKS):
                try:
                    self._refresh(store)
                except (ChangedObjectError, MissingObjectError):
                    continue  # replaced or cleaned up after it was listed
                return self._opened
        raise LakeError(f"{store.uri(self._log)} keeps changing while it is read. Try again later.")

    def _refresh(self, store: Lake) -> None:
        listed = self._list(store)
        base = _newest_checkpoint(listed)
        needed = _needed(listed, base, self._etags if base == self._base else ())
        if base != self._base or not self._etags.items() <= needed.items():
            self._begin(base)
        new = {name: etag for name, etag in needed.items() if name not in self._etags}
        if not new:
            return
        try:
            self._copy(store, new)
            self._opened = DeltaTable(self._folder.path)
        except BaseException:
            self._begin(-1)
            raise
        # The folder stays as long as a table opened there: it reads entries when it is asked.
        weakref.finalize(self._opened, _keep, self._folder)
        self._etags |= new

    def _begin(self, base: int) -> None:
        """Begin another copy, with a checkpoint or the first entry."""
        self._base, self._etags, self._opened, self._folder = base, {}, None, _Folder()

    def _list(self, store: Lake) -> dict[str, str]:
        """The names and etags of the log's objects from some checkpoint on, or of all."""
        base = self._base
        if not self._etags:
            base = tail_of(store, self._table).checkpoint
        if base < 0 and not self._etags:
            found = self._list_from(store, 0, most=FIRST_LISTED)
            if len(found) < FIRST_LISTED:
                return found
            base = self._hint(store)
        if base >= 0:
            found = self._list_from(store, base)
            if _newest_checkpoint(found) >= 0:
                return found
        return self._list_from(store, 0)

    def _list_from(self, store: Lake, version: int, most: int | None = None) -> dict[str, str]:
        listed = store.list_after(self._log, f"{self._log}{version:020d}")
        return {item.key.removeprefix(self._log): item.etag for item in islice(listed, most)}

    def _hint(self, store: Lake) -> int:
        """The checkpoint that `_last_checkpoint` names; -1 if it names none."""
        text = read_document(store, f"{self._log}_last_checkpoint")
        try:
            return int(json.loads(text or b"{}").get("version", -1))
        except (ValueError, TypeError, AttributeError):
            return -1

    def _copy(self, store: Lake, new: Mapping[str, str]) -> None:
        # By their etags, the store has what we put, or what an earlier process left.
        tails = Tail(entries=dict([self._put])), tail_of(store, self._table)
        known = {}
        for name, etag in new.items():
            data = next(filter(None, (tail.entry(name, etag) for tail in tails)), None)
            if data is not None:
                known[name] = data
        unknown = [name for name in new if name not in known]
        found = store.read_many(
            [ReadRequest(key=f"{self._log}{name}", etag=new[name]) for name in unknown]
        )
        whole = [data for data in found if not isinstance(data, LakeError)]
        for failure in found:
            if isinstance(failure, LakeError):
                raise failure
        for name, data in (known | dict(zip(unknown, whole, strict=True))).items():
            self._folder.write(name, data)

    def append(
        self,
        store: Lake,
        version: int,
        actions: Sequence[AddAction | RemoveAction],
        fields: pa.Schema,
        *,
        app_transactions: list[Transaction],
        metadata: dict[str, str],
    ) -> bool:
        """Write the entry after a version, if nobody else has.

        Args:
            store: The store.
            version: The version that the entry is based on.
            actions: The files to add and to remove.
            fields: The table's schema.
            app_transactions: The entry's transactions.
            metadata: Added to the entry's description.

        Returns:
            Whether it was written. If not, there is another entry, and this one never comes.

        Raises:
            LakeError: It is unknown whether it was written.
        """
        name = f"{version + 1:020d}.json"
        with self._lock:
            if self._opened is None or self._opened.version() != version:
                return False
            self._opened.create_write_transaction(
                list(actions),
                "append",
                fields,
                partition_by=["engine", "date"],
                commit_properties=CommitProperties(
                    app_transactions=app_transactions,
                    custom_metadata=metadata,
                    max_commit_retries=0,
                ),
                post_commithook_properties=_NO_HOOKS,
            )
            data = self._folder.take(name)
            self._put = name, data.decode()
        if store.put_if_absent(f"{self._log}{name}", data):
            return True
        if store.is_s3 and store.stat(f"{self._log}{name}") is None:
            # An earlier request, whose answer was lost, may still arrive.
            raise LakeError(
                f"the store refused {store.uri(self._log + name)} as if it existed, but it does not"
            )
        return False

    def checkpoint(self, store: Lake, every: int) -> Checkpoint | None:
        """Write a checkpoint of the version last looked at, if it is some entries after the last.

        Returns:
            What was written, if anything was.

        Raises:
            LakeError: The store cannot be written. Readers do not need the checkpoint.
        """
        with self._lock:
            if self._opened is None or self.num_since_checkpoint < every:
                return None
            last, version = max(0, self._base, self._written), int(self._opened.version())
            properties = self._opened.metadata().configuration
            name, hint = f"{version:020d}.checkpoint.parquet", "_last_checkpoint"
            self._opened.create_checkpoint()
            data, text = self._folder.take(name), self._folder.take(hint)
        if store.put_if_absent(f"{self._log}{name}", data):
            store.write(f"{self._log}{hint}", text)
            self._written = version
            return Checkpoint(version=version, last=last, properties=properties)
        return None

    @property
    def num_since_checkpoint(self) -> int:
        """How many entries there are since the last checkpoint, as last looked at."""
        with self._lock:
            if self._opened is None:
                return 0
            return int(self._opened.version()) - max(0, self._base, self._written)

    def tail(self) -> Tail:
        """The entries since the last checkpoint and the last one, as last looked at."""
        with self._lock:
            checkpoint = max(self._base, self._written)
            names = _needed(self._etags, checkpoint, ())
            return Tail(
                checkpoint=checkpoint,
                entries={
                    name: self._folder.read(name).decode(errors="replace")
                    for name in filter(_ENTRY.fullmatch, names)
                },
            )


class _Folder:
    """A table's folder on this machine, which contains only its log; deleted with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="steel-batch-log-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the log."""
        path = self.path / "_delta_log" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read(self, name: str) -> bytes:
        """Read a file of the log."""
        return (self.path / "_delta_log" / name).read_bytes()

    def take(self, name: str) -> bytes:
        """Read a file of the log and delete it: it is no part of the copy until a look finds it."""
        data = self.read(name)
        (self.path / "_delta_log" / name).unlink()
        return data


def _keep(_folder: _Folder) -> None:
    """Called when a table opened in a folder is gone; until then, it kept the folder."""


def log_mirror(store: Lake, table: str) -> LogMirror:
    """This process's copy of the log of a table."""
    return _log_mirror(store.url, store.endpoint_url, table, os.getpid())


@functools.lru_cache(maxsize=64)
def _log_mirror(_url: str, _endpoint_url: str | None, table: str, _pid: int) -> LogMirror:
    return LogMirror(table)


interrupt.before_exit(_log_mirror.cache_clear)  # which deletes their folders


def _needed(listed: Mapping[str, str], base: int, copied: Collection[str]) -> dict[str, str]:
    """The objects of a log that a table needs which is read from a checkpoint on.

    The checkpoint's own entry is only needed, by a commit, if it is the last one.
    """
    last = max(filter(_ENTRY.fullmatch, listed), default="")
    return {
        name: etag
        for name, etag in listed.items()
        if name == last or name in copied or _is_needed(name, base)
    }


def _is_needed(name: str, base: int) -> bool:
    if (entry := _ENTRY.fullmatch(name)) is not None:
        return int(entry["version"]) > base
    if (checkpoint := _CHECKPOINT.fullmatch(name)) is not None:
        return int(checkpoint["version"]) == base
    return base >= 0 and _SIDECAR.fullmatch(name) is not None


def _newest_checkpoint(names: Mapping[str, str]) -> int:
    """The version of the newest complete checkpoint; -1 if there is none."""
    found: dict[tuple[int, int], int] = {}
    for match in filter(None, map(_CHECKPOINT.fullmatch, names)):
        kind = int(match["version"]), int(match["parts"] or 1)
        found[kind] = found.get(kind, 0) + 1
    return max((version for (version, parts), num in found.items() if num >= parts), default=-1)
