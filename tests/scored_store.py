"""A store of images that an engine really scored, without Ray: by the code that its workers run."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steel_batch import layout
from steel_batch.config import DECODER, DecodeSettings
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.runs.plan import Plan
from steel_batch.runs.planning import build_plan
from steel_batch.runs.record import RunRecord, RunResult, put_record
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import check_jpegs, read_shards
from steel_batch.sources.open import open_source
from steel_batch.tables.table_log import ensure_tables
from tests.conftest import DATE, PATTERN
from tests.made_up_run import finish, merge
from tests.tiny_engine import changed, tiny_version


def score_without_ray(
    images: Lake,
    store: Lake,
    *,
    date: str = DATE,
    pattern: str = PATTERN,
    classes: Sequence[str] | None = None,
    **version: Any,
) -> RunResult:
    """Score a date with the tiny engine, which the store gets too, and commit it.

    Args:
        images: Where the images lie.
        store: Where the rows go.
        date: A date that has no rows yet.
        pattern: The images' key pattern.
        classes: Other names of the engine's classes.
        version: Of the engine; see `tiny_version`.
    """
    card, graphs = tiny_version(**version)
    if classes is not None:
        card = changed(card, classes=tuple(classes))
    register(store, card, graphs)
    ensure_tables(store)
    source = open_source(images.url, pattern, endpoint_url=images.endpoint_url)
    settings = {
        "engine": card.name, "date": date, "shard_images": 64, "shard_bytes": 1 << 30,
        "rescore_changed": False, "retry_quarantined": False,
    }  # fmt: skip
    run_id = layout.run_id(card.name, date, 1)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "plan.parquet"
        info = build_plan(source.select(date), settings, path)
        store.write(layout.run_file(run_id, "plan.parquet"), path.read_bytes())
    record = RunRecord(
        run_id=run_id, engine=card.name, date=date,
        created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
        plan_digest=info.digest, num_images=info.num_images, num_shards=info.num_shards,
        num_committed=0, num_changed=0, num_left_out=0, example_left_out=None, settings=settings,
        config={"images": images.url, "endpoint_url": images.endpoint_url}, environment={},
    )  # fmt: skip
    assert put_record(store, record)
    runtime = OrtRuntime(graphs["fp32"], card, precision="fp32", batch_size=8, num_threads=1)
    decoding = DecodeSettings(decode_on="cpu", decoder=DECODER, bits=None, decode_seconds=None)
    scorer = ShardScorer(runtime, card, store, decoding, num_threads=1)
    try:
        for group in Plan(store, run_id):
            shards = set(group["shard"].to_pylist())
            for shard in read_shards(images, run_id, info.digest, group, shards):
                scorer.score(check_jpegs(shard, card.height, card.width))
    finally:
        scorer.close()
    return finish(store, record, merge(store, record), card.classes)
