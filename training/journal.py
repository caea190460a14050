"""What a training run reports, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from steel_batch.lake.format_version import FileFormat

FORMAT: Final = FileFormat("the journal of a training")
OnStep = Callable[[dict[str, Any]], None]


class Journal:
    """``metrics.jsonl``: what was reported up to the checkpoint that a run continues from, and on.

    Args:
        path: The file; lines of steps after `step` are dropped, they will be reported again.
        step: The one that the run continues from.
        source: Where the file comes from, for messages.
        on_step: Called with each object.
        enabled: Whether this process reports at all.

    Raises:
        FormatError: The file is of a newer format.
    """

    def __init__(
        self, path: Path, step: int, on_step: OnStep, *, source: str, enabled: bool
    ) -> None:
        self._path = path
        self._on_step = on_step
        self._enabled = enabled
        if enabled:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [
                line
                for line in FORMAT.lines(lines, source=source)
                if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            path.write_text("".join(f"{line}\n" for line in (FORMAT.header, *kept)))

    def write(self, record: dict[str, Any]) -> None:
        """Add one object."""
        if self._enabled:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            self._on_step(record)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """What a run that is done reported."""
    lines = FORMAT.lines(path.read_text().splitlines(), source=str(path))
    return [json.loads(line) for line in lines]
