"""What a training run reports, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

OnStep = Callable[[dict[str, Any]], None]


class Journal:
    """``metrics.jsonl``: what was reported up to the checkpoint that a run continues from, and on.

    Args:
        path: The file; lines of steps after `step` are dropped, they will be reported again.
        step: The one that the run continues from.
        on_step: Called with each object.
        enabled: Whether this process reports at all.
    """

    def __init__(self, path: Path, step: int, on_step: OnStep, *, enabled: bool) -> None:
        self._path = path
        self._on_step = on_step
        self._enabled = enabled
        if enabled:
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [
                line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Add one object."""
        if self._enabled:
            with self._path.open("a") as stream:
                stream.write(json.dumps(record) + "\n")
            self._on_step(record)
