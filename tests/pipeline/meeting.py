"""Runs that wait for each other right before they make rows visible.

    python -m tests.pipeline.meeting WANTED.json     # {"config": …, "place": …, "num": …}

A run says in a folder that it came, and commits when as many as are expected have come.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from steel_batch.lake import Lake
from steel_batch.tables.table_log import ensure_tables
from tests.conftest import config_of, scope_of
from tests.score_here import complete_here


class MeetingLake(Lake):
    """Waits before the first copy into the predictions, in the process that made it."""

    def __init__(self, url: str, *, endpoint_url: str | None, place: Path, num: int) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self._driver = os.getpid()
        self._place, self._num = place, num

    def copy(self, source: str, target: str) -> None:
        if os.getpid() == self._driver and target.startswith("predictions/"):
            (self._place / str(os.getpid())).touch()
            while len(list(self._place.iterdir())) < self._num:
                time.sleep(0.01)
        super().copy(source, target)


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text())
    config = config_of(wanted["config"])
    store = MeetingLake(
        config.store,
        endpoint_url=config.endpoint_url,
        place=Path(wanted["place"]),
        num=wanted["num"],
    )
    ensure_tables(store)
    complete_here(scope_of(config, store))


if __name__ == "__main__":
    main()
