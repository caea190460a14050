"""The scoring actors of a run or a backfill, as the joined cluster has room for them."""

from __future__ import annotations

from steel_batch.cluster.agreement import Agreement
from steel_batch.cluster.join import actor_pool, choose_runtime
from steel_batch.cluster.stages import Setup
from steel_batch.cluster.stream import ActorPool
from steel_batch.config import ScoreConfig
from steel_batch.engine.runtime import decodes_on_gpu, wants_gpu
from steel_batch.lake import Lake
from steel_batch.registry.versions import Engine


def scoring_setup(
    config: ScoreConfig, engine: Engine, lake: Lake, store: Lake
) -> tuple[ActorPool, Setup]:
    """The scoring actors that the joined cluster has room for, and what they need to know.

    Args:
        config: The command.
        engine: The resolved engine.
        lake: Where the images are.
        store: Where everything is written.

    Raises:
        ConfigError: Not one actor fits, or the GPU is to decode where none scores.
    """
    runtime = choose_runtime(config.runtime)
    pool = actor_pool(config, on_gpu=wants_gpu(runtime))
    decodes_on_gpu(config.decode, runtime=runtime)
    return pool, Setup(
        agreement=Agreement.of_this_machine(lake, store),
        lake=lake,
        store=store,
        engine=engine,
        decoder=config.decoder,
        bits=config.bits,
        limits=config.limits,
        decode_seconds=config.decode_seconds,
        infer_seconds=config.infer_seconds,
        decode=config.decode,
        runtime=runtime,
        precision=config.precision,
        batch_size=config.batch_size,
        shard_bytes=config.shard_bytes,
        num_threads=pool.num_threads,
        num_slots=pool.num_slots,
    )
