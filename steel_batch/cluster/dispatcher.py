"""Hands work to the read tasks, and counts how often each shard was started.

A module of its own that imports almost nothing, so that this actor's process starts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from steel_batch.cluster.process_end import skip_exit_handlers
from steel_batch.errors import SteelBatchError

PATIENCE_SECONDS: Final = 10.0
"""How long to wait for the other scoring actors, once one has reported ready or failed."""
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left to score of one run."""

    run_id: str
    plan_digest: str
    pending: Mapping[int, Sequence[int]]
    """Per row group of the plan, its shards that are still to be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupStatus:
    """Start-up of the scoring actors."""

    is_over: bool
    """Whether scoring may begin, or never will."""
    is_refused: bool = False
    """Whether it never will, because an actor cannot score."""
    num_answers: int
    """Actors that have loaded the engine, or reported why they cannot."""
    notes: Sequence[str]
    """What delays them."""


class Dispatcher:
    """Hands work to the read tasks, and counts how often each shard was started.

    An actor of its own: whatever kills a scoring actor does not reach it.

    Args:
        num_awaited: Scoring actors that must report before anything is scored. Once one is ready,
            the others have `patience_seconds`; if one cannot score, nothing is.
        patience_seconds: How long the others are waited for.
    """

    def __init__(self, *, num_awaited: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        skip_exit_handlers()
        self._works: dict[int, Work | None] = {}
        self._is_there: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._started: Counter[tuple[str, int]] = Counter()
        self._num_awaited, self._patience_seconds = num_awaited, patience_seconds
        self._answers: dict[str, tuple[str, SteelBatchError | None]] = {}
        self._loads: Counter[str] = Counter()
        self._notes: dict[str, None] = {}
        self._firsts: dict[str, float] = {}
        self._is_over = asyncio.Event()
        if not num_awaited:
            self._is_over.set()

    async def note(self, text: str) -> None:
        """Record what delays an actor; the same text from several actors counts once."""
        self._notes[text] = None

    async def load(self, actor: str) -> int:
        """Record that an actor begins to load the engine; return its number of loads so far."""
        self._note_first("actor")
        self._loads[actor] += 1
        return self._loads[actor]

    async def answer(self, actor: str, node: str, error: SteelBatchError | None) -> None:
        """Record that an actor is ready, or why it is not; a restarted actor reports again."""
        self._note_first("load")
        del self._loads[actor]
        if self._is_over.is_set():
            return
        self._answers[actor] = node, error
        if len(self._answers) >= self._num_awaited:
            self._end_startup()
        else:
            asyncio.get_running_loop().call_later(self._patience_seconds, self._end_startup)

    def _end_startup(self) -> None:
        self._is_over.set()
        if self._is_refused():
            for is_there in self._is_there.values():  # what is waited for need not come any more
                is_there.set()

    def _is_refused(self) -> bool:
        errors = [error for _, error in self._answers.values() if error is not None]
        return self._is_over.is_set() and bool(errors)

    async def firsts(self) -> Mapping[str, float]:
        """When each step of start-up was first reached, in seconds of this node's monotonic clock.

        ``actor``: the process of a scoring actor runs; ``load``: one has the engine, or cannot
        score; ``read``: the process of a read task runs; ``shard``: an actor begins a shard.
        """
        return self._firsts

    def _note_first(self, step: str) -> None:
        self._firsts.setdefault(step, time.monotonic())

    async def startup(self, num_notes: int) -> StartupStatus:
        """The state of the actors, once start-up is over or there are more than `num_notes`."""
        while not self._is_over.is_set() and len(self._notes) <= num_notes:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), _POLL_SECONDS)
        return StartupStatus(
            is_over=self._is_over.is_set(),
            is_refused=self._is_refused(),
            num_answers=len(self._answers),
            notes=list(self._notes),
        )

    async def refusal(self) -> SteelBatchError | None:
        """Why nothing is scored; later changes of the actors do not affect it."""
        nodes: defaultdict[tuple[type[SteelBatchError], str], list[str]] = defaultdict(list)
        for node, error in self._answers.values():
            if error is not None:
                nodes[type(error), error.message].append(node)
        if not nodes:
            return None
        reasons = " ".join(f"On {', '.join(names)}: {why}" for (_, why), names in nodes.items())
        (kind, _), *_ = nodes
        return kind(
            f"nothing was scored, as not every GPU can score. {reasons} `steel-batch doctor` shows "
            "what each node has."
        )

    async def put(self, index: int, work: Work | None) -> None:
        """Set a work item; None if there is nothing, or nothing more, to do."""
        self._works[index] = work
        self._is_there[index].set()

    async def put_if_unknown(self, index: int, work: Work | None) -> None:
        """Set a work item, unless it was already set."""
        if index not in self._works:
            await self.put(index, work)

    async def take(self, index: int, part: int, num_parts: int) -> Work | None:
        """One part of a work item, as soon as it is set."""
        self._note_first("read")
        if not self._is_refused():
            await self._is_there[index].wait()
        work = self._works.get(index)
        if work is None or self._is_refused():
            return None
        groups = sorted(work.pending)[part::num_parts]
        return dataclasses.replace(work, pending={g: work.pending[g] for g in groups})

    async def may_score(self) -> bool:
        """Whether the actors can score, as soon as they are ready."""
        await self._is_over.wait()
        return not self._is_refused()

    async def start(self, run_id: str, shard: int) -> int | None:
        """Record a start of a shard, as soon as the actors are ready; return its number, from 1.

        None if it must not be scored, as not every actor can score.
        """
        if not await self.may_score():
            return None
        self._note_first("shard")
        self._started[run_id, shard] += 1
        return self._started[run_id, shard]

    async def finish(self, run_id: str, shard: int) -> None:
        """Forget a finished shard."""
        del self._started[run_id, shard]
