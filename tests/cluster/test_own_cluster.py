"""A command's own cluster has fewer processes with the versions of Ray that are known."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from steel_batch.cluster import own_cluster
from steel_batch.cluster.own_cluster import is_known, own_services

pytestmark = pytest.mark.ray

SCORED = """
import ray, ray.data
from steel_batch.cluster import own_cluster
from steel_batch.cluster.join import joined_cluster
from ray.util import list_named_actors
own_cluster.KNOWN_RAY = ()  # as if this version came out tomorrow
with joined_cluster(None), own_cluster.own_services():
    rows = ray.data.range(4).map_batches(lambda batch: batch).take_all()
    num_actors = len(list_named_actors(all_namespaces=True))
print(len(rows), num_actors > 0)
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
        [sys.executable, "-c", SCORED], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("4 True\n", 0), done.stderr
