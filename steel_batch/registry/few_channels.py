"""Changes a graph so that ONNX Runtime resizes an engine's few classes alone on a CPU.

ONNX Runtime computes convolutions in blocks of 8 or 16 channels, and keeps that layout for the
bilinear Resize after them. With four classes it resizes twelve channels of zeros, too, at the size
of the image, and then takes them out again: a tenth of the demo engine's time. No option prevents
that, but it is only done to a Resize that places pixels by ``half_pixel``. ``pytorch_half_pixel``
places them equally, except where the output is a single pixel wide or high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from steel_batch.registry.protobuf import encoded, fields

MOST_CLASSES: Final = 6
"""With more of them, blocks are as fast."""

# Numbers of the fields of a model, a graph, a node and an attribute in onnx.proto.
_GRAPH: Final = 7
_NODE: Final = 1
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5
_NAME, _TEXT = 1, 4

_PLACED_BY: Final = b"coordinate_transformation_mode"
_IN_BLOCKS: Final = {b"mode": b"linear", _PLACED_BY: b"half_pixel"}
_WITHOUT_EFFECT: Final = {b"cubic_coeff_a", b"nearest_mode"}
"""Exporters write these, too; a Resize with any other attribute stays as it is."""


def resized_without_blocks(graph: bytes, *, num_classes: int) -> bytes:
    """Have the values that an engine compares with its thresholds resized without blocks.

    Args:
        graph: ONNX bytes of the engine.
        num_classes: Its classes: the channels of these values.

    Returns:
        ONNX bytes of a graph with the same output, within the last digit of a peak, if none of its
        sides is a single pixel.

    Raises:
        ValueError: `graph` is not protobuf.
        IndexError: It is cut off.
    """
    if num_classes > MOST_CLASSES:
        return graph

    def change_graph(content: memoryview) -> bytes:
        compared = {
            name
            for node in _values(content, _NODE)
            if b"Greater" in _values(node, _OP_TYPE)
            for name in _values(node, _INPUT)
        }

        def change_node(node: memoryview) -> bytes:
            is_resize = b"Resize" in _values(node, _OP_TYPE)
            if is_resize and compared.intersection(_values(node, _OUTPUT)):
                return _without_blocks(node)
            return bytes(node)

        return _changed(content, _NODE, change_node)

    return _changed(memoryview(graph), _GRAPH, change_graph)


def _without_blocks(resize: memoryview) -> bytes:
    """Name another placement of pixels if it is the one that is computed in blocks."""
    texts = {
        name: text
        for attribute in _values(resize, _ATTRIBUTE)
        for name in _values(attribute, _NAME)
        for text in _values(attribute, _TEXT)
    }
    names = {n for attribute in _values(resize, _ATTRIBUTE) for n in _values(attribute, _NAME)}
    is_plain = names <= _IN_BLOCKS.keys() | _WITHOUT_EFFECT
    if not is_plain or not _IN_BLOCKS.items() <= texts.items():
        return bytes(resize)

    def change(attribute: memoryview) -> bytes:
        if _PLACED_BY not in _values(attribute, _NAME):
            return bytes(attribute)
        return _changed(attribute, _TEXT, lambda _: b"pytorch_half_pixel")

    return _changed(resize, _ATTRIBUTE, change)


def _values(message: memoryview, number: int) -> list[memoryview]:
    """The texts or messages of a field that may be repeated."""
    return [
        field.value
        for field in fields(message)
        if field.number == number and isinstance(field.value, memoryview)
    ]


def _changed(message: memoryview, number: int, change: Callable[[memoryview], bytes]) -> bytes:
    """Encode a message with the texts or messages of one field replaced."""
    return b"".join(
        encoded(number, change(field.value))
        if field.number == number and isinstance(field.value, memoryview)
        else field.encoded
        for field in fields(message)
    )
