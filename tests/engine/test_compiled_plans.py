"""What earlier builds timed is believed by its digest alone, as a plan is."""

from __future__ import annotations

import hashlib
from pathlib import Path

from steel_batch.engine.compiled_plans import (
    Machine,
    put_plan,
    read_timing_cache,
    timing_cache_key,
)
from steel_batch.registry.versions import Engine
from tests.engine.test_check import H200, engine, record_of

__all__ = ["engine"]

CACHE = b"what TensorRT timed"
SHA256 = hashlib.sha256(CACHE).hexdigest()


def keep(engine: Engine, cache: bytes = CACHE) -> Path:
    """Keep a plan whose build timed something; where its cache lies."""
    put_plan(engine, record_of(H200, timing_cache_sha256=SHA256), b"code")
    key = timing_cache_key(engine, H200, SHA256)
    engine.plan_home.write(key, cache)
    return Path(engine.plan_home.uri(key))


def test_a_timing_cache_that_a_record_vouches_for_is_used(engine: Engine) -> None:
    assert read_timing_cache(engine, H200) == b""
    keep(engine)
    assert read_timing_cache(engine, H200) == CACHE


def test_a_timing_cache_that_was_changed_is_not_used(engine: Engine) -> None:
    path = keep(engine, CACHE + b"!")
    assert read_timing_cache(engine, H200) == b""
    path.unlink()
    assert read_timing_cache(engine, H200) == b""


def test_a_timing_cache_without_a_record_is_not_used(engine: Engine) -> None:
    for name in (f"{H200.short_name}.cache", f"{H200.short_name}-{SHA256[:12]}.cache"):
        engine.plan_home.write(f"{engine.plan_folder}/{name}", CACHE)
    assert read_timing_cache(engine, H200) == b""


def test_a_timing_cache_of_another_machine_is_not_used(engine: Engine) -> None:
    keep(engine)
    other = Machine(runtime="tensorrt", runtime_version="8.5.3.1", compute_capability="8.0")
    assert read_timing_cache(engine, other) == b""
