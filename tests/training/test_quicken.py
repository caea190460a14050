from __future__ import annotations

import copy
from typing import Any

import onnx
import pytest
import torch

from tests.training.test_squares import graph, noise
from training.export import check_graph, export_graph
from training.model import ContractGraph, Segmenter
from training.quicken import quicken
from training.recipe import ModelConfig


@pytest.mark.parametrize("size", [(64, 96), (50, 90)])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"encoder": "resnet18", "encoder_channels": (), "output_stride": 2},
        {"encoder": "narrow16", "encoder_channels": (), "input_stride": 2, "output_stride": 1},
    ],
)
def test_a_quickened_network_gives_the_same_logits(
    size: tuple[int, int], model: dict[str, Any]
) -> None:
    before = graph(**model)
    after = copy.deepcopy(before)
    quicken(after)
    with torch.no_grad():
        expected, found = before.logits(noise(*size)), after.logits(noise(*size))
    assert (expected - found).abs().max() < 1e-4 * expected.abs().max()
    assert len(list(after.modules())) != len(list(before.modules()))


@pytest.mark.parametrize(("precision", "band"), [("fp32", 0.001), ("fp16", 0.05)])
def test_an_exported_graph_joins_nothing_and_folds_the_image_first(
    precision: str, band: float
) -> None:
    made = graph()
    exported = export_graph(made, 64, 96, precision=precision)
    model = onnx.load_model_from_string(exported)
    ops = [node.op_type for node in model.graph.node]
    assert "Concat" not in ops
    assert "Shape" not in ops
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert weights[first.input[1]] == (16, 4, 3, 3)
    image_HW = noise(64, 96)[0, 0].numpy()
    assert check_graph(made, exported, [image_HW], precision=precision).band < band


def test_a_decoder_block_without_a_skip_is_quickened_too() -> None:
    plain = ModelConfig(encoder="narrow16", decoder_channels=(16, 16, 16, 16, 16))
    before = ContractGraph(Segmenter(plain, 3), (0.5,) * 3).eval()
    after = copy.deepcopy(before)
    quicken(after)
    with torch.no_grad():
        expected, found = before.logits(noise(64, 96)), after.logits(noise(64, 96))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
