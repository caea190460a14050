"""A small engine under the contract, made without training: bright bands are defects.

Class c+1 is where the blurred image lies above its own brightness. It keeps the contract to the
letter, so that everything around an engine can be tested in milliseconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from steel_batch.registry.card import Card, PostProcess, Resize

LEVELS = (0.55, 0.65, 0.75, 0.85)
"""Brightness above which a pixel belongs to class 1, 2, 3, 4."""
SHARPNESS = 40.0


def tiny_graph(
    height: int,
    width: int,
    num_classes: int = 4,
    precision: str = "fp32",
    levels: Sequence[float] = LEVELS,
) -> bytes:
    """ONNX bytes of the contract graph; fp16 has all but the counts in half precision."""
    kind = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[precision]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    limits = np.array(levels[:num_classes])
    weight = np.full((num_classes, 1, 3, 3), SHARPNESS / 255 / 9, dtype)
    bias = (-SHARPNESS * limits).astype(dtype)
    bits = (2.0 ** np.arange(num_classes)).astype(dtype).reshape(1, num_classes, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=kind),
        helper.make_node("Conv", ["pixels", "weight", "bias"], ["logits"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", ["logits"], ["highest"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["highest"], ["highest32"], to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["highest32"], ["peak"]),
        helper.make_node("Greater", ["logits", "zero"], ["over"]),
        helper.make_node("Cast", ["over"], ["ones32"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones32", "spatial"], ["count"], keepdims=0),
        helper.make_node("Cast", ["over"], ["ones"], to=kind),
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
            numpy_helper.from_array(np.zeros((1,), dtype), "zero"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "spatial"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_version(
    *,
    height: int = 64,
    width: int = 160,
    num_classes: int = 4,
    resize: Resize = "never",
    min_area_px: int = 0,
    precisions: Sequence[str] = ("fp32",),
    levels: Sequence[float] = LEVELS,
    created: str = "2026-01-01T00:00:00+00:00",
    metrics: Mapping[str, Any] | None = None,
) -> tuple[Card, dict[str, bytes]]:
    """A card and its graphs, as `register` takes them."""
    graphs = {p: tiny_graph(height, width, num_classes, p, levels) for p in precisions}
    post = PostProcess(
        min_area_px=(min_area_px,) * num_classes,
        min_component_px=(0,) * num_classes,
        resize=resize,
    )
    card = Card.of(
        graphs,
        {p: "model.onnx" if p == "fp32" else f"model_{p}.onnx" for p in graphs},
        model="tiny",
        created=created,
        classes=tuple(f"band_{c + 1}" for c in range(num_classes)),
        height=height,
        width=width,
        thresholds=(0.5,) * num_classes,
        post_process=post,
        metrics=metrics or {},
    )
    return card, graphs


def changed(card: Card, **fields: Any) -> Card:
    """A card with other fields, as a version of its own."""
    card = dataclasses.replace(card, **fields)
    return dataclasses.replace(card, version=card.content_version())


def write_tiny_engine(folder: Path, **settings: Any) -> Path:
    """Write a version's folder (card.json, model.onnx); its path is an engine for `score`.

    Args:
        folder: Made where it is not there.
        settings: See `tiny_version`.
    """
    card, graphs = tiny_version(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    for graph in card.graphs:
        (folder / graph.file).write_bytes(graphs[graph.precision])
    (folder / "card.json").write_text(card.to_json())
    return folder
