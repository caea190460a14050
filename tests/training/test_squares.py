from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from training.export import check_graph, export_graph
from training.model import ContractGraph, Segmenter
from training.quantize import quantize_graph
from training.recipe import ModelConfig


def graph(**model: Any) -> ContractGraph:
    """Of a network with running statistics of its own."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"encoder": "residual10", "encoder_channels": (16, 16, 32, 32, 48),
                "decoder_channels": (32, 24, 16, 16, 16), "output_stride": 4,
                "head": "subpixel"}  # fmt: skip
    segmenter = Segmenter(ModelConfig(**(settings | model)), 3).train()
    for _ in range(3):
        segmenter(torch.rand(4, 1, 64, 64))
    return ContractGraph(segmenter.eval(), (0.5, 0.52, 0.45)).eval()


def noise(height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, height, width))
    return torch.from_numpy(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(64, 96), (50, 90)])
@pytest.mark.parametrize(
    "model", [{}, {"output_stride": 2}, {"input_stride": 2}, {"input_stride": 4}]
)
def test_masks_peaks_and_counts_of_squares_are_those_of_all_pixels(
    size: tuple[int, int], model: dict[str, Any]
) -> None:
    made = graph(**model)
    image = noise(*size)
    with torch.no_grad():
        mask, peak, count = made(image)
        logits = made.logits(image)
    over = logits > made.limits
    bits = (2 ** torch.arange(3)).view(1, 3, 1, 1)
    assert torch.equal(mask, (over * bits).sum(1, keepdim=True).to(torch.uint8))
    assert 0 < mask.float().mean() < 7
    torch.testing.assert_close(peak, torch.sigmoid(logits.amax((2, 3))), rtol=0, atol=1e-6)
    assert torch.equal(count, over.float().sum((2, 3)))
    exported = export_graph(made, *size, precision="fp32")
    assert check_graph(made, exported, [image[0, 0].numpy()], precision="fp32").band < 0.001


def test_counts_stay_exact_in_float16() -> None:
    made = graph()
    exported = export_graph(made, 256, 512, precision="fp16")
    image_HW = noise(256, 512)[0, 0].numpy()
    check_graph(made, exported, [image_HW], precision="fp16")  # refuses any other count


def test_what_makes_masks_of_logits_is_not_quantised() -> None:
    exported = export_graph(graph(), 64, 96, precision="fp32")
    images = [noise(64, 96)[k, 0].numpy() for k in range(2)]
    model = onnx.load_model_from_string(quantize_graph(exported, images, "minmax"))
    ops = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in ops
    makers = {output: node for node in model.graph.node for output in node.output}
    greater = next(node for node in model.graph.node if node.op_type == "Greater")
    head = makers[greater.input[0]]
    assert head.op_type == "Conv"
    assert makers.get(head.input[1], head).op_type != "DequantizeLinear", "the head is not either"
    after = ops[ops.index("Greater") :]
    assert not {"QuantizeLinear", "DequantizeLinear"}.intersection(after)


def test_only_the_mask_is_brought_to_full_resolution() -> None:
    model = onnx.load_model_from_string(export_graph(graph(), 64, 96, precision="fp32"))
    readers = [node.op_type for node in model.graph.node if "DepthToSpace" in node.input[0]]
    assert [node.op_type for node in model.graph.node].count("DepthToSpace") == 1
    assert readers == ["Cast"]
    assert "Shape" not in [node.op_type for node in model.graph.node]
