from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from training.export import export_graph
from training.model import ContractGraph
from training.resampling import ConstantResampling

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)
WIDE = st.tuples(SIDES, st.integers(2, 40))
"""PyTorch 2.15 repeats the first row where it resizes with antialiasing to one column."""


@given(before=SIZES, after=SIZES, seed=st.integers(0, 99))
def test_adaptive_pooling_is_two_products_of_matrices(
    before: tuple[int, int], after: tuple[int, int], seed: int
) -> None:
    image = torch.rand(2, 3, *before, generator=torch.manual_seed(seed))
    with ConstantResampling():
        pooled = functional.adaptive_avg_pool2d(image, after)
        area = functional.interpolate(image, size=after, mode="area")
    torch.testing.assert_close(pooled, functional.adaptive_avg_pool2d(image, after))
    torch.testing.assert_close(area, functional.interpolate(image, size=after, mode="area"))


@given(before=SIZES, after=WIDE, mode=st.sampled_from(["bilinear", "bicubic"]))
def test_antialiased_resizing_is_two_products_of_matrices(
    before: tuple[int, int], after: tuple[int, int], mode: str
) -> None:
    image = torch.rand(1, 2, *before, generator=torch.manual_seed(0))
    options: dict[str, Any] = {"size": after, "mode": mode, "antialias": True}
    with ConstantResampling():
        found = functional.interpolate(image, **options)
    torch.testing.assert_close(
        found, functional.interpolate(image, **options), atol=1e-5, rtol=1e-5
    )


class Pool(nn.Module):
    """A network of nothing but pooling, after a padding that hides the size from the exporter."""

    stride = side = 1
    name = "Pool"

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, image: Tensor) -> Tensor:
        height, width = (int(side) for side in image.shape[-2:])
        pooled = self.pool(functional.pad(image, (0, 3, 0, 1)))
        return functional.interpolate(pooled, size=(height, width), mode="bilinear")


@pytest.mark.parametrize(
    ("size", "num_products", "is_global"), [(6, 2, False), ((None, 4), 2, False), (1, 0, True)]
)
def test_only_what_the_exporter_lacks_is_replaced_and_by_constants(
    size: Any, num_products: int, is_global: bool
) -> None:
    graph = ContractGraph(Pool(size), (0.5,))  # type: ignore[arg-type]
    model = onnx.load_model_from_string(export_graph(graph, 10, 13, precision="fp32"))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMul") == num_products
    assert ("GlobalAveragePool" in kinds) is is_global
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert constants.intersection(node.input)
