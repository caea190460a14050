from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, shape_inference

from training.rewrite import resize_scale
from training.session import open_session

SIDES = st.integers(1, 4096)


def resize_graph(before: int, scale: np.float32) -> onnx.ModelProto:
    scales = numpy_helper.from_array(np.array([1, 1, 1, scale], np.float32), "scales")
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode="linear",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 1, before))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [scales],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def columns(before: int, scale: np.float32) -> tuple[int, int]:
    """What ONNX infers and what ONNX Runtime makes."""
    model = resize_graph(before, scale)
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    (made,) = open_session(model.SerializeToString(), num_threads=1).run(
        None, {"x": np.zeros((1, 1, 1, before), np.float32)}
    )
    return inferred.type.tensor_type.shape.dim[3].dim_value, made.shape[3]


@pytest.mark.skipif(
    tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 22),
    reason="ONNX infers sizes in double precision from 1.22 on",
)
def test_the_nearest_float_of_a_scale_loses_a_row_and_ours_does_not() -> None:
    inferred, made = columns(12, np.float32(25 / 12))
    assert (inferred, made) == (24, 25), "ONNX rounds down in double precision, its runtime not"
    assert columns(12, resize_scale(12, 25)) == (25, 25)


@given(before=SIDES, after=SIDES)
def test_a_scale_makes_its_rows_in_single_and_in_double_precision(before: int, after: int) -> None:
    scale = resize_scale(before, after)
    assert scale.dtype == np.float32
    assert math.floor(np.float32(before) * scale) == after
    assert math.floor(before * float(scale)) == after
    if after % before == 0:
        assert scale == after // before, "whole factors stay exact"


@given(before=st.integers(1, 60), after=st.integers(1, 120))
def test_onnx_and_its_runtime_make_the_rows_that_are_meant(before: int, after: int) -> None:
    assert columns(before, resize_scale(before, after)) == (after, after)
