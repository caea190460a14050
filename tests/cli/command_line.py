"""A command with its flags, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


def refused(done: Done) -> str:
    """The one paragraph of an error; nothing is on stdout."""
    assert done.code in (1, 2), done
    assert done.out == ""
    (paragraph,) = done.err.strip().split("\n\n")
    *_, text = paragraph.splitlines()
    return text


def with_flag(flags: list[str], name: str, value: str) -> list[str]:
    at = flags.index(name)
    return [*flags[: at + 1], value, *flags[at + 2 :]]


def keys(value: Any) -> set[str]:
    return set(value)
