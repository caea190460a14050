"""The plan: order, shards, digest, and what is left out."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch import schema
from steel_batch.errors import LakeError, PlanMismatchError
from steel_batch.lake import Lake
from steel_batch.runs.plan import KNOWN, Plan, check_settings, texts_of
from steel_batch.runs.planning import build_plan
from steel_batch.sources.image_ref import ImageRef
from tests.conftest import examples

SETTINGS: dict[str, Any] = {"shard_images": 4, "shard_bytes": 1000, "rescore_changed": False}


def ref(key: str, line: str | None = None, size: int = 10, etag: str = "e") -> ImageRef:
    return ImageRef(
        image_key=key, image_id=key, date=None, line=line, tags={"a": "b"}, object_key=key,
        bytes=size, etag=etag,
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_images_are_ordered_by_line_and_key_whatever_the_listing_gave(tmp_path: Path) -> None:
    refs = [ref(f"k{i:03}", line=("b", "a", None)[i % 3]) for i in range(30)]
    first = build_plan(refs, SETTINGS, tmp_path / "1")
    random.Random(1).shuffle(refs)
    second = build_plan(refs, SETTINGS, tmp_path / "2")
    assert first == second
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
    found = [(row["line"] or "", row["image_key"]) for row in rows(tmp_path / "1")]
    assert found == sorted(found)
    assert (first.num_images, first.num_shards, first.bytes) == (30, 8, 300)
    assert rows(tmp_path / "1")[0]["tags"] == [("a", "b")]


def test_the_digest_covers_images_and_settings(tmp_path: Path) -> None:
    digests = {
        build_plan([ref("a"), ref("b", etag=etag)], {**SETTINGS, **changed}, tmp_path / "p").digest
        for etag in ("e", "f")
        for changed in ({}, {"engine": "other"}, {"shard_images": 1})
    }
    assert len(digests) == 6


@settings(max_examples=examples(60), deadline=None)
@given(
    sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=60),
    shard_images=st.integers(1, 9),
    shard_bytes=st.integers(1, 2000),
)
def test_shards_respect_both_limits_and_are_as_large_as_they_can_be(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_images: int, shard_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("plan") / "p"
    refs = [ref(f"k{i:03}", size=size) for i, size in enumerate(sizes)]
    limits = {"shard_images": shard_images, "shard_bytes": shard_bytes}
    info = build_plan(refs, {**SETTINGS, **limits}, path)
    shards: dict[int, list[int]] = {}
    for row in rows(path):
        shards.setdefault(row["shard"], []).append(row["bytes"])
    assert list(shards) == list(range(info.num_shards))
    assert [size for members in shards.values() for size in members] == sizes
    for shard, members in shards.items():
        assert len(members) <= shard_images
        assert sum(members) <= shard_bytes or len(members) == 1
        after = shards.get(shard + 1)
        if after:
            assert len(members) == shard_images or sum(members) + after[0] > shard_bytes


@pytest.mark.parametrize(("num_images", "sizes"), [(8, [8]), (200, [8, 100, 92])])
def test_the_first_shard_is_small_so_that_its_receipt_comes_soon(
    tmp_path: Path, num_images: int, sizes: list[int]
) -> None:
    refs = [ref(f"k{i:03}") for i in range(num_images)]
    build_plan(refs, {**SETTINGS, "shard_images": 100, "shard_bytes": 1 << 20}, tmp_path / "p")
    counts = Counter(row["shard"] for row in rows(tmp_path / "p"))
    assert [counts[shard] for shard in sorted(counts)] == sizes


def test_the_digest_is_of_a_text_that_is_made_in_pieces() -> None:
    num = 30_000
    table = pa.table(
        {
            "shard": [n // 500 for n in range(num)],
            "image_key": [f"key {n}" for n in range(num)],
            "image_id": [f"{n}" for n in range(num)],
            "line": [None if n % 3 else "7" for n in range(num)],
            "tags": [[("camera", "é"), ("empty", None)][: n % 3] for n in range(num)],
            "object_key": [None if n % 2 else "a.tar" for n in range(num)],
            "offset": [None if n % 2 else n for n in range(num)],
            "bytes": [*range(num)],
            "etag": ["e"] * num,
        },
        schema=schema.PLAN,
    )
    names = ["shard", "image_key", "line", "offset", "bytes", "etag", "image_id", "object_key"]
    rows = table.to_pylist()
    lines = ["\t".join("" if r[n] is None else str(r[n]) for n in names) for r in rows]
    lines.append(" ".join(str(len(r["tags"])) for r in rows))
    lines += [f"{name}\t{value or ''}" for r in rows for name, value in r["tags"]]
    pieces = [*texts_of(table, 3)]
    assert b"".join(pieces).decode().split("\n") == [*lines, ""]
    assert max(map(len, pieces)) * 3 < sum(map(len, pieces))


def known(*pairs: tuple[str, str]) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pylist(
        [{"image_key": key, "etag": etag} for key, etag in pairs], schema=KNOWN
    )


def set_aside(*entries: tuple[str, str, str]) -> Iterator[pa.RecordBatch]:
    """Of images in quarantine: key, etag, code."""
    yield pa.RecordBatch.from_pylist(
        [dict(zip(KNOWN.names, entry, strict=True)) for entry in entries], schema=KNOWN
    )


def test_a_quarantined_image_is_planned_again_only_if_it_is_another_one(tmp_path: Path) -> None:
    refs = [ref("same"), ref("whole_since", etag="new"), ref("back"), ref("settled"), ref("late")]
    entries = [
        ("same", "e", "truncated"), ("whole_since", "half", "truncated"), ("back", "e", "missing"),
        ("settled", "e", "changed"), ("gone", "e", "empty"),
    ]  # fmt: skip

    def planned(is_seen: bool, **settings: bool) -> tuple[list[str], tuple[int, ...]]:
        info = build_plan(
            refs, {**SETTINGS, **settings}, tmp_path / "p", known=set_aside(*entries),
            is_seen=is_seen,
        )  # fmt: skip
        counts = (info.num_committed, info.num_changed, info.num_retried, info.num_gone)
        return [row["image_key"] for row in rows(tmp_path / "p")], counts

    assert planned(False) == (["late", "whole_since"], (3, 0, 1, 1))
    # Where images are listed as they lie, one that nobody could read then is there now.
    assert planned(True) == (["back", "late", "settled", "whole_since"], (1, 0, 3, 1))
    every = ["back", "late", "same", "settled", "whole_since"]
    assert planned(False, retry_quarantined=True) == (every, (0, 0, 4, 1))


def test_an_image_that_has_a_row_is_not_tried_again_for_an_entry_beside_it(tmp_path: Path) -> None:
    both = [*known(("x", "e")), *set_aside(("x", "old", "truncated"))]
    settings = {**SETTINGS, "retry_quarantined": True}
    info = build_plan([ref("x")], settings, tmp_path / "p", known=both)
    assert (info.num_images, info.num_committed, info.num_retried) == (0, 1, 0)


def test_committed_images_are_left_out_and_changed_ones_counted(tmp_path: Path) -> None:
    refs = [ref("same"), ref("changed", etag="new"), ref("late")]
    pairs = (("same", "e"), ("changed", "old"), ("gone", "e"))
    info = build_plan(refs, SETTINGS, tmp_path / "p", known=known(*pairs))
    assert (info.num_images, info.num_committed, info.num_changed) == (1, 1, 1)
    assert info.num_gone == 1
    assert [row["image_key"] for row in rows(tmp_path / "p")] == ["late"]
    again = {**SETTINGS, "rescore_changed": True}
    info = build_plan(refs, again, tmp_path / "p", known=known(*pairs))
    assert [row["image_key"] for row in rows(tmp_path / "p")] == ["changed", "late"]


@settings(max_examples=examples(36))
@given(limit=st.integers(1, 9), rescore=st.booleans(), retry=st.booleans())
def test_a_limit_takes_the_first_images_and_counts_the_others(
    tmp_path_factory: pytest.TempPathFactory, limit: int, rescore: bool, retry: bool
) -> None:
    path = tmp_path_factory.mktemp("plan") / "p"
    keys = ("a", "b", "changed", "d", "done", "held", "other")
    refs = [ref(key, etag="new" if key in ("changed", "other") else "e") for key in keys]
    before = [
        *known(("changed", "old"), ("done", "e")),
        *set_aside(("held", "e", "empty"), ("other", "old", "empty")),
    ]
    choice = {**SETTINGS, "rescore_changed": rescore, "retry_quarantined": retry}
    whole = build_plan(refs, choice, path, known=before)
    every = [row["image_key"] for row in rows(path)]
    part = build_plan(refs, {**choice, "max_images": limit}, path, known=before)
    first = [row["image_key"] for row in rows(path)]
    assert first == every[:limit]
    assert (part.num_images, part.num_beyond_limit) == (len(first), len(every) - len(first))
    assert part.num_retried == len({"held", "other"} & {*first})
    counts = ("num_committed", "num_changed", "num_gone")
    assert [getattr(part, name) for name in counts] == [getattr(whole, name) for name in counts]
    assert part.digest != whole.digest


def test_a_plan_of_nothing_is_a_plan(tmp_path: Path) -> None:
    info = build_plan([], SETTINGS, tmp_path / "p")
    assert (info.num_images, info.num_shards) == (0, 0)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "runs/r").mkdir(parents=True)
    refs = (ref(f"k{i:06}") for i in range(20_000))
    build_plan(refs, {**SETTINGS, "shard_images": 3}, tmp_path / "runs/r/plan.parquet")
    return tmp_path


def test_row_groups_hold_whole_shards_and_are_few(large: Path) -> None:
    plan = Plan(Lake(str(large)), "r")
    ranges = plan.ranges()
    assert len(ranges) <= 1024
    assert ranges[0].first_shard == 0
    assert ranges[-1].last_shard == plan.info.num_shards - 1
    for before, after in itertools.pairwise(ranges):
        assert after.first_shard == before.last_shard + 1
    some = ranges[7]
    shards = plan.read_group(7)["shard"].unique().to_pylist()
    assert shards == list(range(some.first_shard, some.last_shard + 1))


def test_a_plan_that_another_one_was_written_over_is_noticed(large: Path) -> None:
    digest = Plan(Lake(str(large)), "r").info.digest
    assert Plan(Lake(str(large)), "r", digest=digest).info.digest == digest
    build_plan([ref("other")], SETTINGS, large / "runs/r/plan.parquet")
    with pytest.raises(PlanMismatchError, match=f"started with {digest[:12]}: .*--fresh"):
        Plan(Lake(str(large)), "r", digest=digest)


def test_a_damaged_plan_is_refused_or_reads_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "runs/r/plan.parquet"
    path.parent.mkdir(parents=True)
    build_plan((ref(f"k{i:04}") for i in range(100)), SETTINGS, path)
    whole = path.read_bytes()
    store = Lake(str(tmp_path))
    groups = list(Plan(store, "r"))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    rng = random.Random(4)
    refused = []
    for place in rng.sample(range(4, footer), 100):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        try:
            assert list(Plan(store, "r")) == groups
        except LakeError as error:
            refused.append(error.message)
    assert len(refused) > 50, "most bytes matter"
    assert all("plan.parquet is damaged: " in message for message in refused)
    for length in (0, 3, footer, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LakeError, match=r"is damaged: .*--fresh"):
            Plan(store, "r")


def test_memory_does_not_grow_with_images(tmp_path: Path) -> None:
    def peak(num: int) -> int:
        tracemalloc.start()
        refs = (ref(f"line/{i:07}") for i in range(num))
        build_plan(refs, {**SETTINGS, "shard_images": 256, "shard_bytes": 1 << 30}, tmp_path / "p")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1000)
    assert peak(40_000) < 1.5 * peak(20_000)


def test_other_settings_are_shown_side_by_side() -> None:
    with pytest.raises(PlanMismatchError, match=r"shard_images was 4 and is now 8.*--fresh"):
        check_settings("r", SETTINGS, {**SETTINGS, "shard_images": 8})
    check_settings("r", SETTINGS, dict(SETTINGS))
    with pytest.raises(PlanMismatchError, match="started by `score`, not by `quarantine retry`"):
        check_settings("r", {"retry_quarantined": False}, {"retry_quarantined": True})


def test_an_error_of_the_listing_is_raised_as_it_is(tmp_path: Path) -> None:
    def failing() -> Iterator[ImageRef]:
        yield from ()
        raise LakeError("the bucket is gone.")

    with pytest.raises(LakeError, match=r"^the bucket is gone\.$"):
        build_plan(failing(), {}, tmp_path / "plan.parquet")


def test_images_that_were_committed_under_a_backups_time_are_not_planned_again(
    tmp_path: Path,
) -> None:
    committed = {
        "s.tar#14712345670/a.jpg": "e", "s.tar#14712345670/d/b.jpg": "e",
        "s.tar#14712345670/c.jpg": "of another tar", "s.tar#14712345670/own.jpg": "e",
    }  # fmt: skip
    listed = ["s.tar#a.jpg", "s.tar#d/b.jpg", "s.tar#c.jpg", "s.tar#new.jpg", "s.tar#own.jpg",
              "s.tar#14712345670/own.jpg"]  # fmt: skip
    known = pa.RecordBatch.from_pylist(
        [{"image_key": key, "etag": etag} for key, etag in committed.items()], schema=KNOWN
    )
    info = build_plan(map(ref, listed), SETTINGS, tmp_path / "p", known=[known])
    planned = {row["image_key"] for row in rows(tmp_path / "p")}
    assert planned == {"s.tar#c.jpg", "s.tar#new.jpg", "s.tar#own.jpg"}
    assert (info.num_committed, info.num_changed, info.num_gone) == (3, 0, 1)
