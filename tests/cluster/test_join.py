"""How actors are placed on clusters that this machine only pretends to be."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

JOIN = """
import sys
from steel_batch.errors import ConfigError
from steel_batch.cluster.join import joined_cluster
for address in sys.argv[1:]:
    try:
        with joined_cluster(address, wait_seconds=0.5):
            pass
    except ConfigError as error:
        print(error)
"""
PRETEND = """
import io, json, logging, sys, ray
from steel_batch.config import ScoreConfig
from steel_batch.errors import ConfigError
from steel_batch.cluster.fit import actor_pool, choose_runtime
from tests.small_nodes import small_head

def shown(pool):
    shares = (round(pool.num_cpus, 2), round(pool.num_gpus, 2))
    fields = (*shares, pool.num_threads, pool.num_slots)
    return f"{pool.num_actors} actors, CPUs, GPUs, threads, slots {fields}"

def placed(gpus):
    config = ScoreConfig(images="x", store="y", key_pattern="{image_id}", date="2026-11-21")
    yield f"auto {choose_runtime('auto')}"
    for on_gpu in (False, True):
        for num_actors in (None, 3):
            try:
                yield shown(actor_pool(config.replace(num_actors=num_actors), on_gpu=on_gpu))
            except ConfigError as error:
                yield f"error: {error}"
    if not gpus:
        joined = config.replace(num_actors=3, ray_address="head:6379")
        yield shown(actor_pool(joined, on_gpu=True))
    else:
        for changes in ({"actors_per_gpu": 3}, {"cpus_per_actor": 8.0}):
            yield shown(actor_pool(config.replace(**changes), on_gpu=True))

for cpus, gpus in json.loads(sys.argv[1]):
    said = io.StringIO()
    logging.basicConfig(level="WARNING", stream=said, force=True)
    with small_head(num_cpus=cpus, num_gpus=gpus) as head:
        ray.init(address=head.address, log_to_driver=False)
        lines = list(placed(gpus))
        ray.shutdown()
    print(json.dumps([cpus, gpus, lines, said.getvalue()]))
"""
CLUSTERS = ((0, 0), (32, 2), (4, 1), (2, 2))
"""CPUs and GPUs of each."""
Placed = dict[tuple[int, int], tuple[list[str], str]]


@pytest.fixture(scope="module")
def placed() -> Placed:
    """What is placed on each cluster, and the warnings: one process starts them in turn."""
    done = subprocess.run(
        [sys.executable, "-c", PRETEND, json.dumps(CLUSTERS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return {(cpus, gpus): (lines, said) for cpus, gpus, lines, said in found}


def test_a_head_without_cpus_is_no_room_but_what_is_asked_for_may_come(placed: Placed) -> None:
    (auto, cpu, cpu_asked, gpu, gpu_asked, joined), _ = placed[0, 0]
    assert auto == "auto onnxruntime"
    assert cpu.startswith("error: no node of the Ray cluster has 4 CPUs for one scoring actor; ")
    assert "the largest of 1 has 0. Give a smaller --cpus-per-actor, or --num-actors N" in cpu
    assert cpu_asked == "3 actors, CPUs, GPUs, threads, slots (3.5, 0.0, 4, 1)"
    assert gpu.startswith("error: the TensorRT runtime needs a GPU and the Ray cluster has none: ")
    assert gpu_asked == gpu  # nothing joins what this process started itself
    assert joined == "3 actors, CPUs, GPUs, threads, slots (3, 1.0, 3, 6)"


def test_gpus_without_tensorrt_are_said_to_be_left_out(placed: Placed) -> None:
    (auto, cpu, *_), said = placed[32, 2]
    assert auto == "auto onnxruntime"
    assert "TensorRT, PyCUDA or NVIDIA's driver is missing on node " in said
    assert cpu == "8 actors, CPUs, GPUs, threads, slots (3.5, 0.0, 4, 1)"


def test_each_gpu_has_one_actor_with_most_of_its_cpus_unless_told_otherwise(
    placed: Placed,
) -> None:
    (_, _, _, usual, asked, three, wide), _ = placed[32, 2]
    assert usual == "2 actors, CPUs, GPUs, threads, slots (12, 1.0, 12, 6)"
    assert asked == "3 actors, CPUs, GPUs, threads, slots (12, 1.0, 12, 6)"
    assert three == "6 actors, CPUs, GPUs, threads, slots (4, 0.33, 4, 3)"
    assert wide == "2 actors, CPUs, GPUs, threads, slots (8.0, 1.0, 8, 6)"
    (_, _, _, few, *_), _ = placed[4, 1]
    assert few == "1 actors, CPUs, GPUs, threads, slots (3, 1.0, 3, 6)"


def test_no_actors_claim_what_reading_takes(placed: Placed) -> None:
    (_, cpu, more, gpu, _, three, wide), _ = placed[2, 2]
    assert cpu == "1 actors, CPUs, GPUs, threads, slots (1.5, 0.0, 2, 1)"
    # Of three where one has room, one comes to the node, and not three by what they claim.
    assert more == "3 actors, CPUs, GPUs, threads, slots (1.5, 0.0, 2, 1)"
    assert gpu == "2 actors, CPUs, GPUs, threads, slots (0.5, 1.0, 1, 6)"
    assert three == "6 actors, CPUs, GPUs, threads, slots (0.17, 0.33, 1, 3)"
    assert wide == "2 actors, CPUs, GPUs, threads, slots (0.5, 1.0, 8, 6)"


NOBODYS = {
    "127.0.0.1:{unused}": r"Connection refused\.",
    "no-such-host.invalid:6379": (
        r"(Name or service not known|Temporary failure in name resolution"
        r"|No address associated with hostname)\."
    ),
    "nonsense": r"Invalid address format: nonsense\.",
    "http://head:8265": r"Invalid Ray address: 'http://head:8265'\.",  # the jobs server
}


def test_a_cluster_that_cannot_be_joined_is_named_with_what_to_do() -> None:
    """In a process of its own, as the tests' process may be connected already."""
    with socket.socket() as silent:  # bound, so that nobody takes its port, and not listening
        silent.bind(("127.0.0.1", 0))
        addresses = [address.format(unused=silent.getsockname()[1]) for address in NOBODYS]
        done = subprocess.run(
            [sys.executable, "-c", JOIN, *addresses], capture_output=True, text=True, check=False,
            timeout=200,
        )  # fmt: skip
    for text, address, reason in zip(
        done.stdout.splitlines(), addresses, NOBODYS.values(), strict=True
    ):
        assert text.startswith(f"the Ray cluster at '{address}' cannot be joined: "), done.stderr
        assert re.search(reason, text)
        assert text.endswith("with --ray-address or RAY_ADDRESS, or none to run on this machine.")
