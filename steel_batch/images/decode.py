"""Decodes compressed bytes to gray pixels.

Headers are read first: the format, the size, whether the file is complete and holds one image.
OpenCV decodes the pixels, except of PGM and of BMP with colour masks, which it misreads. Colour
(RGB, CMYK, palettes) is converted to gray with OpenCV's weights. Samples of 16 bits are reduced to
the upper 8 of the bits in use (`depth`). Transparency is ignored, and so is an EXIF orientation:
masks are in sensor coordinates, and line cameras do not turn.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.config import FEWEST_BITS, LIMITS, SAMPLE_BITS, Limits
from steel_batch.errors import ConfigError, DecodeError, ImageError, ShapeError
from steel_batch.images.bmp import read_bmp_header, read_fields
from steel_batch.images.depth import scale_to_8_bits, to_8_bits
from steel_batch.images.formats import unsupported
from steel_batch.images.header import JPEG_MAGIC, Header, check_size, probe
from steel_batch.images.markers import ARITHMETIC, LOSSLESS
from steel_batch.images.pgm import read_pgm
from steel_batch.images.tiff import as_read, is_multiplied, is_white_0, read_page
from steel_batch.images.wholeness import check_whole, with_noise_at_end

Image = npt.NDArray[np.uint8]
Decoder = Callable[[Any], Image]
_GRAY: Final = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
_AS_STORED: Final = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
"""Keeps 16 bits. Also, OpenCV decodes 16-bit tiles to noise when it is asked for gray."""

CHEAP_PIXELS: Final = 4_000_000
"""Larger images of a size that the engine does not take are refused undecoded. Decoding smaller
ones costs little, and tells what is damaged from what is of another size."""
_NO_MEMORY: Final = -4
"""`Error::StsNoMem`, whose name in Python depends on the version."""

cv2.setNumThreads(1)  # images are decoded on our own threads
# A damaged file is an entry in the quarantine, not a line on stderr. OpenCV moved this in 4.13.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
_set_log_level(0)


def load_decoder(
    name: str,
    *,
    bits: int | None = None,
    limits: Limits = LIMITS,
    only_size: tuple[int, int] | None = None,
) -> Decoder:
    """The function that a ``module:function`` name means.

    Any exception that it raises for an image, and any result that is not a gray image, becomes an
    `ImageError`, so that a third-party decoder cannot stop a run.

    Args:
        name: The decoder.
        bits: See `decode_gray`, as of the others; other decoders are not told.
        limits: The same.
        only_size: The same.

    Raises:
        ConfigError: There is no such function.
    """
    module, _, function = name.partition(":")
    try:
        decode: Decoder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--decoder {name!r} cannot be loaded: {error}. Expected 'module:function', importable "
            "on every node."
        ) from error

    if decode is decode_gray:
        decode = partial(decode_gray, bits=bits, limits=limits, only_size=only_size)

    def decode_or_refuse(data: Any) -> Image:
        try:
            image_HW = decode(data)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise DecodeError(f"{name} raised {type(error).__name__}: {error}") from error
        if image_HW.ndim != 2 or image_HW.dtype != np.uint8:
            raise DecodeError(
                f"{name} returned {image_HW.dtype} of shape {image_HW.shape}, not uint8 [H, W]."
            )
        return image_HW

    return decode_or_refuse


def check_jpeg(data: Any, limits: Limits = LIMITS) -> None:
    """Refuse a JPEG that `decode_gray` refuses before it looks at pixels; pass other formats.

    Raises:
        DecodeError: See `decode_gray`.
    """
    view = memoryview(data).cast("B")
    if bytes(view[: len(JPEG_MAGIC)]) == JPEG_MAGIC:
        _check(view, probe(view, limits), limits)


def decode_gray(
    data: Any,
    *,
    limits: Limits = LIMITS,
    only_size: tuple[int, int] | None = None,
    is_checked: bool = False,
    bits: int | None = None,
) -> Image:
    """Decode one image.

    For an intact file with 8 bits per sample, the pixels equal those of ``cv2.imdecode`` with
    ``IMREAD_GRAYSCALE | IMREAD_IGNORE_ORIENTATION``; for a TIFF, without its orientation and with
    colours as stored. Some damage cannot be detected, and decodes to wrong pixels: damage inside a
    JPEG's pixels that keeps their number, a JPEG that was cut inside its last block and closed, and
    an arithmetic-coded JPEG that was cut anywhere.

    Args:
        data: The file, as anything with a buffer; it is not copied.
        limits: Files whose header states more are refused before anything is allocated.
        only_size: Height and width of an engine that takes no other size: images of another size
            with more than `CHEAP_PIXELS` are refused before they are decoded. None: any size.
        is_checked: Whether it passed `check_jpeg`.
        bits: How many of 16 bits a sample are in use, 8 to 16; see `depth`. None: nobody says so.

    Returns:
        Gray pixels, [H, W].

    Raises:
        DecodeError: Its code is ``empty``, ``not_an_image``, ``unsupported_format``,
            ``truncated``, ``too_large``, ``undecodable``, ``multiple_images``, ``unknown_bits`` or
            ``wrong_bits``.
        ShapeError: It is not of `only_size`.
        MemoryError: There is not enough.
    """
    view = memoryview(data).cast("B")
    header = probe(view, limits)
    if not is_checked or header.format != "JPEG":
        _check(view, header, limits)
    if only_size is not None and header.width * header.height > CHEAP_PIXELS:
        check_shape((header.height, header.width), only_size)
    image_HW = _pixels(view, header, bits, limits)
    if image_HW is None or image_HW.shape != (header.height, header.width):
        raise DecodeError(
            f"OpenCV cannot decode this {header.format} of {header.width}×{header.height} pixels "
            f"({len(view)} bytes): its content is damaged, or of a kind that OpenCV does not read."
        )
    if header.format == "JPEG" and _may_be_cut(header, image_HW):
        further_HW = _imdecode(with_noise_at_end(view))
        if further_HW is None or (image_HW != further_HW).any():
            raise DecodeError(
                f"JPEG whose pixels stop before its end ({len(view)} bytes): the file was cut off "
                "and then closed with an end marker.",
                code="truncated",
            )
    return image_HW


def _pixels(view: memoryview, header: Header, bits: int | None, limits: Limits) -> Image | None:
    """The pixels of a whole file; None where OpenCV gives none."""
    if header.format == "PGM":
        samples_HW, max_value = read_pgm(view)
        return scale_to_8_bits(samples_HW, max_value, bits, name="PGM")
    if header.format == "BMP":
        bmp = read_bmp_header(view)
        if bmp.own_fields is not None:
            return read_fields(view, bmp, bmp.own_fields)
    if header.format == "TIFF":
        return _tiff_pixels(view, header, bits, limits)
    if header.bit_depth > FEWEST_BITS:
        samples = _imdecode(view, _AS_STORED)
        return None if samples is None else to_8_bits(samples, bits, name=header.format)
    return _imdecode(view)


def _tiff_pixels(
    view: memoryview, header: Header, bits: int | None, limits: Limits
) -> Image | None:
    tags, content = read_page(view, limits), as_read(view, limits)
    if is_multiplied(tags):
        rgba = _imdecode(content, cv2.IMREAD_UNCHANGED)
        if rgba is not None and (rgba[..., -1] != (1 << header.bit_depth) - 1).any():
            raise unsupported("a TIFF with colours premultiplied by transparency")
    if header.bit_depth <= FEWEST_BITS:
        return _imdecode(content)
    samples = _imdecode(content, _AS_STORED)
    if samples is None:
        return None
    if header.bit_depth < SAMPLE_BITS:
        bits = SAMPLE_BITS  # OpenCV shifts samples of 10, 12 and 14 bits up to the full 16
    image_HW = to_8_bits(samples, bits, name="TIFF")
    return 255 - image_HW if is_white_0(tags) else image_HW


def _check(view: memoryview, header: Header, limits: Limits) -> None:
    check_size(header, limits)
    check_whole(view, header, limits)


def _imdecode(data: bytes | memoryview, flags: int = _GRAY) -> npt.NDArray[Any] | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # OpenCV both returns nothing and raises, for reasons of its own
        if error.code == _NO_MEMORY:
            raise MemoryError(str(error)) from error
        return None
    return None if pixels is None else np.asarray(pixels)


def _may_be_cut(header: Header, image_HW: Image) -> bool:
    """Whether a JPEG's last pixels look as if data were missing.

    libjpeg fills the last block of a cut baseline file with gray; in a lossless file it can be
    anything. An arithmetic coder drops trailing zeros, so a cut leaves no trace.
    """
    if header.coding in ARITHMETIC:
        return False
    height, width = image_HW.shape
    last_HW = image_HW[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :]
    return header.coding == LOSSLESS or bool((last_HW == 128).all())


def fit_to(image_HW: Image, height: int, width: int, resize: Literal["never", "fit"]) -> Image:
    """Fit an image to the engine's input size.

    Args:
        image_HW: An image of any size.
        height: Input height of the engine, in pixels.
        width: Input width of the engine, in pixels.
        resize: The card's policy: ``never`` or ``fit``.

    Raises:
        ShapeError: The size differs and the policy is ``never``.
    """
    if image_HW.shape == (height, width):
        return image_HW
    if resize == "never":
        check_shape((image_HW.shape[0], image_HW.shape[1]), (height, width))
    shrinks = image_HW.shape[0] * image_HW.shape[1] > height * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_HW, (width, height), interpolation=method), np.uint8)


def check_shape(found: tuple[int, int], expected: tuple[int, int]) -> None:
    """Refuse an image of another height and width than those of an engine that does not resize.

    Raises:
        ShapeError: It is one.
    """
    if found != expected:
        raise ShapeError(
            f"the image is {found[1]}×{found[0]} pixels (width × height); the engine takes "
            f"{expected[1]}×{expected[0]} and its card states resize: never."
        )


def mask_to_source(mask_HW: Image, height: int, width: int) -> Image:
    """Scale a mask back to the size of its source image.

    Each pixel takes the mask's value at its centre. If the centre lies between two mask pixels, it
    takes the lower or right one. The arithmetic is exact, in integers: OpenCV's own nearest-pixel
    scaling differs between versions 4 and 5.

    Args:
        mask_HW: A bitmask of any size.
        height: Height of the source image, in pixels.
        width: Width of the source image, in pixels.
    """
    if mask_HW.shape == (height, width):
        return mask_HW
    rows = _nearest(mask_HW.shape[0], height)
    columns = _nearest(mask_HW.shape[1], width)
    return mask_HW.take(rows, axis=0).take(columns, axis=1)


def _nearest(size: int, wanted: int) -> npt.NDArray[np.int64]:
    """For each of `wanted` pixels, the index of the pixel out of `size` that holds its centre."""
    centres = 2 * np.arange(wanted, dtype=np.int64) + 1  # in half pixels
    return centres * size // (2 * wanted)
