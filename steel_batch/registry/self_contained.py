"""Checks that an ONNX file holds the whole model.

A tensor of a graph may store its values in another file. ONNX Runtime and TensorRT would read that
file, by a path that the graph chooses, on the machine that loads it, and its bytes would become
part of what the engine computes. So such a graph is refused before anything loads it. The file is
parsed as protobuf (onnx.proto): no ONNX library is trusted with this check.
"""

from __future__ import annotations

from typing import Final

from steel_batch.errors import EngineError
from steel_batch.registry.protobuf import fields

MAX_DEPTH: Final = 64
"""Limit of nested messages; loops and branches of real models need only a few."""
_EXTERNAL: Final = {13, 14}
"""Field numbers of `external_data` and `data_location` in a TensorProto."""
_PARTS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Per message, the fields that can contain a tensor, and the type of message in each."""


def check_self_contained(graph: bytes, *, name: str) -> None:
    """Refuse a graph that takes values from another file.

    Args:
        graph: ONNX bytes.
        name: Name of the graph, for messages.

    Raises:
        EngineError: A tensor's values are in another file, or the file is not ONNX.
    """
    try:
        _walk(memoryview(graph), "model", name, depth=0)
    except (IndexError, ValueError) as error:
        raise EngineError(
            f"{name} is not an ONNX file: {error}. Export it again with training/export.py."
        ) from error


def _walk(message: memoryview, kind: str, name: str, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"its messages are nested deeper than {MAX_DEPTH}")
    parts = _PARTS[kind]
    for number, value, _ in fields(message):
        if kind == "tensor" and number in _EXTERNAL and (number == 13 or value != 0):
            raise EngineError(
                f"{name} stores values of a tensor in another file (external data) and is not "
                "loaded: an engine is one file. Save the model with its weights inside, for "
                "example with onnx.save(model, path, save_as_external_data=False)."
            )
        if number in parts and isinstance(value, memoryview):
            _walk(value, parts[number], name, depth=depth + 1)
