from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from steel_batch.engine.compiler import compile_graph
from steel_batch.errors import EngineError
from training.export import check_graph, export_graph
from training.model import ContractGraph, Segmenter
from training.recipe import ModelConfig

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def graph() -> ContractGraph:
    torch.manual_seed(0)
    network = Segmenter(ModelConfig(encoder="narrow16", decoder_channels=(32, 16, 16, 16, 16)), 2)
    return ContractGraph(network, (0.5, 0.5)).eval()


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(3)]


def with_limits_moved(data: bytes, logits: float) -> bytes:
    model = onnx.load_model_from_string(data)
    (greater,) = [node for node in model.graph.node if node.op_type == "Greater"]
    (limits,) = [t for t in model.graph.initializer if t.name == greater.input[1]]
    moved = numpy_helper.to_array(limits) + np.float32(logits)
    limits.CopyFrom(numpy_helper.from_array(moved, limits.name))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_exported_graph_agrees_outside_the_band_that_is_stated(
    graph: ContractGraph, precision: str
) -> None:
    data = export_graph(graph, HEIGHT, WIDTH, precision=precision)
    agreement = check_graph(graph, data, images(), precision=precision)
    assert agreement.num_pixels == 3 * HEIGHT * WIDTH
    assert (agreement.band == 0) == (agreement.num_differing == 0)
    assert agreement.band < {"fp32": 0.001, "fp16": 0.05}[precision]


def test_a_graph_with_other_thresholds_is_refused_with_how_far_off_it_is(
    graph: ContractGraph,
) -> None:
    data = export_graph(graph, HEIGHT, WIDTH, precision="fp32")
    with pytest.raises(EngineError, match=r"fp32 graph .* disagree on [\d,]+ of 18,432 pixels"):
        check_graph(graph, with_limits_moved(data, 0.02), images(), precision="fp32")


def test_a_graph_is_of_the_opset_that_every_tensorrt_parses_and_resizes_by_constants(
    graph: ContractGraph,
) -> None:
    """TensorRT 8.5 refuses a Resize whose sizes are computed, and operators of later opsets."""
    for precision in ("fp32", "fp16"):
        data = export_graph(graph, HEIGHT, WIDTH, precision=precision)
        model = onnx.load_model_from_string(data)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        constants = {tensor.name for tensor in model.graph.initializer}
        resizes = [node for node in model.graph.node if node.op_type == "Resize"]
        assert resizes
        assert all(len(node.input) == 3 and node.input[2] in constants for node in resizes)


def test_float16_weights_are_rounded_once(graph: ContractGraph) -> None:
    """Normalisation is folded into them before; folding in float16 cost five times the error."""
    fp32, fp16 = (
        onnx.load_model_from_string(export_graph(graph, HEIGHT, WIDTH, precision=precision))
        for precision in ("fp32", "fp16")
    )
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in fp32.graph.initializer}
    assert not any(node.op_type == "BatchNormalization" for node in fp32.graph.node)
    halved = [t for t in fp16.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halved) > 20
    for tensor in halved:
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), exact[tensor.name].astype(np.float16)
        )
    assert [(t.name, t.type.tensor_type.elem_type) for t in fp16.graph.output] == [
        (t.name, t.type.tensor_type.elem_type) for t in fp32.graph.output
    ]


class Strange(nn.Module):
    """A network with an operator that ONNX lacks."""

    stride = 1
    name = "Strange"

    def forward(self, image_N1HW: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_max_pool2d(image_N1HW, (5, 7))


def test_a_network_that_cannot_be_exported_is_refused_in_one_line_and_prints_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    unfit = ContractGraph(Strange(), (0.5,))  # type: ignore[arg-type]
    with pytest.raises(
        EngineError,
        match=r"Strange cannot be exported at 64×96 .* Choose another --archi",
    ) as no:
        export_graph(unfit, 64, 96, precision="fp32")
    assert "\n" not in str(no.value)
    assert capfd.readouterr().out == ""


def test_tensorrt_builds_plans_of_both_precisions_strongly_typed(graph: ContractGraph) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")
    for precision, other in (("fp32", "fp16"), ("fp16", "fp32")):
        data = export_graph(graph, HEIGHT, WIDTH, precision=precision)
        built = compile_graph(data, trt=trt, precision=precision, batch_size=4)
        assert built.strongly_typed
        assert built.layers[precision] > 10 * built.layers.get(other, 0)
