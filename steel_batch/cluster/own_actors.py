"""Ray Data's own three actors, answered by this process where a command has a cluster of its own.

One collects figures for the dashboard, one knows the node of each scoring actor, one divides the
cluster between datasets. Each is a process that loads Ray Data before it answers, and Ray Data
waits for two of them before it starts a read task or a scoring actor. On a cluster of one machine
and one dataset there is nothing to collect, to locate or to divide.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinators
from ray.data._internal.execution.node_trackers import actor_location

from steel_batch.cluster.replaced import replaced


class LocalActor:
    """Stands in for the handle of an actor: its methods are called here and now.

    Another process that is sent it gets one that ignores every call.

    Args:
        subject: What would be the actor.
    """

    def __init__(self, subject: object) -> None:
        self._subject = subject

    def __getattr__(self, name: str) -> _Method:
        """A method of the subject."""
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(getattr(self._subject, name))

    def __reduce__(self) -> tuple[type[LocalActor], tuple[object]]:
        """What is sent to another process."""
        return LocalActor, (Ignoring(),)

    def options(self, **_: object) -> LocalActor:
        """Stand in for the actor's class, too."""
        return self

    def remote(self) -> LocalActor:
        """Stand in for the start of the actor."""
        return self


class _Method:
    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """The result, where Ray expects a reference to it."""
        result = self._call(*args, **kwargs)
        return None if result is None else ray.put(result)


class Ignoring:
    """Ignores every call."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A method that does nothing."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


class _Figures(Ignoring):
    def gen_dataset_id(self) -> str:
        return uuid.uuid4().hex


class _Locations(Ignoring):
    def get_actor_locations(self, _: Sequence[str]) -> Mapping[str, str]:
        return {}  # Ray Data then takes the location that the actor itself reported


class _Division(coordinators._AutoscalingCoordinatorActor):  # type: ignore[misc]
    TICK_INTERVAL_S = 1_000_000
    """Its thread looks for new nodes, of which there are none."""

    def __init__(self) -> None:
        super().__init__(send_resources_request=lambda *_, **__: None)


@contextlib.contextmanager
def own_actors() -> Iterator[None]:
    """Let Ray Data find its actors in this process, for the datasets of a `with` block."""
    division = LocalActor(_Division())
    with (
        replaced(stats, "_StatsActor", LocalActor(_Figures())),
        replaced(actor_location, "ActorLocationTracker", LocalActor(_Locations())),
        replaced(coordinators, "get_or_create_autoscaling_coordinator", lambda: division),
    ):
        yield
