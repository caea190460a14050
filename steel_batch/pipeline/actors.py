"""The scoring actors of a run or a backfill: as many as fit on the joined cluster."""

from __future__ import annotations

import dataclasses

from steel_batch.cluster.agreement import Agreement
from steel_batch.cluster.fit import actor_pool, choose_runtime
from steel_batch.cluster.pool import ActorPool
from steel_batch.cluster.score_stage import Setup
from steel_batch.engine.runtime import decodes_on_gpu, wants_gpu
from steel_batch.pipeline.scope import Scope


def scoring_setup(scope: Scope) -> tuple[ActorPool, Setup]:
    """Return the scoring actors that fit on the joined cluster, and their settings.

    Raises:
        ConfigError: No actor fits, or the GPU is to decode and no GPU scores.
    """
    config, lake, store = scope.config, scope.source.lake, scope.store
    runtime = choose_runtime(config.runtime)
    pool = actor_pool(config, on_gpu=wants_gpu(runtime))
    decodes_on_gpu(config.decode_on, runtime=runtime)
    return pool, Setup(
        agreement=Agreement.of_this_machine(lake, store),
        lake=lake,
        store=store,
        engine=scope.engine,
        inference=dataclasses.replace(config.inference, runtime=runtime),
        decoding=config.decoding,
        limits=config.limits,
        infer_seconds=config.infer_seconds,
        shard_bytes=config.shard_bytes,
        num_threads=pool.num_threads,
        num_slots=pool.num_slots,
    )
