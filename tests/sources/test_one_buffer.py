"""A shard's images that lie in one buffer are sent as they lie there, and others in a new one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import schema
from steel_batch.config import LIMITS
from steel_batch.errors import DecodeError
from steel_batch.lake import Lake
from steel_batch.scoring.shard import ShardInput, read_shards
from steel_batch.sources import fetch
from steel_batch.sources.parquet_front import ParquetFront
from tests.sources.test_parquet import refs_of
from tests.sources.test_plain_values import file_of

IMAGES = [bytes([row]) * (1000 + row) for row in range(96)]
GROUP = 16


def address(data: Any) -> int:
    return int(pa.py_buffer(data).address)


def sent(shard: ShardInput) -> tuple[bool, int]:
    """Whether a shard's images were sent without a copy, and how many bytes were sent."""
    table = shard.to_wire()
    found = ShardInput.from_wire(table)
    assert [None if c is None else bytes(c) for c in found.contents] == [
        None if c is None else bytes(c) for c in shard.contents
    ]
    _, _, data = table["data"].chunk(0).buffers()
    there = [content for content in shard.contents if content]
    return address(there[0]) == data.address, data.size


def shares_memory(shard: ShardInput) -> bool:
    return len({id(c.obj) for c in shard.contents if isinstance(c, memoryview)}) == 1


def shard_of(lake: Lake, tmp_path: Path, rows: Sequence[int]) -> ShardInput:
    """Some rows of the lake's images, in order of their keys, as one shard."""
    refs = refs_of(lake, tmp_path).sort_by("image_key").take(list(rows))
    place = refs.schema.get_field_index("shard")
    field = refs.schema.field(place)
    refs = refs.set_column(place, field, pa.array([0] * len(refs), field.type))
    (shard,) = read_shards(lake, "r", "d", refs, [0])
    return shard


@pytest.mark.parametrize("options", [{}, {"data_page_size": 3000, "write_batch_size": 4}])
@pytest.mark.parametrize("nullable", [True, False])
def test_row_groups_are_read_into_one_buffer_and_sent_from_it(
    folder_daily: Lake, tmp_path: Path, options: dict[str, Any], nullable: bool
) -> None:
    how = {"row_group_size": GROUP, "write_statistics": False, **options}  # none of real images
    data = file_of(IMAGES, nullable=nullable, **how)
    folder_daily.write("p.parquet", data)
    rows = range(8, 72)  # the first and the last of five row groups only in part
    shard = shard_of(folder_daily, tmp_path, rows)
    assert shard.contents == [IMAGES[row] for row in rows]
    is_same, num_bytes = sent(shard)
    assert is_same
    assert num_bytes <= 1.1 * sum(len(IMAGES[row]) for row in rows)


@pytest.mark.parametrize(
    "data",
    [
        file_of([*IMAGES[:40], None, *IMAGES[41:]], row_group_size=GROUP),
        file_of(IMAGES, row_group_size=GROUP, compression="zstd"),
        file_of(IMAGES, row_group_size=GROUP, use_dictionary=True),
    ],
    ids=["a null", "compressed", "a dictionary"],
)
def test_what_arrow_decodes_is_sent_in_a_buffer_of_its_own(
    folder_daily: Lake, tmp_path: Path, data: bytes
) -> None:
    folder_daily.write("p.parquet", data)
    shard = shard_of(folder_daily, tmp_path, range(96))
    expected = pq.read_table(io.BytesIO(data))["image"].to_pylist()
    assert shard.contents == expected
    assert [row for row, error in enumerate(shard.errors) if error] == [
        row for row, image in enumerate(expected) if image is None
    ]
    assert not sent(shard)[0]


def test_few_rows_of_each_row_group_are_copied_and_the_rest_is_not_kept(
    folder_daily: Lake, tmp_path: Path
) -> None:
    folder_daily.write("p.parquet", file_of(IMAGES, row_group_size=GROUP))
    rows = range(0, 96, 8)
    shard = shard_of(folder_daily, tmp_path, rows)
    assert shard.contents == [IMAGES[row] for row in rows]
    assert all(isinstance(content, bytes) for content in shard.contents)
    assert sent(shard) == (False, sum(len(IMAGES[row]) for row in rows))


def test_small_images_do_not_keep_a_large_one_that_is_not_wanted(
    folder_daily: Lake, tmp_path: Path
) -> None:
    images = [bytes([row]) * 1000 for row in range(95)]
    folder_daily.write("p.parquet", file_of([*images, bytes(1 << 20)], row_group_size=96))
    shard = shard_of(folder_daily, tmp_path, range(64))  # planned with their average
    assert shard.contents == images[:64]
    assert all(isinstance(content, bytes) for content in shard.contents)


def test_no_buffer_is_larger_than_a_limit(
    folder_daily: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes may be planned by a column of the file itself, which states any number."""
    folder_daily.write("p.parquet", file_of(IMAGES, row_group_size=GROUP))
    assert shares_memory(shard_of(folder_daily, tmp_path, range(96)))
    monkeypatch.setattr(fetch, "BUFFER_BYTES", 1 << 16)
    shard = shard_of(folder_daily, tmp_path, range(96))
    assert shard.contents == IMAGES
    assert not shares_memory(shard)


def test_a_shard_of_two_files_has_the_images_of_both(folder_daily: Lake, tmp_path: Path) -> None:
    for name, images in (("a", IMAGES[:40]), ("b", IMAGES[40:])):
        folder_daily.write(f"{name}.parquet", file_of(images, row_group_size=GROUP))
    shard = shard_of(folder_daily, tmp_path, range(96))
    assert shard.contents == IMAGES
    assert sent(shard) == (False, sum(map(len, IMAGES)))


def test_a_file_that_ends_early_is_damaged_and_not_read_as_what_was_there_before(
    lake: Lake,
) -> None:
    data = file_of(IMAGES, row_group_size=GROUP)
    with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
        front._held._stream = io.BytesIO(data[:20_000])  # as if it shrank while it was read
        assert front.reserve([0, 1], "image", len(data))
        front.open_group(0, ["image"])
        with pytest.raises(pa.ArrowException, match="ends early: only 1,360 of 18,526 bytes"):
            front.open_group(1, ["image"])


def test_a_buffer_is_not_larger_than_it_may_be() -> None:
    data = file_of(IMAGES, row_group_size=GROUP)
    with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
        assert front.reserve([0, 1], "image", 40_000)
        assert not front.reserve([0, 1], "image", 30_000)
        assert not front.reserve([0, 1], "n", 40_000), "numbers are not images"
        assert not front.reserve([0, 1], "nowhere", 40_000)
    for options in ({"use_dictionary": True}, {"row_group_size": 16_384}):
        data = file_of(IMAGES * 100, **options)
        with ParquetFront(io.BytesIO(data), len(data), LIMITS) as front:
            assert not front.reserve([0], "image", len(data)), "Arrow decodes it"


def shard_with(contents: Sequence[bytes | memoryview | None]) -> ShardInput:
    error = DecodeError("It is not there.", code="missing")
    return ShardInput(
        run_id="r", plan_digest="d", shard=0, refs=schema.PLAN.empty_table(),
        contents=contents, errors=[error if content is None else None for content in contents],
    )  # fmt: skip


def test_images_with_much_between_them_are_sent_without_it() -> None:
    whole = memoryview(bytes(range(200)))
    assert sent(shard_with([whole[0:80], None, whole[85:165]])) == (True, 165)
    assert sent(shard_with([whole[0:80], None, whole[120:200]])) == (False, 160)


def test_an_image_that_several_rows_refer_to_is_sent_once() -> None:
    whole = memoryview(bytes(range(200)))
    assert sent(shard_with([whole[10:110]] * 3)) == (True, 100)


def test_bytes_and_views_and_images_without_bytes_are_sent_together() -> None:
    whole = memoryview(bytes(range(200)))
    assert sent(shard_with([b"", whole[0:100], b"abc", whole[100:200], None])) == (False, 203)
    assert ShardInput.from_wire(shard_with([None, None]).to_wire()).contents == [None, None]
    assert ShardInput.from_wire(shard_with([b"", whole[3:3]]).to_wire()).contents == [b"", b""]
    assert ShardInput.from_wire(shard_with([]).to_wire()).contents == []
