"""Nodes that look at themselves, on clusters that this machine only pretends to be."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from steel_batch.cli import cli
from steel_batch.cluster.check_machine import Wanted
from steel_batch.cluster.check_nodes import check_nodes
from steel_batch.config import RuntimeSettings
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine
from tests.conftest import DATE, PATTERN, cluster_address, fill_lake

pytestmark = pytest.mark.ray

NO_PYCUDA = pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is not None, reason="this machine has PyCUDA"
)
PRETEND = """
import contextlib, dataclasses, json, sys, ray
from steel_batch.config import RuntimeSettings, ScoreConfig
from steel_batch.errors import ConfigError
from steel_batch.cluster.check_nodes import check_nodes
from steel_batch.pipeline.score import score
from steel_batch.cluster.check_machine import Wanted

from tests.forked_worker import WORKER_PATH
from tests.small_nodes import small_head, small_worker

reading, tensorrt = (
    RuntimeSettings(runtime=name, precision="auto", batch_size=None)
    for name in ("onnxruntime", "tensorrt")
)

class Holder:
    def has(self):
        return True

with (
    small_head(num_cpus=2, num_gpus=0, worker_path=WORKER_PATH) as head,
    small_worker(head, num_cpus=2, num_gpus=1, worker_path=WORKER_PATH),
):
    with contextlib.redirect_stdout(sys.stderr):
        ray.init(address=head.address, log_to_driver=False)
    try:
        list(score(ScoreConfig(**json.loads(sys.argv[1])), lambda _: None))
    except ConfigError as error:
        print(json.dumps(str(error)))
    check_nodes(Wanted(engine=None, inference=reading), seconds=100)  # starts workers that stay
    holder = ray.remote(num_gpus=1, num_cpus=0)(Holder).remote()
    ray.get(holder.has.remote())
    for report in check_nodes(Wanted(engine=None, inference=tensorrt), seconds=4):
        print(json.dumps([dataclasses.asdict(finding) for finding in report.findings]))
    with contextlib.redirect_stdout(sys.stderr):
        ray.shutdown()
"""


@NO_PYCUDA
def test_a_run_whose_gpu_node_cannot_score_stops_and_a_busy_one_is_said_to_be(
    tmp_path: Path, tiny_engine: Path
) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=4)
    config = {
        "images": images.url,
        "store": store.url,
        "key_pattern": PATTERN,
        "engine": str(tiny_engine),
        "date": DATE,
        "runtime": "tensorrt",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRETEND, json.dumps(config)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    message, *reports = map(json.loads, done.stdout.splitlines())
    assert message.startswith(
        f"nothing was scored, as not every GPU can score. On {platform.node()}: driver: "
    )
    assert "Install steel-batch[gpu] on every GPU node" in message
    assert not [o for o in store.list_objects("runs/") if "/receipts/" in o.key]
    reader, busy = sorted(reports, key=len, reverse=True)
    assert [finding["name"] for finding in reader] == ["Python", "packages"]
    (finding,) = busy
    assert (finding["name"], finding["state"]) == ("Ray", "note")
    assert finding["found"].startswith("no GPU of this node was free within 4 s")


@pytest.mark.usefixtures("ray_cluster")
def test_each_node_of_a_cluster_looks_at_itself(tiny_engine: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli,
        ["doctor", "--engine", str(tiny_engine), "--store", str(tmp_path), "--output", "json",
         "--ray-address", cluster_address(), "--runtime", "onnxruntime"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (node,) = told["nodes"]
    assert node["node"] == platform.node()
    assert [finding["name"] for finding in node["findings"]] == [
        "Python", "packages", "GPU", "graph", "store",
    ]  # fmt: skip


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_of_another_version_is_wrong(tiny_engine: Path) -> None:
    wanted = Wanted(
        engine=load_engine(str(tiny_engine), store=None),
        inference=RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=None),
        version="9.8.7",
    )
    (report,) = check_nodes(wanted, seconds=100)
    assert [f.name for f in report.findings if f.state == "wrong"] == ["packages"]
