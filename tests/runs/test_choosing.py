"""Which images are planned, against the same rules in plain Python, in any number of groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.database import scratch_database
from steel_batch.runs.choosing import CHOSEN, OF_A_MOMENT, Counts, choose
from steel_batch.runs.in_order import SORTED
from steel_batch.runs.other_keys import ROWS
from steel_batch.runs.plan import KNOWN
from tests.conftest import examples

Listed = tuple[str, str]
"""Key and etag."""
Known = tuple[str, str, str | None]
"""Key, etag and code."""

KEYS = st.sampled_from([*"abcdefghi", *(f"s.tar#{name}" for name in "ab")])
ETAGS = st.sampled_from(["", "e", "f"])
LISTED = st.lists(st.tuples(KEYS, ETAGS), max_size=30)
CODES = st.none() | st.sampled_from(["empty", "missing"])
KNOWN_IMAGES = st.lists(st.tuples(KEYS | st.just("s.tar#14712345670/a"), ETAGS, CODES), max_size=30)


def listed_batches(images: Sequence[Listed], rows: int) -> list[pa.RecordBatch]:
    table = pa.Table.from_pylist(
        [{"image_key": key, "image_id": key, "tags": [("n", str(number))], "bytes": 7, "etag": etag}
         for number, (key, etag) in enumerate(images)],
        schema=SORTED,
    )  # fmt: skip
    return list(table.to_batches(max_chunksize=rows))


def known_batches(images: Sequence[Known], rows: int) -> list[pa.RecordBatch]:
    fields = [dict(zip(KNOWN.names, image, strict=True)) for image in images]
    return list(pa.Table.from_pylist(fields, schema=KNOWN).to_batches(max_chunksize=rows))


def chosen(
    listed: Sequence[Listed], known: Sequence[Known], *, rows: int = 7, is_seen: bool = False,
    rescore: bool = False, retry: bool = False, **sizes: int,
) -> tuple[list[tuple[str, str, str, bool]], tuple[int, ...]]:  # fmt: skip
    """Each chosen image with its number, sorted; and the counts."""
    counts = Counts()
    with scratch_database() as con:
        batches = list(
            choose(
                con, known_batches(known, rows), listed_batches(listed, rows),
                {"rescore_changed": rescore, "retry_quarantined": retry}, counts,
                is_seen=is_seen, rows=lambda: (), lake=None, **sizes,
            )
        )  # fmt: skip
    assert all(batch.schema.equals(CHOSEN) for batch in batches)
    found = [row for batch in batches for row in batch.to_pylist()]
    return sorted(
        (row["image_key"], row["etag"], dict(row["tags"])["n"], row["is_retried"]) for row in found
    ), (
        counts.num_listed, counts.num_wanted, counts.num_committed, counts.num_changed,
        counts.num_retried, counts.num_gone,
    )  # fmt: skip


def by_hand(
    listed: Sequence[Listed], known: Sequence[Known], *, is_seen: bool, rescore: bool, retry: bool
) -> tuple[list[tuple[str, str, str, bool]], tuple[int, ...]]:
    with_row = {key for key, _, code in known if code is None}
    known = [image for image in known if image[2] is None or image[0] not in with_row]
    num_known, keys = len(known), {key for key, _ in listed}
    former = {
        (key.replace("14712345670/", ""), etag, code)
        for key, etag, code in known
        if "14712345670/" in key and key not in keys
    }
    known_keys = {key for key, _, _ in known}
    known += [image for image in former if image[:2] in {*listed} and image[0] not in known_keys]
    pairs: list[tuple[str, str, str, str | None, str | None]] = []
    for number, (key, etag) in enumerate(listed):
        before = [(image[1], image[2]) for image in known if image[0] == key]
        if before:
            pairs += [(key, etag, str(number), *image) for image in before]
        else:
            pairs.append((key, etag, str(number), None, None))
    found, num = [], dict.fromkeys(("committed", "changed", "retried"), 0)
    for key, etag, place, old, code in pairs:
        is_retried = code is not None and (
            retry or old != etag or (is_seen and code in OF_A_MOMENT)
        )
        if old is not None:
            kind = "retried" if is_retried else "committed" if old == etag else "changed"
            num[kind] += 1
        if old is None or is_retried or (rescore and old != etag):
            found.append((key, etag, place, is_retried))
    return sorted(found), (len(pairs), len(found), *num.values(), num_known - sum(num.values()))


@settings(max_examples=examples(60), deadline=None)
@given(
    listed=LISTED, known=KNOWN_IMAGES, is_seen=st.booleans(), rescore=st.booleans(),
    retry=st.booleans(), part_bytes=st.integers(1, 3000), group_bytes=st.integers(1, 3000),
)  # fmt: skip
def test_any_images_in_any_groups_are_chosen_as_by_hand(
    listed: list[Listed], known: list[Known], is_seen: bool, rescore: bool, retry: bool,
    part_bytes: int, group_bytes: int,
) -> None:  # fmt: skip
    expected = by_hand(listed, known, is_seen=is_seen, rescore=rescore, retry=retry)
    assert expected == chosen(
        listed, known, part_bytes=part_bytes, group_bytes=group_bytes,
        is_seen=is_seen, rescore=rescore, retry=retry,
    )  # fmt: skip
    assert chosen(listed, known, is_seen=is_seen, rescore=rescore, retry=retry) == expected


@pytest.mark.parametrize("num", [20_000])
def test_images_that_do_not_fit_in_a_part_are_compared_on_disk(num: int) -> None:
    keys = [f"line={n % 7}/{n:06}.jpg" for n in range(num)]
    listed = [(key, f"e{n}") for n, key in enumerate(keys)]
    known: list[Known] = [(key, f"e{n}", None) for n, key in enumerate(keys)]
    known[5], known[6] = (keys[5], "old", None), (keys[6], "old", "truncated")
    late = [("late", "e"), ("late", "e")]
    found, counts = chosen(
        [*listed, *late], [*known, ("gone", "e", None)], rows=1000, part_bytes=100_000,
        group_bytes=300_000,
    )  # fmt: skip
    assert [key for key, *_ in found] == ["late", "late", keys[6]]
    assert counts == (num + 2, 3, num - 2, 1, 1, 1)


def test_rows_of_keys_that_are_gone_are_compared_in_groups_too() -> None:
    num = 5000
    listed = listed_batches([(f"new/{n}", f"e{n}") for n in range(num)], 500)
    known = known_batches([(f"old/{n}", f"e{n}", None) for n in range(num)], 500)
    fields = [
        {"image_key": f"old/{n}", "image_id": str(n), "bytes": 7 if n % 2 else 8, "etag": f"e{n}"}
        for n in range(num)
    ]
    rows = pa.Table.from_pylist(fields, schema=ROWS).to_batches(max_chunksize=500)
    counts = Counts()
    with scratch_database() as con:
        batches = choose(
            con, known, listed, {"rescore_changed": False}, counts,
            is_seen=True, rows=lambda: rows, lake=None, part_bytes=40_000, group_bytes=50_000,
        )  # fmt: skip
        assert sum(batch.num_rows for batch in batches) == num
    assert (counts.num_gone, counts.num_other_keys) == (num, num // 2)
    assert counts.example_other_keys == ("new/1", "old/1")


@pytest.mark.slow
def test_a_late_image_takes_the_same_memory_however_many_have_a_row(tmp_path: Path) -> None:
    peaks = []
    for num in (100_001, 800_001):
        done = subprocess.run(
            [sys.executable, "-m", "tests.runs.one_late_image", str(num)],
            check=True, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["planned"] == 1
        peaks.append(found["peak_mib"])
    assert peaks[1] < peaks[0] + 60, peaks
