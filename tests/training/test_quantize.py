from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from steel_batch.engine.compiler import compile_graph
from steel_batch.errors import EngineError
from steel_batch.registry.card import IMAGE
from tests.tiny_engine import tiny_graph
from training.export import export_graph
from training.metrics import ClassMetrics, Metrics
from training.model import ContractGraph, Segmenter
from training.quantize import CALIBRATIONS, compare, quantize_graph
from training.recipe import ModelConfig
from training.session import open_session

SMALL = ModelConfig(encoder="narrow16", decoder_channels=(16, 16, 16, 16, 16), output_stride=2)


@pytest.fixture(scope="module", params=CALIBRATIONS)
def graphs(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, bytes]:
    torch.manual_seed(0)
    graph = ContractGraph(Segmenter(SMALL, 2).eval(), (0.5, 0.5)).eval()
    fp32 = export_graph(graph, 64, 96, precision="fp32")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96)).astype(np.uint8) for _ in range(3)]
    return onnx.load_model_from_string(quantize_graph(fp32, images, request.param)), fp32


def test_the_first_and_last_convolution_stay_in_float(
    graphs: tuple[onnx.ModelProto, bytes],
) -> None:
    nodes = graphs[0].graph.node
    makers = {output: node for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    quantised = [
        node.input[1] in makers and makers[node.input[1]].op_type == "DequantizeLinear"
        for node in convolutions
    ]
    assert quantised == [False, *[True] * (len(convolutions) - 2), False]


def test_scales_are_symmetric_weights_by_channel_and_biases_float(
    graphs: tuple[onnx.ModelProto, bytes],
) -> None:
    """TensorRT takes nothing else."""
    graph = graphs[0].graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all(constants[node.input[2]].dtype == np.int8 for node in pairs)
    assert not any(constants[node.input[2]].any() for node in pairs)
    weights = [n for n in pairs if n.input[0] in constants]
    assert all(
        constants[node.input[1]].size == constants[node.input[0]].shape[0] for node in weights
    )
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3:
            assert constants[node.input[2]].dtype == np.float32


def test_tensorrt_builds_a_plan_of_the_very_file_that_onnx_runtime_runs(
    graphs: tuple[onnx.ModelProto, bytes],
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")
    built = compile_graph(graphs[0].SerializeToString(), trt=trt, precision="int8", batch_size=4)
    quantised = [node for node in graphs[0].graph.node if node.op_type == "QuantizeLinear"]
    assert built.strongly_typed
    assert built.layers["int8"] >= len(quantised)
    assert len(built.plan) > 10_000


def quantised(architecture: str, encoder: str) -> onnx.ModelProto:
    torch.manual_seed(0)
    config = ModelConfig(architecture=architecture, encoder=encoder)
    graph = ContractGraph(Segmenter(config, 2).eval(), (0.5, 0.5))
    images = [np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.uint8)]
    data = quantize_graph(export_graph(graph, 64, 96, precision="fp32"), images, "minmax")
    return onnx.load_model_from_string(data)


def test_biases_of_linear_layers_stay_in_float() -> None:
    graph = quantised("Segformer", "narrow16").graph
    constants = {tensor.name for tensor in graph.initializer}
    dequantised = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    adds = [node for node in graph.node if node.op_type == "Add"]
    assert any(constants & {*node.input} for node in adds)
    assert not any(dequantised & {*node.input} for node in adds)


@pytest.mark.slow
def test_tensorrt_builds_a_plan_of_a_vision_transformer() -> None:
    """It refuses a quantised constant that is added to a product in float."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")
    data = quantised("DPT", "tu-vit_tiny_patch16_224").SerializeToString()
    assert compile_graph(data, trt=trt, precision="int8", batch_size=2).layers["int8"] > 10


def test_the_contract_is_kept(graphs: tuple[onnx.ModelProto, bytes]) -> None:
    images = np.random.default_rng(9).integers(0, 256, (5, 1, 64, 96)).astype(np.uint8)
    mask, peak, count = open_session(graphs[0].SerializeToString()).run(None, {IMAGE: images})
    assert (mask.shape, mask.dtype) == ((5, 1, 64, 96), np.uint8)
    counted = [[np.count_nonzero(one & 1 << c) for c in range(2)] for one in mask]
    np.testing.assert_array_equal(count, counted)
    expected_peak = open_session(graphs[1]).run(["peak"], {IMAGE: images})[0]
    np.testing.assert_allclose(peak, expected_peak, atol=0.1)


def test_a_graph_without_inner_convolutions_is_refused() -> None:
    with pytest.raises(EngineError, match="1 convolutions, expected 3 or more"):
        quantize_graph(tiny_graph(64, 160), [np.zeros((64, 160), np.uint8)])


def metrics(kaggle_dice: float, *present: float | None) -> Metrics:
    classes = tuple(
        ClassMetrics(present_dice=p, recall=1, false_alarm_rate=0, iou=1, num_present=1)
        for p in present
    )
    return Metrics(
        num_images=9, kaggle_dice=kaggle_dice, mean_iou=0.5, classes=classes, confusion=(),
        calibration=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("int8", "accepted", "why"),
    [
        (metrics(0.9485, 0.8, None), True, "Kaggle Dice changes by -0.0015"),
        (metrics(0.96, 0.9, None), True, "Kaggle Dice changes by +0.0100"),
        (metrics(0.947, 0.8, None), False, "Kaggle Dice falls by 0.0030, more than 0.002"),
        (metrics(0.95, 0.788, None), False, "class 1 loses 0.0120 present-only Dice"),
    ],
)
def test_int8_is_taken_only_if_it_is_as_good(int8: Metrics, accepted: bool, why: str) -> None:
    verdict = compare(metrics(0.95, 0.8, None), int8)
    assert verdict.accepted is accepted
    assert why in verdict.why
    assert dataclasses.asdict(verdict)["present_dice_lost"][1] is None
