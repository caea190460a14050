"""The reports of a training run, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from steel_batch.lake.format_version import FileFormat

FORMAT: Final = FileFormat("the journal of a training")
OnStep = Callable[[dict[str, Any]], None]


class Journal:
    """``metrics.jsonl``: the reports up to the checkpoint that is resumed, and those after it.

    Args:
        path: The file. Lines of steps after `step` are dropped, because they are reported again.
        step: The step at which the run resumes.
        source: The file's name, for messages.
        on_step: Called with each object.
        enabled: Whether this process writes reports.

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
        """Write one object."""
        if self._enabled:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            self._on_step(record)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the reports of a finished run."""
    lines = FORMAT.lines(path.read_text().splitlines(), source=str(path))
    return [json.loads(line) for line in lines]
