"""Scores a date in this process, for tests whose claim is not about the cluster.

A run on Ray starts two processes, which is 1 s of CPU even where they are forked. Here, the
functions that they call are called one after the other, without Ray. `tests/pipeline/test_run.py`
compares the rows of both ways.
"""

from __future__ import annotations

import contextlib
import dataclasses

from steel_batch.config import ScoreConfig
from steel_batch.engine.runtime import open_runtime
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.scope import DateScope, open_scope
from steel_batch.pipeline.states import NothingNew, ToCommit, ToScore
from steel_batch.runs.events import Observer
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunResult
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import check_jpegs, read_shards
from steel_batch.scoring.shard_result import ShardResult
from tests.made_up_run import merge


def score_here(config: ScoreConfig) -> RunResult:
    """Score one date, as `tests.conftest.run_score` does on Ray."""
    return complete_here(open_scope(config).at(config.date))


def complete_here(scope: DateScope, observe: Observer = lambda _: None) -> RunResult:
    """Score a date, as `tests.conftest.complete` does on Ray."""
    with open_date(scope, observe) as state:
        if isinstance(state, NothingNew):
            return state.result
        if isinstance(state, ToScore):
            _score_pending(state)
            attempt = state.attempt
            attempt.check_bad()
            files = merge(scope.store, attempt.record, merge_bytes=scope.config.merge_bytes)
            attempt.events.add("merged", num_files=len(files))
            state = ToCommit(attempt, files)
        return state.commit()


def _score_pending(state: ToScore) -> None:
    """What the read tasks and an actor do with the shards that have no receipt."""
    attempt, work = state.attempt, state.work
    if not work.pending:
        return
    scope, config, card = attempt.scope, attempt.scope.config, attempt.scope.engine.card
    settings = dataclasses.replace(config.inference, runtime="onnxruntime")
    scorer = ShardScorer(
        open_runtime(scope.engine, settings), card, scope.store, config.decoding,
        limits=config.limits, infer_seconds=config.infer_seconds, num_threads=1,
    )  # fmt: skip
    plan = Plan(scope.store, work.run_id, digest=work.plan_digest)
    with contextlib.closing(scorer):
        for group, numbers in work.pending.items():
            for shard in read_shards(
                scope.source.lake, work.run_id, work.plan_digest, plan.read_group(group), numbers,
                config.limits,
            ):  # fmt: skip
                if config.decoding.is_usual:
                    shard = check_jpegs(shard, card.height, card.width, config.limits)
                result = ShardResult.of(shard)
                if shard.failure is None:
                    result = dataclasses.replace(result, receipt=scorer.score(shard))
                state.take(result)
                attempt.report_progress("scoring")
