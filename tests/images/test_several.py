"""Of a file with several images none is picked in silence."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import check_jpeg, decode_gray
from tests.image_files import HEIGHT, WIDTH, encode, good_image, good_jpeg
from tests.images.deep_files import png, png_chunk

GRAY = good_image()
JPEG = good_jpeg()
PRIMARY, PANORAMA, LEFT_AND_RIGHT, UNSAID = 0x030000, 0x020001, 0x020002, 0
SMALL_COPY, LARGE_COPY = 0x010001, 0x010002


def several(data: bytes) -> str | None:
    """The message of a file that is refused for its images; None where it is read."""
    try:
        decode_gray(data)
    except DecodeError as error:
        assert error.code == "multiple_images"  # noqa: PT017
        return error.message
    return None


def mpo(kinds: Sequence[int], order: str = "<") -> bytes:
    """A JPEG with an index of images, each behind the one before."""
    size = 8 + 2 + 12 + 4
    entry = struct.pack(order + "HHII", 0xB002, 7, 16 * len(kinds), size)
    directory = struct.pack(order + "H", 1) + entry + struct.pack(order + "I", 0)
    images = b"".join(struct.pack(order + "IIIHH", kind, len(JPEG), 0, 0, 0) for kind in kinds)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    content = b"MPF\0" + magic + struct.pack(order + "I", 8) + directory + images
    segment = struct.pack(">BBH", 0xFF, 0xE2, len(content) + 2) + content
    return JPEG[:2] + segment + JPEG[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [PANORAMA, LEFT_AND_RIGHT, UNSAID, PRIMARY])
def test_a_jpeg_that_lists_several_images_is_refused(kind: int, order: str) -> None:
    message = several(mpo([PRIMARY, kind, kind], order))
    assert message is not None
    assert "JPEG of 3 images" in message
    with pytest.raises(DecodeError, match="3 images"):
        check_jpeg(mpo([PRIMARY, kind, kind], order))


@pytest.mark.parametrize("order", ["<", ">"])
def test_smaller_copies_beside_a_jpeg_are_no_other_images(order: str) -> None:
    for kinds in ([PRIMARY], [PRIMARY, SMALL_COPY], [PRIMARY, LARGE_COPY, SMALL_COPY], []):
        np.testing.assert_array_equal(decode_gray(mpo(kinds, order)), decode_gray(JPEG))


def test_an_index_that_makes_no_sense_lists_nothing() -> None:
    for content in (b"MPF\0", b"MPF\0II*\0\xff\xff\xff\xff", b"MPF\0" + b"\xff" * 60):
        segment = struct.pack(">BBH", 0xFF, 0xE2, len(content) + 2) + content
        assert several(JPEG[:2] + segment + JPEG[2:]) is None


@pytest.mark.parametrize("between", [b"", b"\0" * 512, b"\xff\xff", b"\r\n"])
def test_a_film_of_jpegs_is_refused(between: bytes) -> None:
    assert several(JPEG + between + JPEG) is not None
    assert several(JPEG + between + JPEG + between + JPEG) is not None
    with pytest.raises(DecodeError, match="2 or more images"):
        check_jpeg(JPEG + between + JPEG)


def test_other_bytes_behind_a_jpeg_are_passed_over() -> None:
    smaller = encode(".jpg", GRAY[::2, ::2])
    for rest in (smaller, b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8 and text", b"\0" * 99, b"end"):
        np.testing.assert_array_equal(decode_gray(JPEG + rest), decode_gray(JPEG))


def apng(num_frames: int, *, shows_first: bool) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
    before = png_chunk(b"acTL", struct.pack(">II", num_frames, 0))
    return png(GRAY, before=before + (png_chunk(b"fcTL", control) if shows_first else b""))


def test_an_animated_png_is_refused() -> None:
    for num_frames in (2, 3, 60):
        message = several(apng(num_frames, shows_first=True))
        assert message is not None
        assert f"PNG of {num_frames} images" in message
    message = several(apng(1, shows_first=False))
    assert message is not None
    assert "PNG of 2 images" in message


def test_an_animation_of_the_image_alone_is_the_image() -> None:
    np.testing.assert_array_equal(decode_gray(apng(1, shows_first=True)), GRAY)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_an_animated_webp_is_refused(num_frames: int) -> None:
    still = encode(".webp", GRAY)[12:]
    size = b"".join((n - 1).to_bytes(3, "little") for n in (WIDTH, HEIGHT))
    frame = bytes(6) + size + bytes(4) + still
    chunks = [
        (b"VP8X", b"\x02\0\0\0" + size),
        (b"ANIM", bytes(6)),
        *[(b"ANMF", frame)] * num_frames,
    ]
    body = b"".join(
        kind + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for kind, c in chunks
    )
    message = several(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    assert message is not None
    assert f"animated WebP of {num_frames} images" in message


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_changes_no_pixel_in_any_format(alpha: int) -> None:
    alpha_HW = np.full_like(GRAY, alpha)
    rgba = np.dstack([GRAY, GRAY, GRAY, alpha_HW])
    palette = png_chunk(b"PLTE", bytes(v for i in range(256) for v in (i,) * 3))
    shades = png_chunk(b"tRNS", bytes([alpha]) * 256)
    indexed = bytearray(png(GRAY, before=palette + shades))
    indexed[25] = 3  # the colour type
    indexed[12:33] = png_chunk(b"IHDR", bytes(indexed[16:29]))[4:]
    one_shade = png_chunk(b"tRNS", struct.pack(">H", int(GRAY[3, 3])))
    for file in (
        encode(".png", rgba),
        png(np.dstack([GRAY, alpha_HW])),
        bytes(indexed),
        png(GRAY, before=one_shade),
        png(rgba[..., :3], before=png_chunk(b"tRNS", struct.pack(">HHH", *[int(GRAY[3, 3])] * 3))),
        encode(".bmp", rgba),
        encode(".tiff", rgba),
    ):
        np.testing.assert_array_equal(decode_gray(file), GRAY)
    webp = encode(".webp", rgba, cv2.IMWRITE_WEBP_QUALITY, 101)
    if alpha:  # where nothing shows through, encoders leave the colours away
        np.testing.assert_array_equal(decode_gray(webp), GRAY)
