"""Protobuf's wire format, as far as an ONNX file needs it: its fields, read and written.

Scoring needs no ONNX library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: memoryview | int
    """Its bytes, or the number of a varint."""
    encoded: memoryview
    """Key, length and value as they are in the message."""


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in their order.

    Raises:
        ValueError: It is not protobuf.
        IndexError: It is cut off within a number.
    """
    position = 0
    while position < len(message):
        start = position
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        value: memoryview | int
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _BYTES or wire in _FIXED:
            if wire == _BYTES:
                length, position = _varint(message, position)
            else:
                length = _FIXED[wire]
            value = message[position : position + length]
            if len(value) < length:
                raise ValueError("it is cut off")
            position += length
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        yield Field(number, value, message[start:position])


def encoded(number: int, value: bytes) -> bytes:
    """Encode a field of bytes, a text or a message."""
    return _number(number << 3 | _BYTES) + _number(len(value)) + value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Read the number at a position; return it and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise ValueError("it has a number of more than 64 bits")


def _number(value: int) -> bytes:
    """Encode a number as a varint."""
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
