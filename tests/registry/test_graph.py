"""A graph whose answers break the contract is not registered, and scores nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from steel_batch.engine.contract import infer_all
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.errors import EngineError
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.registry.graph import check_values
from steel_batch.registry.registration import register
from steel_batch.registry.versions import list_models
from tests.conftest import folder_daily
from tests.tiny_engine import tiny_graph, tiny_version

lake = folder_daily

CARD, _ = tiny_version()
BITS = np.array([1, 64, 4, 8], np.float32).reshape(1, 4, 1, 1)
BROKEN: dict[str, tuple[str, Any, str]] = {
    "count is 0": ("count", 0.0, "mask has pixels of class 1 .*, count has pixels of no class"),
    "peak times 5": ("peak", 5.0, "peaks are .*, not probabilities of 0 to 1"),
    "class 2 is bit 64": ("bits", BITS, "mask has pixels of .*class 7, count has .*class 2"),
}


def version_with(name: str, value: Any) -> tuple[Card, dict[str, bytes]]:
    """A version whose output is multiplied, or whose weights are replaced."""
    model = onnx.load_from_string(tiny_graph(CARD.height, CARD.width))
    graph = model.graph
    if isinstance(value, np.ndarray):
        (weights,) = (weights for weights in graph.initializer if weights.name == name)
        weights.CopyFrom(numpy_helper.from_array(value, name))
    else:
        (node,) = (node for node in graph.node if name in node.output)
        node.output[0] = "right"
        graph.node.append(helper.make_node("Mul", ["right", "factor"], [name]))
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "factor"))
    graphs = {"fp32": model.SerializeToString()}
    made = Card.of(
        graphs, {"fp32": "model.onnx"}, model="tiny", created=CARD.created, classes=CARD.classes,
        height=CARD.height, width=CARD.width, thresholds=CARD.thresholds,
        post_process=CARD.post_process,
    )  # fmt: skip
    return made, graphs


@pytest.mark.parametrize("case", BROKEN)
def test_a_graph_whose_answers_break_the_contract_is_not_registered(case: str, lake: Lake) -> None:
    name, value, what = BROKEN[case]
    card, graphs = version_with(name, value)
    with pytest.raises(EngineError, match=f"does not fulfil the engine's contract: {what}"):
        register(lake, card, graphs)
    assert list_models(lake) == []


@pytest.mark.parametrize("case", BROKEN)
def test_the_first_image_that_shows_it_ends_the_work_of_such_a_graph(case: str) -> None:
    name, value, what = BROKEN[case]
    card, graphs = version_with(name, value)
    runtime = OrtRuntime(graphs["fp32"], card, precision="fp32", batch_size=3, num_threads=1)
    with runtime.acquire() as slot:
        slot.image_NHW[:] = 0
        if case != "peak times 5":
            assert not infer_all(slot, 3).mask_NHW.any(), "nothing shows it yet"
        slot.image_NHW[2, 20:40, 20:40] = 255
        with pytest.raises(EngineError, match=what):
            slot.infer(3)
    runtime.close()


def test_counts_of_a_registered_graph_are_those_of_its_masks(lake: Lake) -> None:
    with pytest.raises(EngineError, match=r"count of class 1 is .*, but its mask has"):
        register(lake, *version_with("count", 1000.0))
    register(lake, *version_with("count", 1.0))
    assert list_models(lake) == ["tiny"]


def test_images_without_numbers_are_left_to_the_quarantine() -> None:
    mask_NHW = np.full((2, 4, 4), 1, np.uint8)
    count_NC = np.array([[0, 0], [16, 0]], np.float32)
    peak_NC = np.array([[np.nan, 0], [1, 0]], np.float32)
    check_values(mask_NHW, peak_NC, count_NC, engine="x", precision="fp32")
    peak_NC[0, 0] = 1
    with pytest.raises(EngineError, match="mask has pixels of class 1, count has pixels of no cla"):
        check_values(mask_NHW, peak_NC, count_NC, engine="x", precision="fp32")
