"""PGM with binary pixels (P5), the gray format of Netpbm, as line-scan software writes it.

OpenCV reads it too, but of two-byte samples it keeps the high byte, whatever greatest value the
header states: images of 12 bits come out nearly black.

Source: https://netpbm.sourceforge.net/doc/pgm.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steel_batch.errors import DecodeError
from steel_batch.images.formats import NETPBM_BLANKS

PGM_MAGIC: Final = b"P5"
_DIGITS: Final = b"0123456789"
_MOST_DIGITS: Final = 10
_PADDING: Final = b" \t\r\n\v\f\0"
_MOST_HEADER_BYTES: Final = 64 << 10
"""Of comments and blanks, beside three numbers."""


@dataclass(frozen=True, slots=True)
class PgmHeader:
    """The parts of the header that decoding needs."""

    width: int
    height: int
    max_value: int
    """The value of white, 1 to 65,535."""
    offset: int
    """Where the pixels begin, in bytes."""

    @property
    def sample_bytes(self) -> int:
        """Bytes per pixel."""
        return 1 if self.max_value < 256 else 2

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return self.width * self.height * self.sample_bytes


def read_pgm_header(data: memoryview) -> PgmHeader:
    """Read the header.

    Raises:
        DecodeError: The header is damaged.
        IndexError: The file ends inside its header.
    """
    size, data = len(data), data[:_MOST_HEADER_BYTES]
    position, numbers = len(PGM_MAGIC), []
    for _ in range(3):
        number, position = _read_number(data, position)
        numbers.append(number)
    width, height, max_value = numbers
    if not 1 <= max_value < 1 << 16:
        raise DecodeError(f"PGM with a damaged header: white is {max_value}, expected 1 to 65535.")
    if data[position] not in NETPBM_BLANKS:
        raise DecodeError("PGM with a damaged header: no white space after its last number.")
    end = _skip_comment(data, position) if data[position] == ord("#") else position
    header = PgmHeader(width, height, max_value, end + 1)
    if bytes(data[end : end + 2]) == b"\r\n":
        # One white-space byte ends the header. The file size tells a second one from a pixel.
        longer = PgmHeader(width, height, max_value, end + 2)
        return longer if size == longer.offset + longer.pixel_bytes else header
    return header


def _read_number(data: memoryview, position: int) -> tuple[int, int]:
    """Read a number after white space and comments; return it and where it ends."""
    while data[position] in NETPBM_BLANKS:
        if data[position] == ord("#"):
            position = _skip_comment(data, position)
        else:
            position += 1
    start = position
    while data[position] in _DIGITS:
        position += 1
    if not 1 <= position - start <= _MOST_DIGITS:
        raise DecodeError(
            f"PGM with a damaged header: expected a number at byte {start}, found "
            f"{bytes(data[start : start + 8])!r}."
        )
    return int(bytes(data[start:position])), position


def _skip_comment(data: memoryview, position: int) -> int:
    """Where a comment's line ends."""
    while data[position] not in b"\r\n":
        position += 1
    return position


def check_pgm(data: memoryview) -> None:
    """Refuse a PGM that holds fewer pixels than its header states, or more.

    Raises:
        DecodeError: Code ``truncated``, ``multiple_images`` where another image follows, or
            ``undecodable`` where other bytes do.
    """
    header = read_pgm_header(data)
    end = header.offset + header.pixel_bytes
    rest = bytes(data[end:])
    if len(data) < end:
        raise DecodeError(
            f"PGM without its end: {len(data)} of {end} bytes are there.", code="truncated"
        )
    if rest.strip(_PADDING).startswith(PGM_MAGIC):
        raise DecodeError(
            "PGM of several images, one after the other; only one per file is supported. Write "
            "each into a file of its own.",
            code="multiple_images",
        )
    if rest.strip(_PADDING):
        raise DecodeError(
            f"PGM whose header states {header.width}×{header.height} pixels of "
            f"{header.sample_bytes} bytes; {len(rest)} more bytes follow them, so the header does "
            "not match the pixels."
        )


def read_pgm(data: memoryview) -> tuple[npt.NDArray[Any], int]:
    """Read the pixels of a PGM that passed `check_pgm`.

    Returns:
        Pixels as stored, uint8 or uint16 [H, W]; and the greatest value that the header allows.
    """
    header = read_pgm_header(data)
    kind = np.dtype("u1" if header.sample_bytes == 1 else ">u2")
    pixels = np.frombuffer(data, kind, header.width * header.height, header.offset)
    samples_HW = pixels.reshape(header.height, header.width)
    return samples_HW.astype(kind.newbyteorder("=")), header.max_value
