"""A store that kills the process that uses it, at a chosen durable step.

It is an ordinary `Lake` whose writes are counted in the driver's process: right after (or before)
the nth write whose key matches, the process gets SIGKILL, as from a spot reclaim. Receipts are put
by other processes, so of them those count that the driver was told of.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.runs.events import Progress
from steel_batch.tables.table_log import ensure_tables
from tests.conftest import complete, scope_of
from tests.score_here import complete_here

RECEIPT = "a receipt"
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A write to the store."""

    pattern: str
    """Regular expression over its key; `RECEIPT` for the receipts that the driver was told of, and
    ``look:<table>`` for questions to a table's log once the table was committed to."""
    nth: int = 1
    """Which of those that match."""
    before: bool = False
    """Whether the driver dies before it, not after."""


AMID_RECEIPTS = Step(RECEIPT)
"""After the first of several, while other processes score."""


class KillingLake(Lake):
    """Dies at a step, in the process that made it."""

    def __init__(self, url: str, *, endpoint_url: str | None, step: Step) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self._driver = os.getpid()
        self._at, self._num_left = step, step.nth

    def _step(self, key: str, *, before: bool) -> None:
        if before != self._at.before or os.getpid() != self._driver:
            return
        if re.search(self._at.pattern, key):
            self._num_left -= 1
            if self._num_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def call_with_retry(self, what: str, request: Callable[[], T]) -> T:
        """Count reads of a table that has an entry of a run: the checks after a commit."""
        table = what.rpartition("/")[2]
        log = f"{table}/_delta_log/{1:020d}.json"
        is_look = self._at.pattern == f"look:{table}" and self.stat(log) is not None
        if is_look:
            self._step(f"look:{table}", before=True)
        answer = super().call_with_retry(what, request)
        if is_look:
            self._step(f"look:{table}", before=False)
        return answer

    def observe(self, progress: Progress) -> None:
        """Take note of each receipt."""
        if progress.step == "scoring" and progress.num_done:
            self._step(RECEIPT, before=False)

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


def kill_driver(config: ScoreConfig, step: Step) -> None:
    """Score in a process of its own that dies at a step: on Ray where it dies amid receipts.

    Its interpreter is forked from one that has imported everything: that takes longer than a run.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    process = processes.Process(target=_score, args=(config, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, step


def _score(config: ScoreConfig, step: Step) -> None:
    store = KillingLake(config.store, endpoint_url=config.endpoint_url, step=step)
    ensure_tables(store)
    scope = scope_of(config, store)
    if step == AMID_RECEIPTS:
        complete(scope, store.observe)
    else:
        complete_here(scope, store.observe)
