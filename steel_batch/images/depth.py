"""Reduces samples of more than 8 bits to 8, if the number of bits in use is known.

Cameras give 10, 12 or 14 bits, which most software stores unshifted in 16-bit samples: the high
byte of such a sample is nearly black. Files seldom state how many bits are in use. So the number is
taken from the file if its format states it, else from ``--bits``, else from the pixels themselves,
but only if they leave no doubt.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.config import FEWEST_BITS, SAMPLE_BITS
from steel_batch.errors import DecodeError

_CAMERA_BITS: Final = (8, 10, 12, 14)
"""Bits that cameras store in 16-bit samples, other than all 16."""
_SHARE: Final = 100
"""At least one sample in this many must need more than 14 bits to prove that all 16 are in use.
A few do not prove it: cameras write counters and timestamps among the pixels."""


def to_8_bits(
    samples: npt.NDArray[np.uint16], bits: int | None, *, name: str
) -> npt.NDArray[np.uint8]:
    """Keep the upper 8 of the bits in use.

    Args:
        samples: [H, W], or [H, W, 3] in OpenCV's channel order.
        bits: How many of the 16 bits are in use, 8 to 16, counted from the lowest. None: not
            stated.
        name: The format, for messages.

    Returns:
        Gray, [H, W].

    Raises:
        DecodeError: Code ``unknown_bits`` if `bits` is None and the pixels do not prove that all 16
            are in use; ``wrong_bits`` if a value needs more than `bits`.
    """
    greatest = int(samples.max())
    if bits is None:
        _check_uses_all(samples, greatest, name)
        bits = SAMPLE_BITS
    elif greatest >> bits:
        raise DecodeError(
            f"{name} of {SAMPLE_BITS} bits per sample; its greatest value is {greatest}, and "
            f"--bits {bits} allows at most {(1 << bits) - 1}.{_advice(samples, greatest)}",
            code="wrong_bits",
        )
    upper = (samples >> (bits - FEWEST_BITS)).astype(np.uint8)
    return (
        upper if upper.ndim == 2 else np.asarray(cv2.cvtColor(upper, cv2.COLOR_BGR2GRAY), np.uint8)
    )


def _check_uses_all(samples: npt.NDArray[np.uint16], greatest: int, name: str) -> None:
    num_high = int(np.count_nonzero(samples >> _CAMERA_BITS[-1]))
    if num_high * _SHARE < samples.size:
        raise DecodeError(
            f"{name} of {SAMPLE_BITS} bits per sample; its greatest value is {greatest}, and "
            f"{num_high:,} of {samples.size:,} samples need more than {_CAMERA_BITS[-1]} bits. "
            "Neither the file nor --bits states how many bits the camera uses, and read as "
            f"{SAMPLE_BITS} the image may be nearly black.{_advice(samples, greatest)}",
            code="unknown_bits",
        )


def _advice(samples: npt.NDArray[np.uint16], greatest: int) -> str:
    """Suggest a value of --bits that fits the samples."""
    used = int(np.bitwise_or.reduce(samples, axis=None))
    step = used & -used
    if step > 1 and used >> (SAMPLE_BITS - 1):
        return (
            f" All values are multiples of {step}, so the upper bits are in use: give "
            f"--bits {SAMPLE_BITS}."
        )
    fitting = next((bits for bits in _CAMERA_BITS if not greatest >> bits), SAMPLE_BITS)
    advice = f" If the camera uses {fitting} bits, give --bits {fitting}"
    return advice + (
        "." if fitting == SAMPLE_BITS else f"; if it gives {SAMPLE_BITS}, --bits {SAMPLE_BITS}."
    )


def scale_to_8_bits(
    samples: npt.NDArray[Any], max_value: int, bits: int | None, *, name: str
) -> npt.NDArray[np.uint8]:
    """Reduce samples to 8 bits by the greatest value that the file states, as PGM does.

    Args:
        samples: [H, W], unsigned.
        max_value: The file's white, 1 to 65,535. 65,535 means "not stated": writers use it whatever
            the camera's bits.
        bits: See `to_8_bits`; used if `max_value` is 65,535.
        name: The format, for messages.

    Raises:
        DecodeError: See `to_8_bits`; also ``wrong_bits`` if a value exceeds `max_value`.
    """
    greatest = int(samples.max())
    if greatest > max_value:
        raise DecodeError(
            f"{name}: its greatest value is {greatest}, and its own header allows at most "
            f"{max_value:,}, so the header does not match the pixels.",
            code="wrong_bits",
        )
    if max_value == (1 << SAMPLE_BITS) - 1:
        return to_8_bits(samples, bits, name=name)
    if max_value == (1 << FEWEST_BITS) - 1:
        return np.asarray(samples, np.uint8)
    stated = max_value.bit_length()
    if stated > FEWEST_BITS and max_value == (1 << stated) - 1:
        return (samples >> (stated - FEWEST_BITS)).astype(np.uint8)
    return ((samples.astype(np.uint32) * 255 + max_value // 2) // max_value).astype(np.uint8)
