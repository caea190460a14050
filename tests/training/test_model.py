from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steel_batch.errors import ConfigError
from training.export import check_graph, export_graph
from training.model import ContractGraph, ModelConfig, Segmenter

SMALL: dict[str, Any] = {"encoder": "resnet18", "decoder_channels": (16, 16, 16, 8, 8)}


@pytest.mark.parametrize(
    ("changes", "stride"),
    [
        ({}, 1),
        ({"input_stride": 2}, 2),
        ({"input_stride": 2, "output_stride": 2}, 4),
        ({"input_stride": 2, "fold": "channels", "head": "subpixel"}, 1),
        ({"input_upscale": 2}, 1),
    ],
)
def test_each_shape_gives_logits_at_its_stride_and_exports(
    changes: dict[str, Any], stride: int
) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(ModelConfig(**SMALL, **changes), 3).eval()
    image_HW = np.random.default_rng(0).integers(0, 256, (40, 72)).astype(np.uint8)
    image = torch.from_numpy(image_HW)[None, None]
    with torch.no_grad():
        logits = segmenter(image / 255)
    assert logits.shape == (1, 3, 40 // stride, 72 // stride)
    graph = ContractGraph(segmenter, (0.5,) * 3).eval()
    onnx_bytes = export_graph(graph, 40, 72, precision="fp32")
    assert check_graph(graph, onnx_bytes, [image_HW], precision="fp32").num_differing == 0


def test_a_folded_input_keeps_what_an_average_loses() -> None:
    one = torch.zeros(1, 1, 64, 64)
    other = one.clone()
    one[..., ::2, ::2], other[..., 1::2, 1::2] = 1, 1  # the same mean in every square
    for fold, is_same in (("average", True), ("channels", False)):
        torch.manual_seed(0)
        network = Segmenter(ModelConfig(**SMALL, input_stride=2, fold=fold), 1).eval()
        with torch.no_grad():
            assert torch.allclose(network(one), network(other)) is is_same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": "max"}, "model.fold is 'max', not average or channels."),
        ({"input_upscale": 3}, "model.input_upscale is 3, not 1 or 2."),
        ({"input_upscale": 2, "input_stride": 2}, "give one of them"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)
