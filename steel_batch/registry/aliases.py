"""Aliases: names such as ``production`` that point to a version of a model.

An alias is a numbered series of immutable entries; the newest is valid. Moving an alias writes the
next number, so if two processes move it at once, one of them fails. The history is kept.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from steel_batch import layout
from steel_batch.errors import CommitConflictError, EngineError
from steel_batch.lake import Lake, series
from steel_batch.lake.commands import command
from steel_batch.lake.documents import record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.registry.signatures import check_signature, sign

FORMAT: Final = FileFormat("an entry of an alias")


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasEntry:
    """One move of an alias."""

    number: int
    """Counted from 1; the highest is valid."""
    version: str
    """The version that the alias points to after this move."""
    previous: str | None
    """The version that it pointed to before."""
    action: str
    """``promote`` or ``rollback``."""
    at: str
    by: str
    why: str = ""
    forced: bool = False
    """Whether it was moved although a check refused it."""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """The figures that were compared."""


def current(
    store: Lake, model: str, alias: str, *, require_signed: bool = False
) -> AliasEntry | None:
    """The newest entry, or None if there is no such alias.

    Raises:
        FormatError: The entry has a newer format.
        EngineError: The entry is invalid, or its signature is missing or wrong.
    """
    name = layout.alias_series(model, alias)
    found = series.latest(store, name)
    if found is None:
        return None
    number, data = found
    check_signature(store, series.entry_key(name, number), data, is_required=require_signed)
    return _parse(store, name, number, data)


def history(store: Lake, model: str, alias: str) -> list[AliasEntry]:
    """Every move of an alias, oldest first.

    Raises:
        FormatError: An entry has a newer format.
        EngineError: An entry is invalid, or its signature is missing or wrong.
    """
    name = layout.alias_series(model, alias)
    entries = []
    for number, data in series.history(store, name):
        check_signature(store, series.entry_key(name, number), data, is_required=False)
        entries.append(_parse(store, name, number, data))
    return entries


def before(entries: Sequence[AliasEntry]) -> str | None:
    """The version that a rollback points an alias to; works like an editor's undo.

    Each rollback undoes the newest promotion that is still in effect, so the next one goes further
    back. Promotions of a version that was rolled back from are skipped.

    Args:
        entries: History of the alias, oldest first.

    Returns:
        The version; None if no earlier promotion is left.
    """
    standing: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and entry.version in standing:
            while standing[-1] != entry.version:
                standing.pop()
        else:
            standing.append(entry.version)
    for version in reversed(standing[:-1]):
        if version != standing[-1] and rolled_back_from(entries, version) is None:
            return version
    return None


def rolled_back_from(entries: Sequence[AliasEntry], version: str) -> AliasEntry | None:
    """The rollback that took an alias off a version, unless it was promoted again since."""
    found = None
    for entry in entries:
        if entry.action == "rollback" and entry.previous == version:
            found = entry
        elif entry.version == version:
            found = None
    return found


def names(store: Lake, model: str) -> list[str]:
    """Names of the aliases of a model."""
    prefix = layout.alias_series(model, "")
    return sorted(folder[len(prefix) :].rstrip("/") for folder in store.list_dirs(prefix))


def move(
    store: Lake,
    model: str,
    alias: str,
    seen: AliasEntry | None,
    *,
    version: str,
    action: str,
    why: str = "",
    forced: bool = False,
    checks: Mapping[str, Any] | None = None,
) -> AliasEntry:
    """Point an alias to another version, if nobody else has moved it since the caller read it.

    Args:
        store: Store of the alias.
        model: Name of the model.
        alias: Name of the alias, without the model.
        seen: The entry that the decision was based on; None if there was none.
        version: The version to point to.
        action: ``promote`` or ``rollback``.
        why: Reason, for the history.
        forced: Whether a failed check was overridden.
        checks: The figures that were compared.

    Raises:
        CommitConflictError: Somebody else moved it since; nothing was changed.
    """
    entry = AliasEntry(
        number=1 if seen is None else seen.number + 1,
        version=version,
        previous=None if seen is None else seen.version,
        action=action,
        at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        by=_who(),
        why=why,
        forced=forced,
        checks=dict(checks or {}),
    )
    data = FORMAT.dump(dataclasses.asdict(entry), indent=1)
    name = layout.alias_series(model, alias)
    sign(store, series.entry_key(name, entry.number), data)
    if not series.put_next(store, name, entry.number, data):
        now = current(store, model, alias)
        raise CommitConflictError(
            f"{model}@{alias} was just moved to {now.version if now else 'another version'} by "
            f"{now.by if now else 'somebody else'}; nothing was changed. Check it with "
            f"{command(store, 'engines', 'show', f'{model}@{alias}')}, and run "
            "the command again if it is still right."
        )
    return entry


def _parse(store: Lake, name: str, number: int, data: bytes) -> AliasEntry:
    source = store.uri(series.entry_key(name, number))
    try:
        entry = record_of(AliasEntry, FORMAT.load(data, source=source))
        return dataclasses.replace(entry, number=number)
    except ValueError as error:
        raise EngineError(
            f"{source} is not a valid entry of an alias: {error}. Restore it from a backup, or "
            "move it out of its folder: the newest entry that is left is then valid."
        ) from error


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
