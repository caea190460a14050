"""Receipts: the first one stands, and one that cannot be believed is scored again."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.runs.receipt import (
    READ_AT_ONCE,
    QuarantinedImage,
    Receipt,
    put_receipt,
    read_receipts,
    stage,
)
from tests.made_up_run import ENGINE, keys_of

RUN = layout.run_id(ENGINE, "2026-11-21", 1)


def receipt(shard: int = 0, **changes: object) -> Receipt:
    made = Receipt(
        run_id=RUN,
        plan_digest="d",
        shard=shard,
        num_images=1,
        num_rows=0,
        staged=None,
        staged_bytes=0,
        staged_sha256="",
        num_defective=(0, 0, 0),
        quarantined=(
            QuarantinedImage(
                image_key="bad.jpg", error_code="empty", message="nö bytes", bytes=0, etag="e"
            ),
        ),
        seconds=0.5,
        scored_at="2026-11-21T03:00:00+00:00",
        scorer="host",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def found(lake: Lake) -> list[int]:
    return sorted(r.shard for r in read_receipts(lake, RUN, "d"))


def test_a_receipt_is_read_as_it_was_written() -> None:
    assert Receipt.from_json(receipt().to_json(), source="r") == receipt()


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"7", b'{"run_id": "r"}', b"\xff\xfe", receipt().to_json()[:-20]],
)
def test_what_is_no_receipt_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Receipt.from_json(text, source="r")


def test_a_receipt_of_a_later_version_is_not_guessed_at() -> None:
    later = receipt().to_json().replace(b'"seconds"', b'"minutes"')
    with pytest.raises(ValueError, match="minutes"):
        Receipt.from_json(later, source="r")


def test_of_two_attempts_at_one_shard_the_first_receipt_stands(lake: Lake) -> None:
    first = receipt(scorer="first")
    assert put_receipt(lake, first) == first
    assert put_receipt(lake, receipt(scorer="second")) == first
    (standing,) = read_receipts(lake, RUN, "d")
    assert standing == first


def test_of_eight_attempts_at_once_all_are_told_the_same_receipt(lake: Lake) -> None:
    told: list[Receipt] = []

    def attempt(i: int) -> None:
        told.append(put_receipt(lake, receipt(scorer=f"attempt {i}")))

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 8
    assert len(set(told)) == 1


def test_staged_rows_of_two_attempts_never_overwrite_each_other(lake: Lake) -> None:
    one, one_sha256 = stage(lake, RUN, 3, b"rows")
    other, _ = stage(lake, RUN, 3, b"other rows")
    assert stage(lake, RUN, 3, b"rows") == (one, one_sha256)
    assert one != other
    assert lake.read(one) == b"rows"
    assert one_sha256[:12] in one


def test_only_receipts_that_can_be_believed_are_read_and_the_others_deleted(lake: Lake) -> None:
    staged: dict[int, dict[str, Any]] = {}
    for shard in (0, 1, 2):
        key, sha256 = stage(lake, RUN, shard, b"rows")
        staged[shard] = {
            "staged": key, "staged_sha256": sha256, "staged_bytes": 4, "num_images": 2,
            "num_rows": 1,
        }  # fmt: skip
    for made in (
        receipt(0, **staged[0]),
        receipt(1, **staged[1]),  # its staged file is lost below
        receipt(2, **{**staged[2], "staged_bytes": 5}),  # of another size
        receipt(3, plan_digest="another plan"),
        receipt(4),  # all of its images are in quarantine
    ):
        put_receipt(lake, made)
    lake.write(layout.receipt_file(RUN, 5), receipt(5).to_json()[:40])
    lake.delete([staged[1]["staged"]])
    assert found(lake) == [0, 4]
    assert keys_of(lake, layout.receipts_dir(RUN)) == {
        layout.receipt_file(RUN, shard) for shard in (0, 4)
    }
    assert found(lake) == [0, 4]


def test_receipts_are_read_however_many_there_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("many")))
    num = READ_AT_ONCE + 3
    for shard in range(num):
        lake.write(layout.receipt_file(RUN, shard), receipt(shard).to_json())
    assert found(lake) == list(range(num))
