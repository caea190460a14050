"""A store that kills the process that uses it, at a chosen durable step.

It is an ordinary `Lake` whose writes are counted in the driver's process: right after (or before)
the nth write whose key matches, the process gets SIGKILL, as from a spot reclaim.

    python -m tests.pipeline.killing CONFIG.json     # {"config": …, "operation": …, …}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from steel_batch.commit import ensure_tables
from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.run import DateRun
from steel_batch.registry import load_engine
from steel_batch.sources import open_source


class KillingLake(Lake):
    """Dies at the nth write that matches, in the process that made it."""

    def __init__(
        self, url: str, *, endpoint_url: str | None, pattern: str, nth: int, before: bool
    ) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self._driver = os.getpid()
        self._pattern, self._nth, self._before = pattern, nth, before

    def _step(self, key: str, *, before: bool) -> None:
        if before != self._before or os.getpid() != self._driver:
            return
        if re.search(self._pattern, key):
            self._nth -= 1
            if self._nth == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def write(self, key: str, data: bytes) -> None:
        self._step(key, before=True)
        super().write(key, data)
        self._step(key, before=False)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._step(key, before=True)
        done = super().put_if_absent(key, data)
        self._step(key, before=False)
        return done

    def copy(self, source: str, target: str) -> None:
        self._step(target, before=True)
        super().copy(source, target)
        self._step(target, before=False)

    @contextlib.contextmanager
    def open_output(self, key: str) -> Iterator[BinaryIO]:
        self._step(key, before=True)
        with super().open_output(key) as stream:
            yield stream
        self._step(key, before=False)


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text())
    config = ScoreConfig(**wanted["config"])
    store = KillingLake(
        config.store,
        endpoint_url=config.endpoint_url,
        pattern=wanted["pattern"],
        nth=wanted["nth"],
        before=wanted["before"],
    )
    source = open_source(config.images, config.key_pattern, endpoint_url=config.endpoint_url)
    ensure_tables(store)
    engine = load_engine(config.engine, store=store)
    with DateRun(config, engine, source, store, config.date, lambda _: None) as run:
        run.complete()


if __name__ == "__main__":
    main()
