"""The reports of a training run, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from steel_batch.lake.documents import parse_json
from steel_batch.lake.format_version import FileFormat

log = logging.getLogger(__name__)

FORMAT: Final = FileFormat("the journal of a training")
OnStep = Callable[[dict[str, Any]], None]


class Journal:
    """``metrics.jsonl``: the reports up to the checkpoint that is resumed, and those after it.

    Args:
        path: The file. Lines of steps after `step` are dropped, because they are reported again.
            Damaged lines are dropped with a warning: they only record what was reported, and
            training needs none of them.
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
            lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
            numbered = [(line, _step_of(line)) for line in FORMAT.lines(lines, source=source)]
            num_damaged = sum(at is None for _, at in numbered)
            if num_damaged:
                log.warning(
                    "%s: %d damaged line(s) are left out; the report of this training lacks them.",
                    source,
                    num_damaged,
                )
            kept = [line for line, at in numbered if at is not None and at <= step]
            path.write_text("".join(f"{line}\n" for line in (FORMAT.header, *kept)))

    def write(self, record: dict[str, Any]) -> None:
        """Write one object."""
        if self._enabled:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            self._on_step(record)


def _step_of(line: str) -> int | None:
    """Return the step of a report; None if the line is damaged."""
    with contextlib.suppress(ValueError):
        record = parse_json(line)
        if isinstance(record, dict) and type(record.get("step")) is int:
            return int(record["step"])
    return None


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the reports of a finished run."""
    lines = FORMAT.lines(path.read_text().splitlines(), source=str(path))
    return [json.loads(line) for line in lines]
