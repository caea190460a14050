"""What a run knows of its shards, from their receipts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.lake import Lake
from steel_batch.pipeline.tally import KeySet, Tally
from steel_batch.runs.receipt import QuarantinedImage, Receipt
from tests.made_up_run import begin, image_keys


def receipt(
    shard: int, *, num_images: int, seconds: float = 2.0, bad: Sequence[QuarantinedImage] = ()
) -> Receipt:
    return Receipt(
        run_id="run", plan_digest="digest", shard=shard, num_images=num_images,
        num_rows=num_images, staged=None, staged_bytes=0, staged_sha256="", num_defective=(0,) * 4,
        quarantined=tuple(bad), seconds=seconds, scored_at="", scorer="nobody",
    )  # fmt: skip


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """Of twelve images in three shards."""
    return Tally(begin(Lake(str(tmp_path)), image_keys(12), shard_images=4), num_classes=4)


def test_images_that_were_bad_before_are_counted_apart(tmp_path: Path) -> None:
    record = begin(Lake(str(tmp_path)), image_keys(12), shard_images=4)
    keys = [f"im{n}" for n in range(100_000)]
    tally = Tally(record, num_classes=4, known_bad=KeySet(keys[1:]))
    bad = [
        QuarantinedImage(image_key=key, error_code="empty", message="m.", bytes=0, etag="")
        for key in keys[:3]
    ]
    tally.add(receipt(0, num_images=4, bad=bad))
    tally.add(receipt(1, num_images=4), resumed=True)
    assert (tally.num_quarantined, tally.num_bad_again) == (3, 2)
    assert (tally.num_resumed, tally.num_resumed_images) == (1, 4)
    assert tally.bad_codes == {"empty": 1}
    tally.forget([0])
    assert (tally.num_quarantined, tally.num_bad_again) == (0, 0)


@given(st.sets(st.text(max_size=8)), st.text(max_size=8))
def test_a_set_of_keys_knows_its_own_and_no_others(keys: set[str], other: str) -> None:
    found = KeySet(keys)
    assert all(key in found for key in keys)
    assert (other in found) == (other in keys)


def test_start_up_is_no_part_of_the_speed(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tally.progress("starting")
    now += 60.0
    tally.add(receipt(0, num_images=4))
    first = tally.progress("scoring")
    assert (first.images_per_second, first.seconds_left) == (0.0, None)
    now += 2.0
    tally.add(receipt(1, num_images=4))
    second = tally.progress("scoring")
    assert (second.images_per_second, second.seconds_left) == (2.0, 2.0)
    assert tally.images_per_second == 2.0


def test_where_all_is_scored_nothing_has_a_speed(tally: Tally) -> None:
    for shard in range(3):
        tally.add(receipt(shard, num_images=4))
        tally.progress("scoring")
    done = tally.progress("merging")
    assert (done.num_done, done.images_per_second, done.seconds_left) == (12, 0.0, None)


def test_the_speed_of_a_single_shard_is_that_of_its_scoring(tally: Tally) -> None:
    assert tally.images_per_second == 0
    tally.add(receipt(1, num_images=4), resumed=True)
    assert tally.images_per_second == 0
    tally.add(receipt(0, num_images=4, seconds=2.0))
    assert tally.images_per_second == 2


def test_a_receipt_counts_once_and_a_forgotten_one_not_at_all(tally: Tally) -> None:
    bad = QuarantinedImage(image_key="k", error_code="empty", message="", bytes=0, etag="")

    def counts() -> tuple[int, int, int, list[int], bool]:
        num_done = tally.progress("scoring").num_done
        num_bad = tally.num_quarantined
        return num_done, tally.num_rows, num_bad, tally.bad_shards, tally.is_complete

    for _ in range(2):
        tally.add(receipt(0, num_images=4, bad=[bad, bad]))
    assert counts() == (4, 2, 2, [0], False)
    tally.add(receipt(2, num_images=4, bad=[bad]))
    tally.add(receipt(1, num_images=4))
    assert counts() == (12, 9, 3, [0, 2], True)
    tally.forget([0, 1])
    assert (tally.num_shards_done, counts()) == (1, (4, 3, 1, [2], False))
    tally.add(receipt(0, num_images=4))
    assert counts() == (8, 7, 1, [2], False)
