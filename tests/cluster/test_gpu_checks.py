"""A run on a real GPU: what it says before it scores. Needs no fixture of the suite:

python -m pytest -c /dev/null --rootdir . --noconftest -m gpu tests/cluster/test_gpu_checks.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from steel_batch.cluster.check_machine import Wanted
from steel_batch.cluster.check_nodes import check_nodes
from steel_batch.cluster.join import joined_cluster
from steel_batch.config import RuntimeSettings, ScoreConfig
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.machine import find_machine
from steel_batch.errors import ConfigError, EngineError
from steel_batch.lake import Lake
from steel_batch.pipeline.score import score
from steel_batch.registry.registration import register
from steel_batch.registry.versions import load_engine
from tests.tiny_engine import tiny_version

pytestmark = [pytest.mark.gpu, pytest.mark.ray]

DATE = "2026-11-21"


def test_a_run_says_that_a_plan_is_built_scores_and_is_silent_the_next_time(
    tmp_path: Path,
) -> None:
    try:
        machine = find_machine("tensorrt")
    except (ConfigError, EngineError) as error:
        pytest.skip(str(error))
    card, graphs = tiny_version(precisions=("fp32", "fp16"))
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    register(store, card, graphs)
    config = ScoreConfig(
        images=images.url,
        store=store.url,
        key_pattern="date={date}/{image_id}.png",
        engine=card.name,
        date=DATE,
        runtime="tensorrt",
        batch_size=4,
    )

    def steps_of_scoring(*names: str) -> list[str]:
        for name in names:
            encoded = cv2.imencode(".png", np.full((64, 160), 60, np.uint8))[1]
            images.write(f"date={DATE}/{name}.png", encoded.tobytes())
        steps: list[str] = []
        (result,) = score(config, lambda progress: steps.append(progress.step))
        assert result.num_scored == len(names)
        return steps

    wanted = Wanted(
        engine=load_engine(card.name, store=store),
        inference=RuntimeSettings(runtime="tensorrt", precision="auto", batch_size=4),
        store=store,
    )
    name = f"{machine.short_name}-fp16-b4"
    with joined_cluster(None):
        before = {finding.name: finding for finding in check_nodes(wanted)[0].findings}
        first = steps_of_scoring("a", "b")
        second = steps_of_scoring("c")
        after = {finding.name: finding for finding in check_nodes(wanted)[0].findings}
    print(*(f"{f.state:5} {f.name}: {f.text}" for f in after.values()), sep="\n")
    said = f"compiled plan {name} is missing: the first actor builds it, in one to five minutes"
    assert first.index(said) < first.index("scoring")
    assert not any("is missing" in step for step in second)
    assert open_gpu().name in before["GPU"].found
    assert (before["plan"].state, after["plan"].state) == ("note", "ok")
    assert after["memory"].state == "ok"
