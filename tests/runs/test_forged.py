"""Who can write a store is not believed: plans and receipts are held against what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import layout
from steel_batch.errors import LakeError, PlanMismatchError
from steel_batch.lake import Lake
from steel_batch.runs.plan import Plan
from steel_batch.runs.planning import build_plan
from steel_batch.runs.receipt import put_receipt, read_receipts, stage
from steel_batch.runs.record import read_run
from tests.conftest import KINDS_OF_LAKE, folder_daily
from tests.runs.test_plan import SETTINGS, ref
from tests.runs.test_receipt import RUN, receipt

lake = folder_daily

PLAN = "runs/r/plan.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    (tmp_path / "runs/r").mkdir(parents=True)
    refs = (ref(f"k{i:03}") for i in range(40))
    build_plan(refs, {**SETTINGS, "shard_images": 4}, tmp_path / PLAN)
    return Lake(str(tmp_path))


def forge(store: Lake, change: dict[str, list[Any]], **footer: object) -> None:
    """Write a plan again with other values in a column, under the footer that it had."""
    path = Path(store.uri(PLAN))
    old = table = pq.read_table(path)
    key = b"steel_batch.plan"
    info = json.loads(pq.ParquetFile(path).metadata.metadata[key]) | footer
    for name, values in change.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, old.schema.field(name), [pa.array(values, old[name].type)])
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({key: json.dumps(info).encode()})


def test_a_plan_is_what_its_digest_says(store: Lake) -> None:
    Plan(store, "r").check()


@pytest.mark.parametrize("name", ["image_key", "shard", "bytes", "etag", "object_key", "offset"])
def test_a_plan_with_another_value_in_a_column_is_refused(store: Lake, name: str) -> None:
    values = pq.read_table(store.uri(PLAN))[name].to_pylist()
    values[7] = {"shard": 0, "bytes": 1 << 40, "offset": 3}.get(name, "other")
    forge(store, {name: values})
    with pytest.raises((PlanMismatchError, LakeError), match=r"plan\.parquet (was changed|is dam)"):
        Plan(store, "r").check()


def test_a_plan_of_fewer_rows_or_other_counts_is_refused(store: Lake) -> None:
    whole = Path(store.uri(PLAN)).read_bytes()
    for footer in ({"num_images": 39}, {"num_shards": 11}, {"settings": {"shard_images": 5}}):
        Path(store.uri(PLAN)).write_bytes(whole)
        forge(store, {}, **footer)
        with pytest.raises(PlanMismatchError, match="was changed: it has 40 images in 10 shards"):
            Plan(store, "r").check()


@pytest.mark.parametrize(
    "footer", [{"num_images": "40"}, {"settings": []}, {"example_other_keys": 3}, {"digest": None}]
)
def test_a_plan_whose_footer_is_of_other_types_is_one_sentence(
    store: Lake, footer: dict[str, object]
) -> None:
    forge(store, {}, **footer)
    with pytest.raises(LakeError, match=r"plan\.parquet is damaged: '"):
        Plan(store, "r")


def test_shards_that_a_plan_does_not_have_are_refused(store: Lake) -> None:
    forge(store, {"shard": [0] * 20 + [1 << 30] * 20})
    with pytest.raises(LakeError, match="row group 0 has the shards 0 to 1073741824"):
        Plan(store, "r").ranges()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_images": "1"}, {"num_images": 2}, {"num_rows": -1, "num_images": 0},
        {"num_defective": [0, 0]}, {"num_defective": [1, 0, 0]}, {"num_defective": [0.5, 0, 0]},
        {"shard": 1}, {"shard": -1}, {"run_id": "another"}, {"quarantined": [{}]},
        {"seconds": "long"}, {"seconds": 1e999}, {"scored_at": "yesterday"}, {"scorer": None},
        {"staged": "registry/demo/card.json"}, {"staged": 3}, {"plan_digest": ["d"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_receipt_is_deleted_and_its_shard_scored_again(
    lake: Lake, changes: dict[str, object]
) -> None:
    lake.write(layout.receipt_file(RUN, 0), json.dumps(made(**changes)).encode())
    assert list(read_receipts(lake, RUN, "d", num_shards=4, num_classes=3)) == []
    assert lake.stat(layout.receipt_file(RUN, 0)) is None


def made(**changes: object) -> dict[str, object]:
    raw: dict[str, object] = json.loads(receipt().to_json())
    return raw | changes


@pytest.mark.parametrize("where", ["shards", "elsewhere"])
def test_a_receipt_names_no_rows_but_those_of_its_shard(lake: Lake, where: str) -> None:
    """Else the rows of one shard would count as another's, or any file be taken for rows."""
    key, sha256 = stage(lake, RUN, 3, b"rows")
    if where == "elsewhere":
        key = "secret"
        lake.write(key, b"rows")
    of_another = made(
        staged=key, staged_sha256=sha256, staged_bytes=4, num_images=2, num_rows=1, shard=2
    )
    lake.write(layout.receipt_file(RUN, 2), json.dumps(of_another).encode())
    assert list(read_receipts(lake, RUN, "d", num_shards=4, num_classes=3)) == []
    assert lake.read(key) == b"rows"


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_a_receipt_beyond_the_plan_is_deleted(lake: Lake) -> None:
    put_receipt(lake, receipt(4))
    assert list(read_receipts(lake, RUN, "d", num_shards=4)) == []


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_a_receipt_that_was_put_first_and_is_none_is_one_sentence(lake: Lake) -> None:
    for data in (b"[" * 100_000, json.dumps(made(shard=1)).encode(), b"{}"):
        lake.write(layout.receipt_file(RUN, 0), data)
        with pytest.raises(LakeError, match=r"is not the receipt of its shard: .*scored again"):
            put_receipt(lake, receipt())


@pytest.mark.parametrize(
    "changes", [{"num_shards": 10**12}, {"num_shards": -1}, {"num_images": "9"}, {"settings": 3}]
)
def test_a_forged_record_of_a_run_is_one_sentence(lake: Lake, changes: dict[str, object]) -> None:
    record = {
        "run_id": RUN, "engine": "e", "date": "2026-11-21", "created_at": "", "plan_digest": "d",
        "num_images": 10**12, "num_shards": 2, "num_committed": 0, "num_changed": 0,
        "num_left_out": 0, "example_left_out": None, "settings": {}, "config": {},
        "environment": {},
    }  # fmt: skip
    lake.write(layout.run_file(RUN, "run.json"), json.dumps(record | changes).encode())
    with pytest.raises(LakeError, match=r"run\.json is damaged: .*Restore it"):
        read_run(lake, RUN)
