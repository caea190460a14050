"""What the next plan reads of a date's committed files, and what is said of a damaged one."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.committed import (
    digest_files,
    files_of_date,
    known_images,
    quarantined_keys,
    read_file,
)
from steel_batch.tables.query import run_query
from steel_batch.tables.summary import FIELDS
from steel_batch.tables.table_log import live_files
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys, made_up_row, parquet, rows_table

PREDICTIONS = layout.PREDICTIONS


def test_the_digest_of_a_dates_files_is_another_one_once_a_run_lands(folder: Lake) -> None:
    keys = image_keys(6)
    seen = [digest_files(files_of_date(folder, ENGINE, DATE))]
    for bad in ([], keys):  # of the second run all images are quarantined
        commit_run(folder, keys, bad=bad)
        seen.append(digest_files(files_of_date(folder, ENGINE, DATE)))
    assert len(set(seen)) == 3
    commit_run(folder, keys, date="2026-11-22")
    assert digest_files(files_of_date(folder, ENGINE, DATE)) == seen[-1]


def test_committed_and_quarantined_images_are_known_to_the_next_plan(folder: Lake) -> None:
    keys = image_keys(6)
    commit_run(folder, keys, bad=keys[:1])
    commit_run(folder, image_keys(3, first=100), date="2026-11-22")

    batches = known_images(folder, files_of_date(folder, ENGINE, DATE))
    found = {row["image_key"]: row["error_code"] for b in batches for row in b.to_pylist()}
    assert found == {key: "empty" if key == keys[0] else None for key in keys}
    assert list(quarantined_keys(folder, ENGINE, DATE)) == keys[:1]


@pytest.mark.s3
def test_a_summary_reads_no_run_lengths(bucket: str, s3_endpoint: str) -> None:
    rng = random.Random(1)
    rows = [made_up_row(key, "r") for key in image_keys(800)]
    for defect in (defect for row in rows for defect in row["defects"]):
        defect["rle"] = " ".join(str(rng.randrange(400_000)) for _ in range(500))
    data = parquet(rows_table(rows))
    store = Lake(f"{bucket}/store", endpoint_url=s3_endpoint)
    store.write("k.parquet", data)
    before = store.counts().get("bytes_read", 0)
    batches = list(read_file(store, "k.parquet", FIELDS))
    assert store.counts()["bytes_read"] - before < len(data) / 4
    found = [row for batch in batches for row in batch.to_pylist()]
    assert found == pa.Table.from_pylist(rows, schema=FIELDS).to_pylist()


@pytest.mark.parametrize("damage", ["cut off", "changed", "gone"])
def test_a_committed_file_that_is_damaged_is_named_to_the_next_plan(
    damage: str, folder: Lake
) -> None:
    commit_run(folder, image_keys(50))
    (file,) = live_files(folder, PREDICTIONS, ENGINE, DATE)
    data = folder.read(file.key)
    if damage == "gone":
        folder.delete([file.key])
    else:
        damaged = data[:-50] if damage == "cut off" else data[:4] + b"\x55" * 400 + data[404:]
        folder.write(file.key, damaged)
    with pytest.raises(
        LakeError, match=f"{file.key} is committed but cannot be read: .* verify` l"
    ):
        list(known_images(folder, files_of_date(folder, ENGINE, DATE)))
    with pytest.raises(LakeError, match=r"^a committed file cannot be read: .*verify --") as it:
        run_query(folder, "SELECT max(image_key) FROM predictions")
    assert "\n" not in str(it.value)
