"""A small engine under the contract, made without training: bright bands are defects.

Class c+1 is where the blurred image lies above its own brightness. It keeps the contract to the
letter, so that everything around an engine can be tested in milliseconds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from steel_batch.engine.contract import Card, Graph, PostProcess, version_of

LEVELS = (0.55, 0.65, 0.75, 0.85)
"""Brightness above which a pixel belongs to class 1, 2, 3, 4."""
SHARPNESS = 40.0


def tiny_graph(height: int, width: int, num_classes: int = 4) -> bytes:
    """ONNX bytes of the contract graph."""
    levels = np.array(LEVELS[:num_classes], np.float32)
    weight = np.full((num_classes, 1, 3, 3), SHARPNESS / 255 / 9, np.float32)
    bias = (-SHARPNESS * levels).astype(np.float32)
    bits = (2.0 ** np.arange(num_classes)).astype(np.float32).reshape(1, num_classes, 1, 1)
    zeros = np.zeros((1,), np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "weight", "bias"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logits"], ["probability"]),
        helper.make_node("ReduceMax", ["probability"], ["peak"], axes=[2, 3], keepdims=0),
        helper.make_node("Greater", ["logits", "zero"], ["over"]),
        helper.make_node("Cast", ["over"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "spatial"], ["count"], keepdims=0),
        helper.make_node("Conv", ["ones", "bits"], ["packed"]),
        helper.make_node("Cast", ["packed"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, height, width])],
        [
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", 1, height, width]),
            helper.make_tensor_value_info("peak", TensorProto.FLOAT, ["N", num_classes]),
            helper.make_tensor_value_info("count", TensorProto.FLOAT, ["N", num_classes]),
        ],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(bits, "bits"),
            numpy_helper.from_array(zeros, "zero"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "spatial"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_tiny_engine(
    folder: Path,
    *,
    height: int = 64,
    width: int = 160,
    num_classes: int = 4,
    resize: str = "never",
    min_area_px: int = 0,
) -> Path:
    """Write a version's folder (card.json, model.onnx); its path is an engine for `score`."""
    graph = tiny_graph(height, width, num_classes)
    post = PostProcess(
        min_area_px=(min_area_px,) * num_classes,
        min_component_px=(0,) * num_classes,
        resize=resize,
    )
    card = Card(
        model="tiny",
        version=version_of({"fp32": graph}, post),
        created="2026-01-01T00:00:00+00:00",
        classes=tuple(f"band_{c + 1}" for c in range(num_classes)),
        height=height,
        width=width,
        thresholds=(0.5,) * num_classes,
        post_process=post,
        graphs=(
            Graph(file="model.onnx", sha256=hashlib.sha256(graph).hexdigest(), precision="fp32"),
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    (folder / "card.json").write_text(card.to_json())
    return folder
