"""Images of 16 bits a sample: black, or a picture, by how many of the bits are in use."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import Image, decode_gray
from tests.image_files import HEIGHT, WIDTH, encode, good_image
from tests.images.deep_files import Tiff, packed, png, png_chunk

GRAY = good_image()
RGB = np.dstack([GRAY, np.roll(GRAY, 20, axis=1), 255 - GRAY])
RGB_GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)


def pgm(pixels: np.ndarray, max_value: int = 65_535) -> bytes:
    head = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n{max_value}\n".encode()
    return head + pixels.astype(">u2").tobytes()


def cv2_png(pixels: np.ndarray) -> bytes:
    return encode(".png", pixels)


def cv2_tiff(pixels: np.ndarray) -> bytes:
    return encode(".tiff", pixels)


def tiled_tiff(pixels: np.ndarray) -> bytes:
    return Tiff().add(pixels, tile=(64, 64)).to_bytes()


def big_endian_tiff(pixels: np.ndarray) -> bytes:
    return Tiff(">").add(pixels).to_bytes()


def with_transparency(pixels: np.ndarray) -> bytes:
    return png(np.dstack([pixels, np.full_like(pixels, 65_535)]))


WRITERS: list[Callable[[np.ndarray], bytes]] = [
    cv2_png, png, with_transparency, cv2_tiff, tiled_tiff, big_endian_tiff, pgm,
]  # fmt: skip
"""Of gray in 16 bits a sample, in every format that has them."""
writers = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def in_bits(bits: int, pixels: np.ndarray = GRAY) -> np.ndarray:
    """The same picture from a camera of fewer bits, in the lowest bits of 16."""
    noise = np.arange(pixels.size, dtype=np.uint16).reshape(pixels.shape)
    low = noise % (1 << (bits - 8)) if bits > 8 else 0
    return (pixels.astype(np.uint16) << (bits - 8)) + low


def error_of(data: bytes, bits: int | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_gray(data, bits=bits)
    return caught.value


@writers
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
def test_declared_bits_give_the_picture_in_every_format(
    write: Callable[[np.ndarray], bytes], bits: int
) -> None:
    np.testing.assert_array_equal(decode_gray(write(in_bits(bits)), bits=bits), GRAY)


@writers
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_bits_that_nobody_states_are_never_read_as_black(
    write: Callable[[np.ndarray], bytes], bits: int
) -> None:
    error = error_of(write(in_bits(bits)))
    assert error.code == "unknown_bits"
    assert f"greatest value is {in_bits(bits).max()}" in error.message
    assert f"--bits {bits}" in error.message


@writers
def test_an_image_that_contradicts_the_declared_bits_is_named_with_its_greatest_value(
    write: Callable[[np.ndarray], bytes],
) -> None:
    for declared, real in itertools.combinations((8, 10, 12, 14, 16), 2):
        error = error_of(write(in_bits(real)), declared)
        assert error.code == "wrong_bits"
        assert f"greatest value is {in_bits(real).max()}," in error.message
        assert f"--bits {declared} allows at most {(1 << declared) - 1}" in error.message


def test_one_sample_too_great_is_enough_to_contradict() -> None:
    pixels = in_bits(12)
    pixels[3, 5] = 4095
    decode_gray(png(pixels), bits=12)
    pixels[3, 5] = 4096
    assert "greatest value is 4096" in error_of(png(pixels), 12).message


@writers
def test_samples_that_use_all_16_bits_need_no_declaration(
    write: Callable[[np.ndarray], bytes],
) -> None:
    np.testing.assert_array_equal(decode_gray(write(in_bits(16))), GRAY)


@writers
def test_bits_that_lie_at_the_top_are_read_and_named(write: Callable[[np.ndarray], bytes]) -> None:
    at_top = in_bits(12) << 4
    np.testing.assert_array_equal(decode_gray(write(at_top)), GRAY)
    np.testing.assert_array_equal(decode_gray(write(at_top), bits=16), GRAY)
    error = error_of(write(at_top), 12)
    assert error.code == "wrong_bits"
    assert "multiples of 16" in error.message
    assert "--bits 16" in error.message


def test_counters_among_the_pixels_do_not_make_12_bits_16() -> None:
    pixels = in_bits(12)
    pixels[0, :16] = np.arange(16) * 4000 + 5000
    error = error_of(png(pixels))
    assert error.code == "unknown_bits"
    assert "greatest value is 65000" in error.message


@pytest.mark.parametrize("value", [0, 1, 255, 4095, 16_383])
def test_a_dark_image_is_not_guessed(value: int) -> None:
    flat = np.full((HEIGHT, WIDTH), value, np.uint16)
    assert error_of(png(flat)).code == "unknown_bits"
    assert (decode_gray(png(flat), bits=16) == value >> 8).all()


def test_what_a_png_says_of_significant_bits_does_not_make_it_black() -> None:
    """By the specification such samples fill 16 bits; writers put them at the bottom as well."""
    says_12 = png_chunk(b"sBIT", b"\x0c")
    np.testing.assert_array_equal(decode_gray(png(in_bits(12) << 4, before=says_12)), GRAY)
    assert error_of(png(in_bits(12), before=says_12)).code == "unknown_bits"
    np.testing.assert_array_equal(decode_gray(png(in_bits(12), before=says_12), bits=12), GRAY)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colours_of_16_bits_become_gray_after_they_became_8(bits: int) -> None:
    deep = in_bits(bits, RGB)
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint16)
    for file in (
        png(deep),
        png(np.concatenate([deep, alpha], axis=2)),
        Tiff().add(deep).to_bytes(),
    ):
        np.testing.assert_array_equal(decode_gray(file, bits=bits), RGB_GRAY)
        if bits < 16:
            assert error_of(file).code == "unknown_bits"
            assert error_of(file, bits - 1).code == "wrong_bits"
        else:
            np.testing.assert_array_equal(decode_gray(file), RGB_GRAY)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_tiff_whose_white_is_0_is_turned_over_within_its_bits(bits: int) -> None:
    turned = ((1 << bits) - 1) - in_bits(bits)
    file = Tiff().add(turned.astype(np.uint16), (262, 3, (0,))).to_bytes()
    np.testing.assert_array_equal(decode_gray(file, bits=bits), GRAY)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("declared", [None, 12])
def test_a_tiff_that_packs_its_bits_states_them(bits: int, declared: int | None) -> None:
    page: list[tuple[int, int, tuple[int, ...]]] = [
        (256, 4, (WIDTH,)), (257, 4, (HEIGHT,)), (258, 3, (bits,)), (259, 3, (1,)),
        (277, 3, (1,)), (278, 4, (HEIGHT,)),
    ]  # fmt: skip
    file = Tiff().add(packed(in_bits(bits), bits), *page, (262, 3, (1,))).to_bytes()
    np.testing.assert_array_equal(decode_gray(file, bits=declared), GRAY)
    turned = (((1 << bits) - 1) - in_bits(bits)).astype(np.uint16)
    file = Tiff().add(packed(turned, bits), *page, (262, 3, (0,))).to_bytes()
    np.testing.assert_array_equal(decode_gray(file, bits=declared), GRAY)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("declared", [None, 12, 16])
def test_a_pgm_states_its_bits(bits: int, declared: int | None) -> None:
    file = pgm(in_bits(bits), (1 << bits) - 1)
    np.testing.assert_array_equal(decode_gray(file, bits=declared), GRAY)
    error = error_of(pgm(in_bits(bits) * 2, (1 << bits) - 1), declared)
    assert error.code == "wrong_bits"
    assert f"greatest value is {in_bits(bits).max() * 2}" in error.message


def test_images_of_8_bits_do_not_ask_for_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for extension in (".png", ".bmp", ".tiff", ".webp", ".jpg"):
        file = encode(extension, GRAY)
        expected: Image = decode_gray(file)
        for bits in (8, 12, 16):
            np.testing.assert_array_equal(decode_gray(file, bits=bits), expected)
