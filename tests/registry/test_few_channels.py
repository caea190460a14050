"""An engine's few classes are resized as they are, with the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK
from steel_batch.registry.few_channels import MOST_CLASSES, resized_without_blocks
from steel_batch.registry.graph import open_session
from steel_batch.registry.versions import load_engine

PLACED_BY = "coordinate_transformation_mode"


def graph_of(
    *,
    num_classes: int = 4,
    mode: str = "linear",
    placed_by: str = "half_pixel",
    stride: int = 2,
    **more: object,
) -> bytes:
    """Two resizes after each other, of which the second is compared with thresholds."""
    random = np.random.default_rng(7)
    weight = random.normal(size=(num_classes, 1, 3, 3)).astype(np.float32)
    settings: dict[str, object] = {"mode": mode, PLACED_BY: placed_by, **more}
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["small"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["small", "", "scales"], ["inner"], **settings),
        helper.make_node("Resize", ["inner", "", "scales"], ["logits"], **settings),
        helper.make_node("Greater", ["logits", "limits"], ["over"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "resizes",
        [value("x", TensorProto.FLOAT, ["N", 1, 6, 10])],
        [
            value("logits", TensorProto.FLOAT, ["N", num_classes, None, None]),
            value("over", TensorProto.BOOL, ["N", num_classes, None, None]),
        ],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([1, 1, stride, stride], np.float32), "scales"),
            numpy_helper.from_array(np.zeros((1, num_classes, 1, 1), np.float32), "limits"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def placements(graph: bytes) -> list[str]:
    return [
        helper.get_node_attr_value(node, PLACED_BY).decode()
        for node in onnx.load_model_from_string(graph).graph.node
        if node.op_type == "Resize"
    ]


def logits(graph: bytes) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(8).normal(size=(2, 1, 6, 10)).astype(np.float32)
    (found,) = session.run(["logits"], {"x": x})
    return found


@pytest.mark.parametrize("num_classes", [1, 4, MOST_CLASSES])
@pytest.mark.parametrize("stride", [2, 4])
def test_only_the_resize_before_the_thresholds_is_changed_and_computes_the_same(
    num_classes: int, stride: int
) -> None:
    graph = graph_of(num_classes=num_classes, stride=stride)
    changed = resized_without_blocks(graph, num_classes=num_classes)
    assert placements(changed) == ["half_pixel", "pytorch_half_pixel"]
    np.testing.assert_allclose(logits(changed), logits(graph), rtol=1e-5, atol=1e-6)
    back = onnx.load_model_from_string(changed)
    (attribute,) = (a for a in back.graph.node[2].attribute if a.name == PLACED_BY)
    attribute.s = b"half_pixel"
    assert back == onnx.load_model_from_string(graph)


@pytest.mark.parametrize(
    ("graph", "num_classes"),
    [
        (graph_of(num_classes=MOST_CLASSES + 1), MOST_CLASSES + 1),
        (graph_of(mode="nearest"), 4),
        (graph_of(placed_by="asymmetric"), 4),
        (graph_of(placed_by="align_corners"), 4),
        (graph_of(exclude_outside=1), 4),
    ],
)
def test_other_graphs_stay_as_they_are(graph: bytes, num_classes: int) -> None:
    assert resized_without_blocks(graph, num_classes=num_classes) == graph


def test_the_demo_engine_resizes_its_four_classes_without_blocks(tmp_path: Path) -> None:
    engine = load_engine("demo", store=None)
    graph = engine.read_graph("fp32")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that this file is for this machine
    changed = resized_without_blocks(graph, num_classes=len(engine.card.classes))
    onnxruntime.InferenceSession(changed, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    maker = {name: node for node in optimised.graph.node for name in node.output}
    (compared,) = (node for node in optimised.graph.node if node.op_type == "Greater")
    assert maker[compared.input[0]].op_type == "Resize"


def test_a_resize_that_excludes_what_is_outside_loads_as_it_did() -> None:
    graph = graph_of(exclude_outside=1)
    changed = resized_without_blocks(graph, num_classes=4)
    np.testing.assert_array_equal(logits(changed), logits(graph))


def test_an_engine_of_strips_one_pixel_high_places_it_as_exported() -> None:
    card = replace(load_engine("demo", store=None).card, height=1, width=160)
    graph = one_row_engine(len(card.classes))
    images = np.random.default_rng(1).integers(0, 256, (2, 1, 1, 160), np.uint8)
    plain = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    expected = plain.run([MASK, PEAK, COUNT], {IMAGE: images})
    session = open_session(graph, card, precision="fp32")
    for found, wanted in zip(
        session.run([MASK, PEAK, COUNT], {IMAGE: images}), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def one_row_engine(num_classes: int) -> bytes:
    """An engine whose network has four rows for the only one of an image."""
    weight = np.random.default_rng(0).normal(size=(num_classes, 1, 3, 3)).astype(np.float32)
    placed = {"mode": "linear", PLACED_BY: "half_pixel"}
    make, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Cast", [IMAGE], ["x"], to=TensorProto.FLOAT),
        make("Pad", ["x", "pads"], ["rows"], mode="edge"),
        make("Conv", ["rows", "weight"], ["small"], pads=[1] * 4),
        make("Resize", ["small", "", "scales"], ["logits"], **placed),
        make("Greater", ["logits", "limits"], ["over"]),
        make("Cast", ["over"], ["ones"], to=TensorProto.FLOAT),
        make("ReduceSum", ["ones", "sides"], [COUNT], keepdims=0),
        make("ReduceMax", ["ones"], [PEAK], axes=[2, 3], keepdims=0),
        make("ReduceMax", ["ones"], ["any"], axes=[1], keepdims=1),
        make("Cast", ["any"], [MASK], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "one row",
        [value(IMAGE, TensorProto.UINT8, ["N", 1, 1, 160])],
        [
            value(MASK, TensorProto.UINT8, ["N", 1, 1, 160]),
            value(PEAK, TensorProto.FLOAT, ["N", num_classes]),
            value(COUNT, TensorProto.FLOAT, ["N", num_classes]),
        ],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 3, 0], np.int64), "pads"),
            numpy_helper.from_array(np.array([1, 1, 0.25, 1], np.float32), "scales"),
            numpy_helper.from_array(np.zeros((1, num_classes, 1, 1), np.float32), "limits"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "sides"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_the_demo_engine_marks_the_same_pixels() -> None:
    engine = load_engine("demo", store=None)
    graph = engine.read_graph("fp32")
    images = np.random.default_rng(9).integers(0, 256, (2, 1, 256, 1600), np.uint8)
    plain = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    expected = plain.run([MASK, PEAK, COUNT], {IMAGE: images})
    found = open_session(graph, engine.card, precision="fp32").run(
        [MASK, PEAK, COUNT], {IMAGE: images}
    )
    assert expected[2].any()
    assert np.count_nonzero(found[0] != expected[0]) <= 1  # a value may be equal to its threshold
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=1)
