"""Who may read what, and when: the dispatcher's answers, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from steel_batch.cluster.dispatcher import Dispatcher, Work
from steel_batch.errors import ConfigError, EngineError

WORK = Work(run_id="run", plan_digest="digest", pending={0: [0, 1], 1: [2], 2: [3]})


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(steps, 60.0))


async def is_waiting(task: asyncio.Task[Any]) -> bool:
    """Whether a call has no answer after all others had their turn."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not task.done()


def test_parts_of_a_work_are_all_of_it_once() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=0)
        waiting = asyncio.create_task(dispatcher.take(0, 0, 2))
        assert await is_waiting(waiting)
        await dispatcher.put(0, WORK)
        first, second = await waiting, await dispatcher.take(0, 1, 2)
        assert first is not None
        assert second is not None
        assert {**first.pending, **second.pending} == WORK.pending
        assert not first.pending.keys() & second.pending.keys()

    run(steps())


def test_nothing_is_scored_before_every_awaited_actor_can_score() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=2)
        await dispatcher.put(0, WORK)
        assert await dispatcher.take(0, 0, 1) == WORK  # it may be read meanwhile
        opening = asyncio.create_task(dispatcher.startup(0))
        scoring = asyncio.create_task(dispatcher.may_score())
        starting = asyncio.create_task(dispatcher.start("run", 0))
        await dispatcher.answer("a", "node-1", None)
        await dispatcher.answer("a", "node-1", None)  # started anew, and no second one
        for waiting in (scoring, starting, opening):
            assert await is_waiting(waiting)
        await dispatcher.answer("b", "node-2", None)
        assert await scoring
        assert await starting == 1
        assert (await opening).is_over
        assert (await opening).num_answers == 2

    run(steps())


def test_an_actor_that_is_not_there_in_time_is_not_waited_for() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=2, patience_seconds=0.05)
        await dispatcher.put(0, WORK)
        await dispatcher.answer("a", "node-1", None)
        assert await dispatcher.may_score()
        assert (await dispatcher.startup(0)).num_answers == 1

    run(steps())


def test_of_actors_that_cannot_score_each_reason_is_told_once_with_its_nodes() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=4)
        await dispatcher.put(0, WORK)
        scoring = asyncio.create_task(dispatcher.may_score())
        taking = asyncio.create_task(dispatcher.take(1, 0, 1))
        await dispatcher.answer("a", "node-1", ConfigError("driver: too old."))
        await dispatcher.answer("b", "node-2", None)
        await dispatcher.answer("c", "node-3", ConfigError("driver: too old."))
        assert await is_waiting(scoring)
        await dispatcher.answer("d", "node-4", EngineError("plan: damaged."))
        assert not await scoring
        assert await dispatcher.start("run", 0) is None
        assert await taking is None  # nobody sets it any more
        assert await dispatcher.take(2, 0, 1) is None
        assert (await dispatcher.startup(0)).is_refused
        error = await dispatcher.refusal()
        assert isinstance(error, ConfigError)
        assert "On node-1, node-3: driver: too old. On node-4: plan: damaged." in error.message

    run(steps())


def test_an_actor_that_fails_after_scoring_began_stops_nobody_else() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=1)
        await dispatcher.put(0, WORK)
        await dispatcher.answer("a", "node-1", None)
        await dispatcher.answer("a", "node-1", EngineError("the GPU is gone."))
        assert await dispatcher.refusal() is None
        assert await dispatcher.may_score()

    run(steps())


def test_a_note_is_told_once_and_before_it_is_over() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=1)
        for _ in range(2):
            await dispatcher.note("the plan is built")
        first = await dispatcher.startup(0)
        assert (first.is_over, first.notes) == (False, ["the plan is built"])
        later = asyncio.create_task(dispatcher.startup(1))
        assert await is_waiting(later)
        await dispatcher.answer("a", "node-1", None)
        assert (await later).is_over

    run(steps())


def test_loads_are_counted_until_one_succeeds() -> None:
    async def steps() -> None:
        dispatcher = Dispatcher(num_awaited=1)
        assert [await dispatcher.load("a") for _ in range(3)] == [1, 2, 3]
        assert await dispatcher.load("b") == 1
        await dispatcher.answer("a", "node-1", None)
        assert await dispatcher.load("a") == 1

    run(steps())
