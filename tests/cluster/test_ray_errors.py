"""What Ray raises reaches the user as one of our errors, with the node and what to do."""

from __future__ import annotations

import pytest
import ray

from steel_batch.cluster.ray_errors import ray_errors
from steel_batch.errors import ClusterError, MachineError

SENT = (
    "The actor died because of an error raised in its creation task, "
    "ray::MapWorker(MapBatches(ScoreStage)).__init__() (pid=402, ip=192.0.2.4, actor_id=fbad)\n"
    "  At least one of the input arguments for this task could not be computed:\n"
    "ray.exceptions.RaySystemError: System error: {}\n"
    "traceback: Traceback (most recent call last):\n{}"
)
"""What Ray 2.60 says where a node cannot load what it was sent."""


@pytest.mark.parametrize(
    "cause",
    [
        "ModuleNotFoundError: No module named 'steel_batch'",
        "ModuleNotFoundError: No module named 'steel_batch.cluster'",
        "ImportError: cannot import name 'Agreement' from 'steel_batch.cluster' (/opt/x)",
        "AttributeError: Can't get attribute 'Setup' on <module 'steel_batch.cluster.score_stage'>",
    ],
)
@pytest.mark.parametrize("kind", [ray.exceptions.RaySystemError, ray.exceptions.RayError])
def test_a_node_without_a_fitting_install_is_named(kind: type[Exception], cause: str) -> None:
    text = SENT.format(cause.partition(": ")[2], cause)
    expected = r"node 192\.0\.2\.4 has no steel-batch"
    with pytest.raises(MachineError, match=expected) as caught, ray_errors():
        raise kind(text)
    assert cause in caught.value.message
    assert "Install the same steel-batch, Python and Ray on every node" in caught.value.message


def test_another_failure_of_ray_is_one_of_the_cluster() -> None:
    expected = "What is scored is kept: run the same"
    with pytest.raises(ClusterError, match=expected), ray_errors():
        raise ray.exceptions.RayError("ip=192.0.2.4: the node ran out of memory")
