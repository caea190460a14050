"""Credentials stay out of whatever commands print and write, and of what others see of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
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
    "RAY_AUTH_TOKEN": "5ec7e7" * 10 + "ab12",
    "STEEL_BATCH_SIGNING_KEY": "never show the key that signs: 0123456789abcdef",
}
ROOT = Path(__file__).parents[2]


START = """
import os, sys
sys.path.pop(0)  # as the installed script starts: without the working folder
if os.path.exists("imported"):  # sitecustomize, as a path of this process names that folder
    os.unlink("imported")
from steel_batch.cli import main
main()
"""


def watch_processes(process: subprocess.Popen[str], texts: dict[str, str]) -> None:
    """Note the command line of each process of this machine, as anybody there sees it."""
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = path.read_bytes().decode("latin-1")
                texts[f"process {command}"] = command
        time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.s3
def test_credentials_never_appear_in_any_output_or_file_of_the_store(
    steel_batch: Command,
    s3_endpoint: str,
    bucket: str,
    tiny_engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A run with a Ray of its own and all log records, then commands that read it or fail.

    It is run where modules lie that nobody must import: to start Ray again for that is dear.
    """
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
    # In a folder where somebody left modules, as a lake may be.
    for module in ("cv2", "numpy", "pyarrow", "ray", "setuptools", "sitecustomize"):
        note = f"open({str(tmp_path / 'imported')!r}, 'a').write({module!r} + chr(10))\n"
        (tmp_path / f"{module}.py").write_text(note)
    ray_folder = Path(tempfile.mkdtemp(dir="/tmp"))  # the paths of sockets have to be short
    request.addfinalizer(lambda: shutil.rmtree(ray_folder, ignore_errors=True))
    left_out = ("RAY_ADDRESS", "RAY_AUTH_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"RAY_TMPDIR": str(ray_folder), "PYTHONPATH": f"{ROOT}:"}
    texts: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, "-c", START, *score], cwd=tmp_path,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        threading.Thread(target=watch_processes, args=(process, texts), daemon=True).start()
        stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert "INFO steel_batch" in stderr
    assert json.loads(stdout)["num_scored"] == 4, "the answer alone is on stdout"
    assert any("raylet" in command for command in texts), "Ray's processes were seen"
    texts["score"] = stdout + stderr
    for path in ray_folder.rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_text("latin-1")
    assert any(name.endswith("raylet.out") for name in texts), "Ray's logs were read"
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


@pytest.mark.parametrize("name", ["--endpoint-url", "AWS_ENDPOINT_URL", "--store", "--images"])
def test_a_password_in_an_address_is_refused_and_not_repeated(
    steel_batch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    word = "never-show-this"
    flags = {"--images": str(tmp_path), "--store": str(tmp_path / "store"), "--date": DATE}
    url = f"http://user:{word}@127.0.0.1:9000"
    if name in flags:
        flags[name] = f"s3://user:{word}@bucket/x"
    elif name.startswith("--"):
        flags[name] = url
    else:
        monkeypatch.setenv(name, url)
    done = steel_batch("score", *(word for pair in flags.items() for word in pair))
    assert done.code == 2
    assert "holds a user" in done.err
    assert "://…@" in done.err
    assert word not in done.out + done.err


def test_a_presigned_url_is_cut_before_its_signature(steel_batch: Command, tmp_path: Path) -> None:
    url = "https://bucket.s3.amazonaws.com/a.csv?X-Amz-Signature=never-show-this"
    for flags in (
        ["--images", url, "--store", tmp_path],
        ["--images", tmp_path, "--store", tmp_path, "--endpoint-url", url],
        ["--images", tmp_path, "--store", tmp_path, "--ray-address", url],
        ["--images", tmp_path, "--store", tmp_path, "--date", url],
    ):
        done = steel_batch("score", "--date", DATE, *flags)
        assert done.code in (1, 2)
        assert "never-show-this" not in done.out + done.err
