"""The order of a plan, whether its images fit in memory or not."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch.lake import Lake
from steel_batch.runs.in_order import BATCH_ROWS
from steel_batch.runs.plan import KNOWN
from steel_batch.runs.planning import build_plan
from steel_batch.sources.image_ref import ImageRef

SETTINGS = {"shard_images": 256, "shard_bytes": 1 << 30, "rescore_changed": False}


def image(number: int) -> ImageRef:
    """An image of a line that is sometimes unknown, loose or a row of a container."""
    is_row = number % 3 == 0
    key = f"é/{number:06}.jpg" if number % 5 else f"Z/{number:06}.jpg"
    return ImageRef(
        image_key=f"{key}#7" if is_row else key, image_id=str(number), date=None,
        line=None if number % 4 == 0 else f"line {number % 7}", tags={"n": str(number)},
        object_key=key, offset=7 if is_row else None, bytes=number, etag=f"e{number}",
    )  # fmt: skip


@pytest.mark.parametrize("num", [1, 500, 3 * BATCH_ROWS])
@pytest.mark.parametrize("limit", [None, 300])
def test_images_are_ordered_by_line_and_key(tmp_path: Path, num: int, limit: int | None) -> None:
    refs = [image(number) for number in range(num)]
    expected = sorted(refs, key=lambda ref: (ref.line or "", ref.image_key.encode()))[:limit]
    random.Random(1).shuffle(refs)
    info = build_plan(refs, {**SETTINGS, "max_images": limit}, tmp_path / "p")
    rows = pq.read_table(tmp_path / "p").to_pylist()
    found = [
        (r["image_key"], r["line"], dict(r["tags"]), r["object_key"], r["offset"]) for r in rows
    ]
    assert found == [(r.image_key, r.line, r.tags, r.object_key, r.offset) for r in expected]
    assert info.num_beyond_limit == num - len(expected)


def known(**etags: str) -> list[dict[str, str | None]]:
    return [{"image_key": f"{k}.jpg", "etag": e, "error_code": None} for k, e in etags.items()]


def test_an_etag_that_is_not_stated_is_looked_up_only_if_the_image_has_a_row(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    etags = {}
    for name in "abc":
        lake.write(f"{name}.jpg", name.encode())
        found = lake.stat(f"{name}.jpg")
        assert found is not None
        etags[name] = found.etag
    refs = [
        ImageRef(
            image_key=f"{name}.jpg", image_id=name, date=None, line=None,
            object_key=f"{name}.jpg", bytes=70, etag="",
        )
        for name in "abcd"
    ]  # fmt: skip
    batch = pa.RecordBatch.from_pylist(known(a=etags["a"], b="another"), schema=KNOWN)
    info = build_plan(refs, SETTINGS, tmp_path / "p", known=[batch], lake=lake)
    assert (info.num_committed, info.num_changed, info.num_images) == (1, 1, 2)
    rows = pq.read_table(tmp_path / "p").to_pylist()
    assert [(r["image_key"], r["bytes"], r["etag"]) for r in rows] == [
        ("c.jpg", 70, ""), ("d.jpg", 70, ""),
    ]  # fmt: skip
