"""The format version of a durable file: how a file states it, and how it is checked.

Every file that a later command reads contains a number, its format. The number is increased when a
field is added, removed or changes its meaning, so that a build either reads a file correctly or
refuses it. Files without a number were written before 29 November 2026: format 1.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steel_batch.errors import FormatError
from steel_batch.lake.documents import parse_json

FIELD: Final = "format"


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One kind of durable file: the format that this build writes, and those that it reads.

    Args:
        what: What the file is, with an article, for messages: "a receipt".
        newest: The format that is written. All formats from 1 on are read.
        bare: The field that contains what was the whole file in format 1, such as a list.
    """

    what: str
    newest: int = 1
    bare: str | None = None

    def stamp(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a file's fields with the format added."""
        return {FIELD: self.newest, **fields}

    def dump(self, fields: Mapping[str, Any], *, indent: int | None = None) -> bytes:
        """Serialize a file's fields as JSON with sorted keys."""
        return json.dumps(self.stamp(fields), indent=indent, sort_keys=True).encode()

    def load(self, data: str | bytes, *, source: str) -> dict[str, Any]:
        """Parse a JSON file and return its fields, without the format.

        Args:
            data: The file.
            source: The file's name, for messages.

        Raises:
            FormatError: It is of a format that this build does not read.
            ValueError: It is not JSON, or not of this kind.
        """
        found = parse_json(data)
        if self.bare is not None and isinstance(found, list):
            return {self.bare: found}
        return self.open(found, source=source)

    @property
    def header(self) -> str:
        """Return the first line of a JSON Lines file."""
        return json.dumps({FIELD: self.newest})

    def lines(self, lines: Sequence[str], *, source: str) -> list[str]:
        """Return the lines of a JSON Lines file after its header; format 1 may have no header.

        Raises:
            FormatError: It is of a format that this build does not read.
        """
        first = None
        with contextlib.suppress(ValueError):  # the reader of the other lines reports damage
            first = parse_json(lines[0]) if lines else None
        if not isinstance(first, dict) or FIELD not in first:
            return list(lines)
        self.open(first, source=source)
        return list(lines[1:])

    def open(self, found: object, *, source: str) -> dict[str, Any]:
        """Return the fields of a decoded file, without the format.

        Raises:
            FormatError: It is of a format that this build does not read.
            ValueError: It is not an object.
        """
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, expected an object")
        fields = dict(found)
        self.check(fields.pop(FIELD, 1), source=source)
        return fields

    def check(self, found: object, *, source: str) -> int:
        """Return the format that a file states, if this build reads it.

        Raises:
            FormatError: This build does not read it.
        """
        is_number = isinstance(found, int) and not isinstance(found, bool)
        if is_number and 1 <= found <= self.newest:  # type: ignore[operator]
            return found  # type: ignore[return-value]
        read = "format 1" if self.newest == 1 else f"formats 1 to {self.newest}"
        if is_number and found > self.newest:  # type: ignore[operator]
            todo = (
                "A newer steel-batch wrote it: upgrade steel-batch on this machine and on the "
                "cluster's nodes, then run the command again."
            )
        else:
            todo = "No steel-batch writes that: restore the file from a backup."
        raise FormatError(
            f"{source} is {self.what} of format {found!r}; this steel-batch reads {read}. {todo}"
        )
