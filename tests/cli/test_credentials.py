"""Credentials stay out of whatever commands print and write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from steel_batch.lake import Lake
from tests.cli.command_line import Command
from tests.conftest import DATE, PATTERN, fill_lake

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA0NEVERSHOWTHIS00",
    "AWS_SECRET_ACCESS_KEY": "never/show+this0secret1to2anybody3ever4x",
    "AWS_SESSION_TOKEN": "never-show-this-token-to-anybody-either",
}


@pytest.mark.ray
@pytest.mark.s3
def test_credentials_never_appear_in_any_output_or_file_of_the_store(
    steel_batch: Command,
    s3_endpoint: str,
    bucket: str,
    tiny_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run with a Ray of its own and all log records, then commands that read it or fail."""
    fill_lake(Lake(f"{bucket}/images", endpoint_url=s3_endpoint), num_images=4)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    at = ["--endpoint-url", s3_endpoint]
    store = ["--store", f"{bucket}/store", *at]
    score = [
        "score", "--images", f"{bucket}/images", "--key-pattern", PATTERN, *store,
        "--engine", str(tiny_engine), "--date", DATE, "--verbose", "--num-actors", "1",
        "--output", "json",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    scored = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", *score],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert "INFO steel_batch" in scored.stderr
    assert json.loads(scored.stdout)["num_scored"] == 4, "the answer alone is on stdout"
    texts = {"score": scored.stdout + scored.stderr}
    (run_id,) = steel_batch("query", "SELECT DISTINCT run_id FROM predictions", *store).out.split()[
        1:
    ]
    for arguments, code in (
        (["runs", "show", run_id, *store, "--output", "json"], 0),
        (["verify", *store], 0),
        (["query", "SELECT * FROM elsewhere", *store], None),
        (["verify", "--store", "s3://no-such-bucket/x", *at], 1),
        (["query", "SELECT 1", "--store", f"{bucket}/nothing", *at], 2),
        (["score", *score[1:], "--engine", "nonsense"], None),
    ):
        done = steel_batch(*arguments)
        assert code in (None, done.code), done
        texts[" ".join(arguments)] = done.out + done.err
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    name = bucket.removeprefix("s3://")
    for item in s3.list_objects_v2(Bucket=name, Prefix="store/")["Contents"]:
        data = s3.get_object(Bucket=name, Key=item["Key"])["Body"].read()
        texts[item["Key"]] = data.decode("latin-1")
    assert any(key.endswith("events.jsonl") for key in texts)
    assert len(texts) > 20
    for where, text in texts.items():
        assert not [name for name, secret in SECRETS.items() if secret in text], where
