"""What `doctor` finds on a machine without a GPU, and how it says it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from steel_batch.cli import cli
from steel_batch.cluster.check_machine import Wanted, check, check_images, check_store
from steel_batch.config import RuntimeSettings
from steel_batch.engine.check import check_packages
from steel_batch.engine.finding import Finding
from steel_batch.engine.installed import installed
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine
from tests.conftest import fill_lake
from tests.log_proxy import log_proxy

needs_no_gpu = pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU"
)


def doctor(*arguments: object) -> Result:
    return CliRunner(env={"RAY_ADDRESS": None}).invoke(
        cli, ["doctor", *map(str, arguments)], catch_exceptions=False
    )


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


@needs_no_gpu
def test_a_machine_without_a_gpu_scores_on_its_cpu(lake: Lake, tiny_engine: Path) -> None:
    fill_lake(lake, num_images=1)
    wanted = Wanted(
        engine=load_engine(str(tiny_engine), store=None),
        inference=RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=None),
        store=lake,
        images=lake.url,
        endpoint_url=lake.endpoint_url,
    )
    findings = check(wanted)
    assert states(findings) == {
        "Python": "ok",
        "packages": "ok",
        "GPU": "note",
        "graph": "ok",
        "store": "ok",
        "images": "ok",
    }
    assert findings[2].found == "no GPU: ONNX Runtime on the CPU will score"


def test_a_machine_that_only_reads_needs_neither_gpu_nor_graph() -> None:
    assert states(check(Wanted(engine=None, inference=None))) == {"Python": "ok", "packages": "ok"}


def test_another_version_than_the_command_s_is_wrong() -> None:
    assert f"steel-batch {installed()}, ray " in check_packages(installed()).found
    finding = check_packages("9.8.7")
    assert finding.state == "wrong"
    assert f"steel-batch {installed()}, the command has 9.8.7" in finding.found
    assert finding.remedy == "Install the same steel-batch on every node."


def test_asking_a_store_leaves_nothing_in_it(lake: Lake) -> None:
    lake.write("some", b"thing")
    assert check_store(lake).state == "ok"
    assert [item.key for item in lake.list_objects()] == ["some"]


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    finding = check_store(Lake(str(tmp_path / "a" / "store")))
    assert finding.state == "note"
    assert "the first run creates it" in finding.found
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("no folder")
    finding = check_store(Lake(str(tmp_path / "file" / "store")))
    assert finding.state == "wrong"
    assert f"{tmp_path}/file is not a folder" in finding.found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc on this machine")
def test_a_folder_that_cannot_be_made_is_found_whatever_the_rights_say() -> None:
    """Root may write anywhere by its rights, and nobody makes a folder there."""
    finding = check_store(Lake("/proc/nope/store"))
    assert finding.state == "wrong"
    assert finding.found.startswith(
        "/proc/nope/store does not exist and cannot be created: /proc is "
    )


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_wrong(s3_endpoint: str) -> None:
    lake = Lake("s3://no-such-bucket/x", endpoint_url=s3_endpoint)
    assert "s3://no-such-bucket/x" in check_store(lake).found
    assert check_store(lake).state == "wrong"
    assert check_images(lake.url, s3_endpoint).state == "wrong"


@pytest.mark.s3
def test_a_server_that_ignores_conditions_is_wrong(bucket: str, s3_endpoint: str) -> None:
    with log_proxy(s3_endpoint) as (proxy, url):
        lake = Lake(f"{bucket}/store", endpoint_url=url)
        assert check_store(lake).state == "ok"
        proxy.ignored_headers.add("if-none-match")
        finding = check_store(lake)
        assert finding.state == "wrong"
        assert "8 were told that they had succeeded (it ignores If-None-Match" in finding.found
        assert "--unsafe-single-writer" in finding.remedy
        assert list(lake.list_objects()) == []


def test_an_empty_lake_is_wrong_and_a_manifest_is_not(lake: Lake) -> None:
    finding = check_images(lake.url, lake.endpoint_url)
    assert (finding.state, finding.remedy) == ("wrong", "")
    assert finding.found == f"{lake.url} is empty or does not exist: check --images."
    lake.write("night.csv", b"key\nx.png\n")
    assert check_images(lake.uri("night.csv"), lake.endpoint_url).found.endswith("csv exists")
    assert check_images(lake.url, lake.endpoint_url).found.endswith("can be listed")


@needs_no_gpu
def test_doctor_says_that_all_is_well(tmp_path: Path) -> None:
    done = doctor("--store", tmp_path)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines if line and line[0] in ("ok", "note", "wrong")] == [
        ["ok", "engine"],
        ["ok", "Python"],
        ["ok", "packages"],
        ["note", "GPU"],
        ["ok", "graph"],
        ["ok", "store"],
    ]
    assert done.stderr == "all checks passed\n"


def test_doctor_exits_with_1_and_its_json_says_what_is_wrong(tmp_path: Path) -> None:
    done = doctor("--engine", "tiny@production", "--store", tmp_path, "--output", "json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["ok"], told["engine"]["state"]) == (False, "wrong")
    assert "There are: demo" in told["engine"]["found"]
    (node,) = told["nodes"]
    assert states([Finding(**finding) for finding in node["findings"]])["store"] == "ok"


@needs_no_gpu
def test_doctor_names_what_the_gpu_lacks_in_lines_that_are_not_cut(tmp_path: Path) -> None:
    done = doctor("--runtime", "tensorrt", "--images", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert "driver: Install NVIDIA's driver, give the container its GPU (" in done.stdout
    assert "Install steel-batch[gpu] on every GPU node" in done.stdout
    assert f"{tmp_path}/nowhere is empty or does not exist: check --images." in done.stdout
    assert "\nimages: " not in done.stdout, "said once"
    assert done.stderr == "4 checks failed\n"
