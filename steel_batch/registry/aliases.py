"""Aliases: which version of a model is meant by a name such as ``production``.

An alias is a numbered series of entries that never change; the newest is the truth. Moving it is
putting the next number, so of two that move it at once one wins, and its history stays.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steel_batch import layout
from steel_batch.errors import CommitConflictError, EngineError
from steel_batch.lake import Lake, series
from steel_batch.registry.signatures import check_signature, sign


@dataclass(frozen=True, kw_only=True, slots=True)
class AliasEntry:
    """One move of an alias."""

    number: int
    """From 1; the highest is in force."""
    version: str
    """What the alias means from here on."""
    previous: str | None
    """What it meant before."""
    action: str
    """``promote`` or ``rollback``."""
    at: str
    by: str
    why: str = ""
    forced: bool = False
    """Whether it was moved although a check refused."""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """What was compared."""


def current(
    store: Lake, model: str, alias: str, *, require_signed: bool = False
) -> AliasEntry | None:
    """The entry in force, or None where there is no such alias.

    Raises:
        EngineError: It is no entry, or not signed as it should be.
    """
    name = layout.alias_series(model, alias)
    found = series.latest(store, name)
    if found is None:
        return None
    number, data = found
    check_signature(store, series.entry_key(name, number), data, is_required=require_signed)
    return _parse(store, name, number, data)


def history(store: Lake, model: str, alias: str) -> list[AliasEntry]:
    """Every move of an alias, oldest first."""
    name = layout.alias_series(model, alias)
    return [_parse(store, name, number, data) for number, data in series.history(store, name)]


def before(entries: Sequence[AliasEntry]) -> str | None:
    """The version that an alias goes back to, as an editor's undo would: never one that was left.

    Each rollback takes away the promotion in force, so the next one goes further back. It passes
    over earlier promotions of a version that was left since.

    Args:
        entries: Its history, oldest first.

    Returns:
        None where no earlier promotion is left.
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
    """The rollback that took an alias from a version, if it was not promoted again since."""
    found = None
    for entry in entries:
        if entry.action == "rollback" and entry.previous == version:
            found = entry
        elif entry.version == version:
            found = None
    return found


def names(store: Lake, model: str) -> list[str]:
    """The aliases of a model."""
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
    """Make an alias mean another version, if it still is as the caller saw it.

    Args:
        store: Where the alias lies.
        model: Whose.
        alias: Which.
        seen: The entry that the decision was made on; None where there was none.
        version: What it is to mean.
        action: ``promote`` or ``rollback``.
        why: For the history.
        forced: Whether a check was overruled.
        checks: What was compared.

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
    data = json.dumps(dataclasses.asdict(entry), indent=1, sort_keys=True).encode()
    name = layout.alias_series(model, alias)
    sign(store, series.entry_key(name, entry.number), data)
    if not series.put_next(store, name, entry.number, data):
        now = current(store, model, alias)
        raise CommitConflictError(
            f"{model}@{alias} was moved to {now.version if now else 'another version'} by "
            f"{now.by if now else 'somebody'} just now; nothing was changed. Look at it with "
            f"`engines show {model}@{alias}` and run the command again if it still is right."
        )
    return entry


def _parse(store: Lake, name: str, number: int, data: bytes) -> AliasEntry:
    try:
        return AliasEntry(**{**json.loads(data), "number": number})
    except (ValueError, TypeError) as error:
        raise EngineError(
            f"{store.uri(series.entry_key(name, number))} is not an entry of an alias: {error!r}."
        ) from error


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
