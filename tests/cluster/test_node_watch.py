"""A run that waits for a node says so; while one can score, nothing is said."""

from __future__ import annotations

import logging
import time

import pytest

from steel_batch.cluster.node_watch import NodeWatch, nodes_that_fit

HEAD = {"NodeManagerHostname": "head", "Alive": True, "Resources": {"memory": 1.0}}
WORKER = {"NodeManagerHostname": "worker", "Alive": True, "Resources": {"CPU": 4.0}}
GPU_WORKER = {
    "NodeManagerHostname": "gpu",
    "Alive": True,
    "Resources": {"CPU": 16.0, "GPU": 1.0},
}


def test_a_node_fits_that_is_alive_and_large_enough() -> None:
    nodes = [HEAD, WORKER, GPU_WORKER]
    assert nodes_that_fit(nodes, 0.5, 0.0) == ["worker", "gpu"]
    assert nodes_that_fit(nodes, 8.0, 0.0) == ["gpu"]
    assert nodes_that_fit(nodes, 1.0, 1.0) == ["gpu"]
    assert nodes_that_fit(nodes, 1.0, 2.0) == []
    assert nodes_that_fit([HEAD, WORKER | {"Alive": False}], 0.5, 0.0) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("num_cpus", "num_warnings"), [(0.1, 0), (1e6, 1)])
def test_it_is_said_once_that_no_node_can_score(
    num_cpus: float, num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "steel_batch.cluster.node_watch"),
        NodeWatch(num_cpus=num_cpus, num_gpus=0.0, seconds=0.05),
    ):
        time.sleep(0.5)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == num_warnings
    assert all("waiting for one to join" in text for text in told)
