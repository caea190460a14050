"""Each row says what made it: what the actor really used for that image."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import schema
from steel_batch.config import DECODER, DecodeSettings
from steel_batch.engine.contract import Runtime
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.lake import Lake
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import RunRecord
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import ShardInput, check_jpegs
from steel_batch.tables.query import run_query
from tests.conftest import band_image, png
from tests.image_files import HEIGHT, WIDTH
from tests.made_up_run import begin, finish, image_keys, merge
from tests.scoring.test_score_jpegs import DeviceRuntime, open_cpu, shard
from tests.tiny_engine import tiny_version

CARD, GRAPHS = tiny_version(height=HEIGHT, width=WIDTH, precisions=("fp32", "fp16"))
OPENCV = f"opencv {cv2.__version__}"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def staged_rows(
    runtime: Runtime,
    given: ShardInput,
    lake: Lake,
    *,
    decoder: str = DECODER,
    isolated: bool = False,
) -> pa.Table:
    scorer = ShardScorer(
        runtime,
        CARD,
        lake,
        DecodeSettings(decode_on="cpu", decoder=decoder, bits=None, decode_seconds=30.0),
        num_threads=2,
    )
    try:
        receipt = scorer.score(given, isolated=isolated)
    finally:
        scorer.close()
    return pq.read_table(lake.uri(str(receipt.staged)))


def sized_shard() -> ShardInput:
    """The strange files, as a plan lists them."""
    given = shard()
    refs = given.refs
    for name, value in (("bytes", 1), ("etag", "e")):
        field = schema.PLAN.field(name)
        column = pa.array([value] * len(refs), field.type)
        refs = refs.set_column(refs.schema.get_field_index(name), field, column)
    return dataclasses.replace(given, refs=refs)


def made_by(rows: pa.Table) -> set[tuple[str, ...]]:
    return {tuple(row.values()) for row in rows.select(schema.PROVENANCE.names).to_pylist()}


def test_rows_of_a_cpu_name_onnx_runtime_its_version_and_opencv(lake: Lake) -> None:
    rows = staged_rows(open_cpu(), sized_shard(), lake)
    assert made_by(rows) == {("onnxruntime", ort.__version__, "fp32", "cpu", "cpu", OPENCV)}


def test_rows_of_a_gpu_say_which_images_it_decoded_and_which_the_cpu(lake: Lake) -> None:
    checked = check_jpegs(sized_shard(), HEIGHT, WIDTH)
    runtime = DeviceRuntime(open_cpu())
    rows = staged_rows(runtime, checked, lake)
    scored = ("tensorrt", "10.1", "fp16", "a device")
    on_gpu, on_cpu = ("gpu", "a device's decoder 1.0"), ("cpu", OPENCV)
    assert made_by(rows) == {(*scored, *on_gpu), (*scored, *on_cpu)}
    plain = dict(zip(checked.refs["image_key"].to_pylist(), checked.plain or (), strict=True))
    for row in rows.to_pylist():
        assert row["decode_on"] == "cpu" or plain[row["image_key"]]
    num_given = sum(runtime.given)
    assert 0 < rows["decode_on"].to_pylist().count("gpu") < num_given


def test_images_that_are_decoded_in_a_process_of_their_own_are_of_the_cpu(lake: Lake) -> None:
    checked = check_jpegs(sized_shard(), HEIGHT, WIDTH)
    rows = staged_rows(DeviceRuntime(open_cpu()), checked, lake, isolated=True)
    assert {row[4:] for row in made_by(rows)} == {("cpu", OPENCV)}


def test_another_decoder_is_named_as_it_was_given(lake: Lake) -> None:
    named = "tests.strange_decoders:deadly"
    rows = staged_rows(open_cpu(), sized_shard(), lake, decoder=named)
    assert {row[5] for row in made_by(rows)} == {named}


def test_a_run_that_another_precision_continued_has_rows_of_both(lake: Lake) -> None:
    keys = image_keys(8, lines=("1",))
    record = begin(lake, keys, shard_images=4)
    for number, precision in enumerate(("fp32", "fp16")):
        runtime = OrtRuntime(
            GRAPHS[precision], CARD, precision=precision, batch_size=4, num_threads=1
        )
        staged_rows(runtime, planned_shard(lake, record, number), lake)
    finish(lake, record, merge(lake, record))
    found = run_query(
        lake,
        "SELECT precision, list(image_key ORDER BY image_key) AS keys FROM predictions "
        "WHERE runtime = 'onnxruntime' AND decode_on = 'cpu' GROUP BY precision",
    )
    by_precision = {row["precision"]: row["keys"] for row in found.to_pylist()}
    assert by_precision == {"fp32": keys[:4], "fp16": keys[4:]}
    entry = json.loads(lake.read(f"runs/{record.run_id}/receipts/0000001.json"))
    assert "fp16" in entry["scorer"]


def planned_shard(lake: Lake, record: RunRecord, number: int) -> ShardInput:
    group = pa.concat_tables(Plan(lake, record.run_id))
    refs = group.filter(pa.array(np.array(group["shard"]) == number))
    contents = [png(band_image(i, HEIGHT, WIDTH)) for i in range(refs.num_rows)]
    return ShardInput(
        run_id=record.run_id, plan_digest=record.plan_digest, shard=number, refs=refs,
        contents=contents, errors=[None] * refs.num_rows,
    )  # fmt: skip
