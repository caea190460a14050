"""Result of one check of a machine."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from steel_batch.errors import SteelBatchError

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Result of one check."""

    name: str
    """What was checked, in one or two words."""
    state: State
    """``wrong`` prevents scoring; a ``note`` is worth knowing but does not."""
    found: str
    """What was found. If it comes from an error, also what is needed and what to do."""
    remedy: str = ""
    """What is needed and the command that repairs it, if `found` does not state it."""

    @property
    def text(self) -> str:
        """All of it, as one paragraph."""
        return f"{self.found.rstrip('.')}. {self.remedy}".strip()

    @property
    def is_ok(self) -> bool:
        """Whether there is nothing to report."""
        return self.state == "ok"


def wrong(name: str, error: SteelBatchError) -> Finding:
    """Convert an error to a finding."""
    return Finding(name=name, state="wrong", found=error.message)


def version_of(package: str) -> str:
    """The version of an installed distribution, for messages."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"
