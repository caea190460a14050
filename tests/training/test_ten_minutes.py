"""The training job on two cores as a user runs it: from images to a version that scores."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steel_batch.lake import Lake
from steel_batch.synthetic import CLASSES
from steel_batch.synthetic.writer import write_lake
from tests.conftest import DATE

ROOT = Path(__file__).parents[2]
TEN_MINUTES = 600
PRECISION = "bf16" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "fp32"


def run(*command: str, seconds: int | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, *command, "--output", "json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        timeout=seconds,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2 * TEN_MINUTES)
def test_ten_minutes_make_a_version_that_finds_the_defects_of_images_it_never_saw(
    tmp_path: Path,
) -> None:
    images, unseen = tmp_path / "images", tmp_path / "unseen"
    write_lake(Lake(str(images)), num_images=1200, seed=1, lines=["1"], dates=[DATE])
    write_lake(Lake(str(unseen)), num_images=100, seed=2, lines=["1"], dates=[DATE])
    store = str(tmp_path / "store")
    made = run(
        "jobs/train.py", "--images", str(images), "--store", store, "--model", "quick",
        "--classes", ",".join(CLASSES), "--config", "training/quick.toml",
        "--precision", PRECISION, seconds=TEN_MINUTES,
    )  # fmt: skip
    print(made)
    scored = run(
        "jobs/score.py", "--images", str(unseen), "--store", store, "--engine", str(made["engine"]),
        "--key-pattern", "line={line}/date={date}/{image_id}.jpg", "--date", DATE,
    )  # fmt: skip
    assert (scored["num_scored"], scored["committed"]) == (100, True)
    rows = run(
        "-m", "steel_batch.cli", "query", "--store", store,
        "SELECT image_id FROM predictions WHERE has_defect",
    )  # fmt: skip
    with (unseen / "train.csv").open() as file:
        defective = {row["ImageId"].removesuffix(".jpg") for row in csv.DictReader(file)}
    found = {row["image_id"] for row in rows}
    print(len(found & defective), "of", len(defective), "found;", len(found - defective), "alarms")
    assert len(found & defective) >= 0.9 * len(defective)
    assert len(found - defective) <= 0.25 * (100 - len(defective))
