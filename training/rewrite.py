"""Rewrites an exported graph so that every parser accepts it.

Constants are precomputed, every Resize gets constant scales, unused nodes are removed, and the
shapes that the contract fixes are declared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK
from training.session import open_session


def simplify(model: onnx.ModelProto, height: int, width: int) -> None:
    """Fold constants, fix resizes, remove unused nodes, declare shapes; all in place."""
    _fold_constants(model)
    _fix_resizes(model, np.zeros((1, 1, height, width), np.uint8))
    _drop_unused(model)
    _state_shapes(model, height, width)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Compute what depends only on constants, so that no parser has to."""
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in list(graph.node):
        names = [name for name in node.input if name]
        if len(node.output) != 1 or any(name not in known for name in names):
            continue
        feeds = {name: known[name] for name in names}
        (value,) = ReferenceEvaluator(node).run(None, feeds)
        known[node.output[0]] = np.asarray(value)
        graph.initializer.append(numpy_helper.from_array(known[node.output[0]], node.output[0]))
        graph.node.remove(node)


def _fix_resizes(model: onnx.ModelProto, image: npt.NDArray[np.uint8]) -> None:
    """Give every Resize constant scales instead of computed sizes."""
    computed = [
        node
        for node in model.graph.node
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]
    ]
    shapes = _shapes_of(
        model, [n for node in computed for n in (node.input[0], *node.output)], image
    )
    for number, node in enumerate(computed):
        before, after = shapes[node.input[0]], shapes[node.output[0]]
        scales = np.array([1, 1, *map(resize_scale, before[2:], after[2:])], np.float32)
        name = f"resize_scales_{number}"
        model.graph.initializer.append(numpy_helper.from_array(scales, name))
        del node.input[1:]
        node.input.extend(["", name])


def resize_scale(before: int, after: int) -> np.float32:
    """Return the float32 scale by which a Resize turns `before` rows into `after` rows.

    ONNX, ONNX Runtime and TensorRT round ``before * scale`` down. The float32 nearest to the
    quotient may be below it, and then a row is lost: 12 rows times float32(25 / 12) are 24. So this
    is the smallest float32 whose exact product is not below `after`.
    """
    scale = np.float32(after / before)
    while before * float(scale) < after:  # exact: 24 bits times a size
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _shapes_of(
    model: onnx.ModelProto, names: Sequence[str], image: npt.NDArray[np.uint8]
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of inner tensors by running the graph once."""
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    for name in dict.fromkeys(names):
        if name not in known:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    values = open_session(probe.SerializeToString()).run(list(names), {IMAGE: image})
    return {name: value.shape for name, value in zip(names, values, strict=True)}


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that are not used."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {output.name for output in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _state_shapes(model: onnx.ModelProto, height: int, width: int) -> None:
    """Write the shapes that the contract fixes in place of the exporter's symbols."""
    for tensor in model.graph.output:
        dims = tensor.type.tensor_type.shape.dim
        if tensor.name == MASK:
            for dim, size in zip(dims[1:], (1, height, width), strict=True):
                dim.dim_value = size
        else:
            for dim in list(dims)[2:]:
                dims.remove(dim)


def halve(model: onnx.ModelProto) -> None:
    """Convert weights and activations to float16, after normalisation was folded into the weights.

    Folding after the conversion would round each weight several times, and all of a channel the
    same way, with five times the error. Peaks and counts stay float32, and so must scales.
    """
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    kept = set()
    for name in (PEAK, COUNT):
        while makers[name].op_type != "Cast":
            name = makers[name].input[0]
        kept.add(name)
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] not in kept:
            (to,) = node.attribute
            to.i = TensorProto.FLOAT16 if to.i == TensorProto.FLOAT else to.i
    scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            halved = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    del graph.value_info[:]  # states the types before
