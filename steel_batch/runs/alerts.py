"""`alerts.json` of a run's folder: the conditions that were asked for, and what they raised."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.lake.documents import parse_json, read_document, record_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAlerts:
    """What a committed run was checked for."""

    conditions: tuple[str, ...]
    """As the user wrote them."""
    alerts: tuple[str, ...]
    """A sentence for each that the run meets."""


def put_alerts(store: Lake, run_id: str, alerts: RunAlerts) -> None:
    """Write a run's alerts."""
    text = json.dumps(dataclasses.asdict(alerts), indent=1)
    store.write(layout.run_file(run_id, layout.RUN_ALERTS), text.encode())


def read_alerts(store: Lake, run_id: str) -> RunAlerts | None:
    """Read a run's alerts; None if no condition was given.

    Raises:
        LakeError: The file is damaged.
    """
    key = layout.run_file(run_id, layout.RUN_ALERTS)
    text = read_document(store, key)
    try:
        return None if text is None else record_of(RunAlerts, parse_json(text))
    except ValueError as error:
        raise LakeError(
            f"{store.uri(key)} is damaged: {error}. Delete it: nothing else depends on it."
        ) from error
