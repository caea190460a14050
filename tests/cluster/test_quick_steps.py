"""Ray Data's steps are short until the first result, and then as Ray has them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray
from ray.data._internal.execution import streaming_executor_state as steps

from steel_batch.cluster import quick_steps as module
from steel_batch.cluster.quick_steps import NAME, STEP_SECONDS, quick_steps
from steel_batch.lake import Lake
from steel_batch.pipeline.score import score
from steel_batch.runs.events import Progress
from tests.conftest import fill_lake, score_config

pytestmark = pytest.mark.ray


def test_steps_are_as_ray_has_them_after_blocks_that_overlap() -> None:
    usual = getattr(steps, NAME)
    first, second = quick_steps(), quick_steps()
    first.__enter__()
    second.__enter__()
    assert getattr(steps, NAME) == STEP_SECONDS < usual
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert getattr(steps, NAME) == usual


def test_steps_are_short_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = getattr(steps, NAME)
    monkeypatch.setattr(module, "MOST_SECONDS", 0.01)
    with quick_steps():
        give_up = time.monotonic() + 60
        while getattr(steps, NAME) != usual and time.monotonic() < give_up:
            time.sleep(0.01)
        assert getattr(steps, NAME) == usual


def test_a_run_waits_for_its_tasks_in_short_steps_until_the_first_result(
    ray_cluster: object, tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, waited, seen = getattr(steps, NAME), set[object](), set[object]()
    wait = ray.wait

    def noting(*args: object, **how: object) -> object:
        waited.add(how.get("timeout"))
        return wait(*args, **how)

    def observe(progress: Progress) -> None:
        if progress.step == "scoring":
            seen.add(getattr(steps, NAME))

    monkeypatch.setattr(ray, "wait", noting)
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=20)
    (_,) = score(score_config(images, store, tiny_engine), observe)
    assert STEP_SECONDS in waited
    assert seen == {usual}
