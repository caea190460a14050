"""Ray Data starts no processes of its own on a command's own cluster."""

from __future__ import annotations

import copy

import pytest
import ray.data
from ray.data._internal.execution.node_trackers import actor_location
from ray.util import list_named_actors

from steel_batch.cluster.own_actors import Ignoring, LocalActor, own_actors
from tests.conftest import end_named_actors

pytestmark = pytest.mark.ray


class Add:
    """An actor class of a dataset."""

    def __call__(self, batch: dict[str, object]) -> dict[str, object]:
        """Add 1."""
        return {"id": batch["id"] + 1}  # type: ignore[operator]


def scored() -> list[int]:
    """A dataset with an actor, as scoring has one."""
    dataset = ray.data.range(8, override_num_blocks=4).map_batches(Add, concurrency=1, num_cpus=0.1)
    return sorted(row["id"] for row in dataset.iter_rows())


def test_a_dataset_with_an_actor_runs_without_actors_of_ray_data(ray_cluster: object) -> None:
    end_named_actors()  # another test's, on the same cluster
    with own_actors():
        assert scored() == list(range(1, 9))
    assert list_named_actors(all_namespaces=True) == []


def test_ray_data_finds_its_own_actors_again_afterwards(ray_cluster: object) -> None:
    before = actor_location.ActorLocationTracker
    with own_actors():
        assert actor_location.ActorLocationTracker is not before
    assert actor_location.ActorLocationTracker is before


def test_another_process_is_sent_one_that_ignores_calls() -> None:
    # Copied by what pickle would send.
    sent = copy.copy(LocalActor(Add()))
    assert sent.update_actor_location.remote("actor", "node") is None
    assert isinstance(vars(sent)["_subject"], Ignoring)
