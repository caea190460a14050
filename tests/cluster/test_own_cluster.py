"""A command's own cluster has fewer processes with the versions of Ray that are known."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from steel_batch.cluster import own_cluster
from steel_batch.cluster.own_cluster import is_known, own_services

pytestmark = pytest.mark.ray

USUAL = """
import ray, subprocess
from ray.data._internal import stats
from steel_batch.cluster import own_cluster
from steel_batch.cluster.join import joined_cluster
own_cluster.KNOWN_RAY = ()  # as if this version came out tomorrow
before = stats._StatsActor
with joined_cluster(None), own_cluster.own_services():
    answer = ray.get(ray.remote(lambda: 42).remote())
    session = ray._private.worker._global_node.session_name
    found = subprocess.run(["pgrep", "-af", session], capture_output=True, text=True).stdout
    is_usual = stats._StatsActor is before
print(answer, is_usual, all(name in found for name in ("dashboard.py", "agent.py", "monitor.py")))
"""


def test_the_installed_version_is_known() -> None:
    assert is_known(ray.__version__), "test own_head and own_actors with it, then add it"


@pytest.mark.parametrize("version", ["2.58.3", "2.5", "3.59.0", "2.601.0"])
def test_other_versions_are_not_known(version: str) -> None:
    assert not is_known(version)


def test_ray_data_keeps_its_own_actors_where_there_is_no_own_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.data._internal import stats

    monkeypatch.setattr(own_cluster, "_running", [])  # other tests may have one

    before = stats._StatsActor
    with own_services():
        assert stats._StatsActor is before


def test_the_last_of_overlapping_runs_puts_the_own_actors_back(
    ray_cluster: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.data._internal import stats

    monkeypatch.setattr(own_cluster, "_running", ["here"])
    before = stats._StatsActor
    first, second = own_services(), own_services()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert stats._StatsActor is not before
    second.__exit__(None, None, None)
    assert stats._StatsActor is before


def test_an_unknown_version_starts_its_usual_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USUAL], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("42 True True\n", 0), done.stderr
