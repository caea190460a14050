"""Workers that are forked for the tests differ as those do that start by themselves."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def drawn(place: Path, number: int) -> list[object]:
    """What a worker draws, while another one draws, too."""
    (place / f"{os.getpid()}").touch()
    while len(list(place.iterdir())) < number:
        time.sleep(0.01)
    state = np.random.random()  # noqa: NPY002 - the state that a fork copies
    return [os.getpid(), ray.NodeID.from_random().hex(), state, random.random()]


def test_no_two_draw_the_same_ids_and_numbers(tmp_path: Path) -> None:
    draw = ray.remote(num_cpus=0.5)(drawn)
    found = ray.get([draw.remote(tmp_path, 3) for _ in range(3)])
    assert [len({*column}) for column in zip(*found, strict=True)] == [3, 3, 3, 3]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_ray_learns_that_one_was_ended(how: signal.Signals) -> None:
    die = ray.remote(num_cpus=0.5, max_retries=0)(lambda: os.kill(os.getpid(), how))
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(die.remote())


class Waiting:
    """An actor."""

    def pid(self) -> int:
        """Its process."""
        return os.getpid()


def test_the_end_of_one_ends_no_other() -> None:
    first, second = [ray.remote(num_cpus=0)(Waiting).remote() for _ in range(2)]
    pids = ray.get([first.pid.remote(), second.pid.remote()])
    ray.kill(first)
    while Path(f"/proc/{pids[0]}/exe").exists():
        time.sleep(0.01)
    assert ray.get(second.pid.remote()) == pids[1]
