"""What one check of a machine found."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Literal

from steel_batch.errors import SteelBatchError

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    """What was looked at: one word or two."""
    state: State
    """``wrong`` keeps a run from scoring; a ``note`` is worth knowing and does not."""
    found: str
    """What is there. Where an error says it, also what is needed and what to do."""
    remedy: str = ""
    """What is needed and the command that mends it, where `found` does not say so."""

    @property
    def text(self) -> str:
        """All of it as one paragraph."""
        return f"{self.found.rstrip('.')}. {self.remedy}".strip()

    @property
    def is_ok(self) -> bool:
        """Whether there is nothing to say."""
        return self.state == "ok"


def wrong(name: str, error: SteelBatchError) -> Finding:
    """What an error says, as a finding."""
    return Finding(name=name, state="wrong", found=error.message)


def version_of(package: str) -> str:
    """The version of an installed distribution, for messages."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"
