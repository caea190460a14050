from __future__ import annotations

import json

import onnx
import pytest

from steel_batch.engine.compiler import compile_graph, graph_precision, layer_types
from steel_batch.errors import EngineError
from tests.tiny_engine import tiny_graph

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")


def test_a_plan_is_compiled_without_a_gpu_in_the_types_of_its_graph() -> None:
    built = compile_graph(
        tiny_graph(64, 160, precision="fp16"), trt=trt, precision="fp16", batch_size=8
    )
    assert built.strongly_typed
    assert built.layers["fp16"] > built.layers["fp32"]
    assert built.layers["uint8"] == 1
    assert len(built.plan) > 10_000
    full = compile_graph(tiny_graph(64, 160), trt=trt, precision="fp32", batch_size=8)
    assert "fp16" not in full.layers
    assert full.plan != built.plan


def test_where_types_are_strong_each_precision_has_its_own_graph() -> None:
    assert [graph_precision(trt, p) for p in ("fp32", "fp16", "int8")] == ["fp32", "fp16", "int8"]


def unknown_operator() -> bytes:
    model = onnx.load_model_from_string(tiny_graph(64, 160))
    model.graph.node[1].op_type = "NoSuchOperator"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("graph", "message"),
    [(b"no graph", "Failed to parse the ONNX model"), (unknown_operator(), r"node 1 of the graph")],
)
def test_a_graph_that_is_not_parsed_is_explained_in_one_paragraph(
    graph: bytes, message: str
) -> None:
    with pytest.raises(EngineError, match=message) as refused:
        compile_graph(graph, trt=trt, precision="fp16", batch_size=8)
    text = str(refused.value)
    assert text.startswith(f"tensorrt_rtx {trt.__version__} cannot parse the fp16 graph: ")
    assert "\n" not in text
    assert ".." not in text


def test_the_types_of_layers_are_read_in_each_versions_words() -> None:
    tensorrt_8_5 = {
        "Layers": [
            {"Name": "conv", "Outputs": [{"Format/Datatype": "Channel major FP16 format where …"}]},
            {"Name": "quantised", "Outputs": [{"Format/Datatype": "Thirty-two wide Int8 format"}]},
            {"Name": "mask", "Outputs": [{"Format/Datatype": "Row major linear UInt8 format"}]},
            {"Name": "nothing", "Outputs": []},
        ],
        "Bindings": ["image", "mask"],
    }
    assert layer_types(json.dumps(tensorrt_8_5)) == {"fp16": 1, "int8": 1, "uint8": 1}
    newer = {"Layers": [{"Outputs": [{"Format": "Row major linear", "DataType": "Half"}]}]}
    assert layer_types(json.dumps(newer)) == {"fp16": 1}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": ["conv1", "conv2"]}'])
def test_where_the_inspector_says_nothing_no_types_are_made_up(text: str) -> None:
    assert layer_types(text) == {}
