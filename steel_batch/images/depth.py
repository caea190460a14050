"""From samples of more than 8 bits to 8, where it is known how many bits are in use.

Cameras give 10, 12 or 14 bits, which most software puts into samples of 16 as they are: the high
byte of such a sample is nearly black. A file seldom states it. So the number of bits is taken from
the file where its format states it, else from ``--bits``, else from the pixels themselves, and only
where they leave no doubt.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.errors import DecodeError

SAMPLE_BITS: Final = 16
"""Of the samples whose bits in use are not stated."""
FEWEST_BITS: Final = 8
_CAMERA_BITS: Final = (8, 10, 12, 14)
"""What cameras give in samples of 16 bits, besides 16."""
_SHARE: Final = 100
"""One sample in so many, above what 14 bits hold, shows that 16 are in use. A few do not: cameras
write counters and times among their pixels."""


def to_8_bits(
    samples: npt.NDArray[np.uint16], bits: int | None, *, name: str
) -> npt.NDArray[np.uint8]:
    """The upper 8 of the bits that are in use.

    Args:
        samples: [H, W], or [H, W, 3] in OpenCV's order of colours.
        bits: How many of the 16 are in use, 8 to 16, counted from the lowest. None: nobody says
            so.
        name: The format, for messages.

    Returns:
        Gray, [H, W].

    Raises:
        DecodeError: Code ``unknown_bits`` where `bits` is None and the pixels do not show that all
            16 are in use, ``wrong_bits`` where a value needs more than `bits`.
    """
    greatest = int(samples.max())
    if bits is None:
        _check_uses_all(samples, greatest, name)
        bits = SAMPLE_BITS
    elif greatest >> bits:
        raise DecodeError(
            f"{name} of {SAMPLE_BITS} bits a sample whose greatest value is {greatest}, and "
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
            f"{name} of {SAMPLE_BITS} bits a sample whose greatest value is {greatest}; "
            f"{num_high:,} of {samples.size:,} samples need more than {_CAMERA_BITS[-1]} bits. "
            "Neither the file nor --bits states how many the camera gave, and read as "
            f"{SAMPLE_BITS} the image may be nearly black.{_advice(samples, greatest)}",
            code="unknown_bits",
        )


def _advice(samples: npt.NDArray[np.uint16], greatest: int) -> str:
    """Which number of bits the values suggest."""
    used = int(np.bitwise_or.reduce(samples, axis=None))
    step = used & -used
    if step > 1 and used >> (SAMPLE_BITS - 1):
        return (
            f" All values are multiples of {step}, so the upper bits are the ones in use: give "
            f"--bits {SAMPLE_BITS}."
        )
    fitting = next((bits for bits in _CAMERA_BITS if not greatest >> bits), SAMPLE_BITS)
    advice = f" If the camera gives {fitting} bits, give --bits {fitting}"
    return advice + (
        "." if fitting == SAMPLE_BITS else f"; if it gives {SAMPLE_BITS}, --bits {SAMPLE_BITS}."
    )


def scale_to_8_bits(
    samples: npt.NDArray[Any], max_value: int, bits: int | None, *, name: str
) -> npt.NDArray[np.uint8]:
    """The same of a file that states its greatest value, as PGM does.

    Args:
        samples: [H, W], unsigned.
        max_value: What the file calls white, 1 to 65,535. The latter states nothing, as writers
            give it whatever the camera's bits.
        bits: See `to_8_bits`; in force where `max_value` states nothing.
        name: The format, for messages.

    Raises:
        DecodeError: See `to_8_bits`; also ``wrong_bits`` where a value is above `max_value`.
    """
    greatest = int(samples.max())
    if greatest > max_value:
        raise DecodeError(
            f"{name} whose greatest value is {greatest}, and its own header allows at most "
            f"{max_value:,}: the header is not that of its pixels.",
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
