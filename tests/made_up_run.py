"""Runs made without Ray and without pixels: planned, staged, merged and landed by the real code.

Only the rows are made up. Everything durable is written by the functions that a run calls, in the
order in which it calls them, so a test can stop between any two steps.
"""

from __future__ import annotations

import datetime
import io
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import layout, schema
from steel_batch.database import scratch_engine
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.runs.events import Events
from steel_batch.runs.plan import Plan
from steel_batch.runs.planning import build_plan
from steel_batch.runs.receipt import QuarantinedImage, Receipt, put_receipt, read_receipts, stage
from steel_batch.runs.record import (
    ClassCount,
    RunRecord,
    RunResult,
    latest_run,
    put_record,
    put_result,
)
from steel_batch.sources.image_ref import ImageRef
from steel_batch.tables.file_lists import DataFile, save_files
from steel_batch.tables.landing import delete_staged, land_run
from steel_batch.tables.merge import cut_files, merge_shards
from steel_batch.tables.table_log import ensure_tables

ENGINE = "made-0123456789ab"
DATE = "2026-11-21"
CLASSES = ("pitted", "inclusion", "scratch", "patch")
NOW = datetime.datetime(2026, 11, 21, 3, 0, tzinfo=datetime.timezone.utc)


def image_keys(num: int, *, first: int = 0, lines: Sequence[str | None] = ("1", "2")) -> list[str]:
    """Keys whose line is their first part; '-' stands for none."""
    return [f"{lines[i % len(lines)] or '-'}/im{i:05d}.jpg" for i in range(first, first + num)]


def made_up_row(key: str, run_id: str, date: str = DATE) -> dict[str, Any]:
    """A row of the predictions that depends on the key alone; two of three have no defect."""
    rng = random.Random(key)
    peak = [round(rng.random(), 3) for _ in CLASSES]
    found = sorted(rng.sample(range(len(CLASSES)), rng.randint(1, 3))) if rng.random() < 0.4 else []
    defects: list[dict[str, Any]] = [
        {
            "class_id": c + 1,
            "rle": f"{1 + 64 * c} {(area := rng.randint(3, 60))}",
            "area_px": area,
            "num_components": rng.randint(1, 5),
            "bbox": {"x": c, "y": 0, "w": 1, "h": area},
            "peak": peak[c],
        }
        for c in found
    ]
    line = key.split("/")[0]
    area_of_all = sum(defect["area_px"] for defect in defects)
    return {
        "image_key": key,
        "image_id": key.rpartition("/")[2].removesuffix(".jpg"),
        "line": None if line == "-" else line,
        "tags": [("camera", "top")],
        "width": 160,
        "height": 64,
        "bytes": 1000,
        "etag": "e",
        "run_id": run_id,
        "scored_at": NOW,
        "has_defect": bool(defects),
        "peak": peak,
        "defects": defects,
        "runtime": "onnxruntime",
        "runtime_version": "1.20.0",
        "precision": "fp32",
        "device": "cpu",
        "decode_on": "cpu",
        "decoder": "opencv 5.0.0",
        "brightness": 80 + area_of_all % 80 / 4,
        "contrast": 20 + area_of_all % 16 / 4,
        "sharpness": 4 + area_of_all % 8 / 8,
    }


def rows_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows under the schema of the predictions."""
    return pa.Table.from_pylist(list(rows), schema=schema.PREDICTIONS)


def parquet(table: pa.Table) -> bytes:
    """A table as a shard's staged file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def begin(
    store: Lake,
    keys: Sequence[str],
    *,
    date: str = DATE,
    engine: str = ENGINE,
    shard_images: int = 4,
    retry_quarantined: bool = False,
) -> RunRecord:
    """Make the tables, write a plan of `keys` and put the run's record."""
    ensure_tables(store)
    before = latest_run(store, engine, date)
    number = 1 if before is None else layout.split_run_id(before.run_id)[2] + 1
    run_id = layout.run_id(engine, date, number)
    settings = {
        "engine": engine,
        "date": date,
        "shard_images": shard_images,
        "shard_bytes": 1 << 30,
        "rescore_changed": False,
        "retry_quarantined": retry_quarantined,
    }
    refs = [
        ImageRef(
            image_key=key, image_id=key, date=date, line=made_up_row(key, "")["line"],
            object_key=key, bytes=1000, etag="e",
        )
        for key in keys
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "plan.parquet"
        info = build_plan(refs, settings, path)
        store.write(layout.run_file(run_id, "plan.parquet"), path.read_bytes())
    record = RunRecord(
        run_id=run_id,
        engine=engine,
        date=date,
        created_at=NOW.isoformat(),
        plan_digest=info.digest,
        num_images=info.num_images,
        num_shards=info.num_shards,
        num_committed=0,
        num_changed=0,
        num_left_out=0,
        example_left_out=None,
        settings=settings,
        config={},
        environment={},
    )
    assert put_record(store, record)
    return record


def score_shards(
    store: Lake,
    record: RunRecord,
    *,
    bad: Sequence[str] | Mapping[str, str] = (),
    fields: pa.Schema = schema.PREDICTIONS,
) -> list[Receipt]:
    """Stage every shard's rows and put its receipt; images in `bad` go to quarantine.

    They may come with their etags.
    """
    receipts = []
    for group in Plan(store, record.run_id):
        rows = group.to_pylist()
        for shard in sorted({row["shard"] for row in rows}):
            keys = [row["image_key"] for row in rows if row["shard"] == shard]
            receipts.append(score_shard(store, record, shard, keys, bad=bad, fields=fields))
    return receipts


def score_shard(
    store: Lake,
    record: RunRecord,
    shard: int,
    keys: Sequence[str],
    *,
    bad: Sequence[str] | Mapping[str, str] = (),
    fields: pa.Schema = schema.PREDICTIONS,
) -> Receipt:
    """Stage one shard's rows, or some columns of them, and put its receipt."""
    rows = [made_up_row(key, record.run_id) for key in keys if key not in bad]
    key, sha256, data = None, "", b""
    if rows:
        data = parquet(rows_table(rows).select(fields.names))
        key, sha256 = stage(store, record.run_id, shard, data)
    receipt = Receipt(
        run_id=record.run_id,
        plan_digest=record.plan_digest,
        shard=shard,
        num_images=len(keys),
        num_rows=len(rows),
        staged=key,
        staged_bytes=len(data),
        staged_sha256=sha256,
        num_defective=tuple(
            sum(any(d["class_id"] == c + 1 for d in row["defects"]) for row in rows)
            for c in range(len(CLASSES))
        ),
        quarantined=tuple(
            QuarantinedImage(
                image_key=key,
                error_code="empty",
                message="it has no bytes.",
                bytes=0,
                etag=bad[key] if isinstance(bad, Mapping) else "e",
            )
            for key in keys
            if key in bad
        ),
        seconds=0.1,
        scored_at=NOW.isoformat(),
        scorer="nobody",
    )
    return put_receipt(store, receipt)


def merge(store: Lake, record: RunRecord, *, merge_bytes: int = 256 << 20) -> list[DataFile]:
    """Merge the staged shards and make the list of files durable."""
    staged = np.zeros(record.num_shards, np.int64)
    for receipt in read_receipts(store, record.run_id, record.plan_digest):
        staged[receipt.shard] = receipt.staged_bytes
    files = [
        merge_shards(store, record.run_id, number, shards)
        for number, shards in enumerate(cut_files(staged, merge_bytes))
    ]
    save_files(store, record.run_id, layout.MERGED, files)
    return files


def finish(
    store: Lake,
    record: RunRecord,
    files: Sequence[DataFile],
    classes: Sequence[str] = CLASSES,
) -> RunResult:
    """Land a run in the three tables, note its result, and delete what was staged."""
    receipts = list(read_receipts(store, record.run_id, record.plan_digest))
    with Lease(
        store, layout.lock_series(record.engine, record.date), what="the date", lease_seconds=60.0
    ) as lease:
        version = land_run(
            store,
            record,
            files,
            sorted(r.shard for r in receipts if r.quarantined),
            classes,
            Events(store, record.run_id),
            lease,
        )
        num_bad = sum(len(receipt.quarantined) for receipt in receipts)
        result = RunResult(
            run_id=record.run_id,
            engine=record.engine,
            date=record.date,
            num_images=record.num_images,
            num_scored=record.num_images - num_bad,
            num_quarantined=num_bad,
            num_shards=record.num_shards,
            seconds=1.0,
            images_per_second=1.0,
            startup_seconds=0.0,
            committed=True,
            table_version=version,
            predictions=store.uri(
                f"predictions/{layout.partition(record.engine, record.date)}/*.parquet"
            ),
            classes=tuple(
                ClassCount(
                    class_id=c + 1, class_name=name,
                    num_images=sum(r.num_defective[c] for r in receipts),
                )
                for c, name in enumerate(classes)
            ),
        )  # fmt: skip
        put_result(store, result)
        delete_staged(store, record)
    return result


def commit_run(
    store: Lake,
    keys: Sequence[str],
    *,
    bad: Sequence[str] = (),
    merge_bytes: int = 256 << 20,
    **settings: Any,
) -> RunResult:
    """A whole run, from the plan to the result."""
    with scratch_engine():  # as `score` does
        record = begin(store, keys, **settings)
        score_shards(store, record, bad=bad)
        return finish(store, record, merge(store, record, merge_bytes=merge_bytes))


def keys_of(store: Lake, prefix: str = "") -> set[str]:
    """The keys of every object below a prefix."""
    return {item.key for item in store.list_objects(prefix)}
