"""Images under another key than that of their row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steel_batch.database import scratch_database
from steel_batch.runs.other_keys import NEW, ROWS, find_other_keys
from steel_batch.runs.plan import KNOWN, PlanInfo
from steel_batch.runs.planning import build_plan
from steel_batch.sources.image_ref import ImageRef

SETTINGS = {"shard_images": 9, "shard_bytes": 1 << 20, "rescore_changed": False}


def ref(key: str, **fields: Any) -> ImageRef:
    name = key.rpartition("#")[2].rpartition("/")[2]
    values = {
        "image_key": key, "object_key": key.partition("#")[0], "image_id": name.partition(".")[0],
        "line": "1", "date": None, "bytes": 1000, "etag": f"of {name}",
    }  # fmt: skip
    return ImageRef(**values | fields)


def planned(path: Path, listed: list[ImageRef], committed: list[ImageRef]) -> PlanInfo:
    known = pa.RecordBatch.from_pylist(
        [{"image_key": one.image_key, "etag": one.etag} for one in committed], schema=KNOWN
    )
    rows = pa.RecordBatch.from_pylist(
        [{name: getattr(one, name) for name in ROWS.names} for one in committed], schema=ROWS
    )
    return build_plan(listed, SETTINGS, path / "plan", known=[known], rows=lambda: [rows])


LOOSE = [ref(f"line=1/a{i}.jpg") for i in range(4)]
PACKED = [ref(f"s.tar#line=1/a{i}.jpg", etag="of the tar") for i in range(4)]


@pytest.mark.parametrize(
    ("listed", "committed", "expected"),
    [
        (PACKED, LOOSE, 4),
        (LOOSE, PACKED, 4),
        ([*LOOSE[:2], *PACKED[2:]], LOOSE, 2),
        ([*LOOSE, ref("line=1/new.jpg")], LOOSE, 0),
        ([*LOOSE, *PACKED], LOOSE, 0),
        ([ref("line=2/a0.jpg", line="2"), *LOOSE[1:]], LOOSE, 1),
        ([ref("line=1/renamed.jpg", etag=LOOSE[0].etag), *LOOSE[1:]], LOOSE, 1),
        ([ref("line=2/a0.jpg", line="2", etag="other"), *LOOSE[1:]], LOOSE, 0),
        ([ref("hour=2/a0.jpg", bytes=999, etag="other"), *LOOSE[1:]], LOOSE, 0),
        ([ref("r.parquet#1", bytes=0, image_id="a0", etag=""), *LOOSE[1:]], LOOSE, 0),
    ],
    ids=[
        "packed since", "unpacked since", "half of them packed", "a late one", "both listed",
        "moved to another line", "renamed", "another of that name", "another size", "no size",
    ],
)  # fmt: skip
def test_an_image_whose_row_has_a_key_that_is_gone_is_found(
    tmp_path: Path, listed: list[ImageRef], committed: list[ImageRef], expected: int
) -> None:
    info = planned(tmp_path, listed, committed)
    assert info.num_other_keys == expected
    if info.example_other_keys is not None:
        now, before = info.example_other_keys
        assert now in {one.image_key for one in listed}
        assert before in {one.image_key for one in committed} - {one.image_key for one in listed}


def test_any_number_of_equal_images_may_have_moved(tmp_path: Path) -> None:
    """As black ones do; pairs of each with each would be a billion."""
    num = 30_000
    black = {"etag": "black", "bytes": 700}
    started = time.process_time()
    info = planned(
        tmp_path,
        [ref(f"new/{number}.jpg", image_id=f"n{number}", **black) for number in range(num)],
        [ref(f"old/{number:05}.jpg", image_id=f"o{number}", **black) for number in range(num)],
    )
    assert info.num_other_keys == num
    assert info.example_other_keys == ("new/0.jpg", "old/00000.jpg")
    assert time.process_time() - started < 12, "pairs took 30 s"


@pytest.mark.slow
def test_equal_images_may_have_more_than_2_gib_of_keys() -> None:
    """They are compared at once, and Arrow's ordinary strings end there. Takes 5 GB of memory."""
    num, length = 8192, 1 << 10
    black = {"image_id": "black", "line": "1", "bytes": 700, "etag": "black"}

    def images() -> Iterator[tuple[pa.Table, pa.Table]]:
        for start in range(0, (2 << 30) // length + num, num):
            keys = [f"{number:0{length}}" for number in range(start, start + num)]
            rows = pa.table({"image_key": keys, **{n: [v] * num for n, v in black.items()}})
            new = pa.Table.from_pylist([{"image_key": f"new{start}", **black}], NEW)
            yield rows.cast(ROWS), new

    with scratch_database() as con:
        found = find_other_keys(con, images())
    assert found == (257, ("new0", "0" * length))


def test_rows_are_read_only_where_a_key_is_gone(tmp_path: Path) -> None:
    known = pa.RecordBatch.from_pylist(
        [{"image_key": one.image_key, "etag": one.etag} for one in LOOSE], schema=KNOWN
    )

    def rows() -> list[pa.RecordBatch]:
        raise AssertionError

    listed = [*LOOSE, ref("line=1/new.jpg")]
    assert build_plan(listed, SETTINGS, tmp_path / "p", known=[known], rows=rows).num_images == 1
