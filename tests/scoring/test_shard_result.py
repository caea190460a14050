"""What a scoring actor says of a shard comes to the driver as it was."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from steel_batch import layout
from steel_batch.errors import (
    EngineError,
    LakeError,
    MachineError,
    SteelBatchError,
    TransientLakeError,
)
from steel_batch.runs.receipt import QuarantinedImage, Receipt
from steel_batch.scoring.shard import ShardInput
from steel_batch.scoring.shard_result import ShardResult

RUN = "2026-11-21-tiny-0123456789ab-0001"
SHA256 = "0" * 64
RECEIPT = Receipt(
    run_id=RUN, plan_digest="d", shard=3, num_images=2, num_rows=1,
    staged=layout.shard_file(RUN, 3, SHA256[:12]), staged_bytes=7, staged_sha256=SHA256,
    num_defective=(1, 0), seconds=0.5, scored_at="2026-11-21T03:00:00+00:00",
    scorer="here: nothing",
    quarantined=(
        QuarantinedImage(
            image_key="ä.png", error_code="empty", message="it has no bytes.", bytes=0, etag="e"
        ),
    ),
)  # fmt: skip
READ = ShardResult.of(ShardInput.failed(RUN, "d", 3, TransientLakeError("the store is slow.")))


def test_results_are_read_back_as_they_were_also_several_in_one_table() -> None:
    results = [
        READ,
        ShardResult(run_id=RUN, shard=3, receipt=RECEIPT, counts={"requests": 4}),
        READ.failed(MachineError("no GPU.")),
    ]
    wire = pa.concat_tables([result.to_wire() for result in results])
    assert list(ShardResult.from_wire(wire)) == results


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [(TransientLakeError("slow."), True), (LakeError("gone."), False)],
)
def test_an_error_of_the_lake_costs_the_shard(error: LakeError, is_transient: bool) -> None:
    result = READ.failed(error)
    assert (result.failure, result.transient) == (error.message, is_transient)
    result.check()


@pytest.mark.parametrize("error", [EngineError("broken."), MachineError("no GPU.")])
def test_any_other_error_is_raised_where_it_arrives(error: SteelBatchError) -> None:
    (result,) = ShardResult.from_wire(READ.failed(error).to_wire())
    with pytest.raises(type(error), match=error.message):
        result.check()
    of_a_newer_build = dataclasses.replace(result, error_kind="ErrorThatIsNotKnownHere")
    with pytest.raises(SteelBatchError, match=error.message):
        of_a_newer_build.check()
