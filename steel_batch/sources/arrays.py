"""Arrow arrays of what Python and NumPy hold.

`pa.array` does the same, and imports pandas to find out whether it was given something of pandas:
a quarter of a second of CPU and 37 MB, in each process that plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def of_numbers(numbers: npt.NDArray[Any]) -> pa.Array:
    """An array of the same type, which shares the memory of contiguous numbers."""
    kind = pa.from_numpy_dtype(numbers.dtype)
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(kind, len(numbers), [None, data])


def of_flags(flags: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """An array of booleans."""
    data = pa.py_buffer(np.packbits(flags, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(flags), [None, data])


def of_texts(texts: Sequence[str | None]) -> pa.StringArray:
    """An array of texts; None becomes null.

    Raises:
        UnicodeEncodeError: A text is not UTF-8.
    """
    valid = None
    if None in texts:
        is_there = np.array([text is not None for text in texts], np.bool_)
        valid = pa.py_buffer(np.packbits(is_there, bitorder="little"))
    plain = [text or "" for text in texts]
    data = "".join(plain).encode()
    parts: Sequence[str | bytes] = plain
    if not data.isascii():
        parts = [text.encode() for text in plain]
    ends = np.zeros(len(plain) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, parts), np.int32, len(plain)), out=ends[1:])
    buffers = [valid, pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(plain), buffers)


def scalar_of(value: str | int | None) -> pa.Scalar:
    """A value to compare a column with, or to fill it with."""
    if value is None:
        return pa.NA
    if isinstance(value, str):
        return of_texts([value])[0]
    if isinstance(value, bool):
        return of_flags(np.array([value]))[0]
    return of_numbers(np.array([value], np.int64))[0]


def numbers_in(array: pa.Array) -> npt.NDArray[Any]:
    """The numbers of an array without nulls, in its own memory."""
    kind = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1] or b""
    return np.frombuffer(data, kind, len(array), array.offset * kind.itemsize)


def flags_in(array: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    """The booleans of an array; null is false."""
    valid, data = array.buffers()
    found = _bits(data, array)
    return found & _bits(valid, array) if array.null_count else found


def _bits(data: pa.Buffer | None, array: pa.Array) -> npt.NDArray[np.bool_]:
    stop = array.offset + len(array)
    packed = np.frombuffer(data or b"", np.uint8)
    bits = np.unpackbits(packed, count=stop, bitorder="little")
    return bits[array.offset :].view(np.bool_)


def bytes_of(batch: pa.RecordBatch) -> int:
    """The bytes of a batch's values; about, where PyArrow cannot count those of a view of text."""
    try:
        return int(batch.nbytes)
    except pa.ArrowTypeError:  # by PyArrow 21
        return int(batch.get_total_buffer_size())
