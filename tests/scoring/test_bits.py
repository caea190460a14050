"""12 bits in samples of 16 are scored as the same picture in 8, in every place that decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from steel_batch import schema
from steel_batch.config import DECODER, DecodeSettings
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.errors import ImageError
from steel_batch.lake import Lake
from steel_batch.scoring.rows import Scores
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import ShardInput, check_jpegs
from tests.image_files import encode, good_image
from tests.scoring.test_score_jpegs import defects
from tests.tiny_engine import tiny_version

HEIGHT, WIDTH = good_image().shape
CARD, GRAPHS = tiny_version(height=HEIGHT, width=WIDTH)
IN_8 = [np.roll(good_image(), 30 * i, axis=1) for i in range(4)]


def scores(files: list[bytes], store: Path, *, bits: int | None, isolated: bool) -> Scores:
    keys = [str(i) for i in range(len(files))]
    columns = {"image_key": keys, "image_id": keys, "tags": [[] for _ in keys]}
    refs = pa.table(
        [pa.array(columns.get(f.name, [None] * len(keys)), f.type) for f in schema.PLAN],
        schema=schema.PLAN,
    )
    shard = ShardInput(
        run_id="r", plan_digest="0", shard=0, refs=refs, contents=files,
        errors=[None] * len(files),
    )  # fmt: skip
    runtime = OrtRuntime(GRAPHS["fp32"], CARD, precision="fp32", batch_size=4, num_threads=1)
    scorer = ShardScorer(
        runtime,
        CARD,
        Lake(str(store)),
        DecodeSettings(decode_on="cpu", decoder=DECODER, bits=bits, decode_seconds=None),
        num_threads=1,
    )
    try:
        return scorer.score_images(check_jpegs(shard, HEIGHT, WIDTH), isolated=isolated)
    finally:
        scorer.close()


def codes(found: Scores) -> list[str | None]:
    return [shape.code if isinstance(shape, ImageError) else None for shape in found.shapes]


@pytest.mark.parametrize("isolated", [False, True], ids=["in the actor", "in a child"])
def test_declared_bits_reach_whoever_decodes(tmp_path: Path, isolated: bool) -> None:
    expected = scores([encode(".png", i) for i in IN_8], tmp_path, bits=None, isolated=isolated)
    assert len(defects(expected).flatten())
    in_12 = [encode(".png", image.astype(np.uint16) << 4) for image in IN_8]
    found = scores(in_12, tmp_path, bits=12, isolated=isolated)
    assert codes(found) == [None] * 4
    assert defects(found).equals(defects(expected))
    np.testing.assert_array_equal(found.peak_NC, expected.peak_NC)
    undeclared = scores(in_12, tmp_path, bits=None, isolated=isolated)
    assert codes(undeclared) == ["unknown_bits"] * 4
    assert not len(defects(undeclared).flatten())
    contradicting = scores(in_12, tmp_path, bits=10, isolated=isolated)
    assert codes(contradicting) == ["wrong_bits"] * 4
