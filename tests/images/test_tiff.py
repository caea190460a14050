"""Of a TIFF the one image in full resolution is read, as it is stored, or the file is refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from steel_batch.errors import DecodeError
from steel_batch.images.decode import decode_gray
from tests.image_files import HEIGHT, WIDTH, good_image
from tests.images.deep_files import Entry, Tiff, packed

GRAY = good_image()
SMALL = np.ascontiguousarray(GRAY[::2, ::2])
RGB = np.dstack([GRAY, np.roll(GRAY, 20, axis=1), 255 - GRAY])
RGB_GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
ALPHA = np.full((HEIGHT, WIDTH), 255, np.uint8)
ALPHA[:, :40], ALPHA[:, 40:80] = 0, 128
REDUCED: Entry = (254, 4, (1,))
ONE_OF_SEVERAL: Entry = (254, 4, (2,))
MASK: Entry = (254, 4, (4,))
OLD_REDUCED: Entry = (255, 3, (2,))


def error_of(data: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_gray(data)
    return caught.value


def pages(*given: tuple[np.ndarray, Entry | None], order: str = "<") -> bytes:
    file = Tiff(order)
    for pixels, kind in given:
        file.add(pixels, *([kind] if kind else []))
    return file.to_bytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [REDUCED, OLD_REDUCED, MASK])
def test_the_page_in_full_resolution_is_read_wherever_it_stands(kind: Entry, order: str) -> None:
    for file in (
        pages((GRAY, None), (SMALL, kind), order=order),
        pages((SMALL, kind), (GRAY, None), order=order),
        pages((SMALL, kind), (SMALL[::2], kind), (GRAY, None), (SMALL, kind), order=order),
    ):
        np.testing.assert_array_equal(decode_gray(file), GRAY)


def test_a_page_behind_another_is_read_upright_and_in_16_bits_too() -> None:
    deep = GRAY.astype(np.uint16) << 8
    turned: Entry = (274, 3, (6,))
    file = Tiff().add(SMALL, REDUCED).add(deep, turned).to_bytes()
    np.testing.assert_array_equal(decode_gray(file), GRAY)


@pytest.mark.parametrize("num_pages", [2, 3, 9])
@pytest.mark.parametrize("kind", [None, ONE_OF_SEVERAL])
def test_several_pages_are_refused_with_their_number_and_sizes(
    num_pages: int, kind: Entry | None
) -> None:
    error = error_of(pages(*[(GRAY, kind)] * num_pages))
    assert error.code == "multiple_images"
    assert f"TIFF of {num_pages} pages (160×64, 160×64" in error.message
    assert f"{num_pages} are images in full resolution" in error.message


def test_a_smaller_page_that_does_not_say_that_it_is_a_copy_is_another_image() -> None:
    assert error_of(pages((GRAY, None), (SMALL, None))).code == "multiple_images"
    assert error_of(pages((SMALL, None), (GRAY, None))).code == "multiple_images"
    assert error_of(pages((SMALL, REDUCED), (SMALL, REDUCED))).code == "multiple_images"


def test_one_page_is_the_image_whatever_it_says_of_itself() -> None:
    for kind in (None, REDUCED, ONE_OF_SEVERAL):
        np.testing.assert_array_equal(decode_gray(pages((GRAY, kind))), GRAY)


def test_smaller_copies_in_subdirectories_are_passed_over() -> None:
    file = Tiff().add(GRAY).add(SMALL, REDUCED).add(SMALL[::2], REDUCED)
    np.testing.assert_array_equal(decode_gray(file.to_bytes(subdirectories=True)), GRAY)


def test_a_greater_image_in_a_subdirectory_is_not_dropped_in_silence() -> None:
    for kind in ([], [REDUCED]):
        file = Tiff().add(SMALL, *kind).add(GRAY)
        error = error_of(file.to_bytes(subdirectories=True))
        assert error.code == "multiple_images"
        assert "80×32" in error.message
        assert "160×64" in error.message


def test_a_stack_in_one_page_is_refused() -> None:
    volume = Tiff().add(np.concatenate([GRAY, GRAY]), (257, 4, (HEIGHT,)), (32997, 4, (2,)))
    assert error_of(volume.to_bytes()).code == "multiple_images"
    text = b"ImageJ=1.53t\nimages=12\nslices=12\n\0"
    error = error_of(Tiff().add(GRAY, (270, 2, text)).to_bytes())
    assert error.code == "multiple_images"
    assert "12 images" in error.message
    for harmless in (b"ImageJ=1.53t\nunit=mm\n\0", b"ImageJ=1\nimages=1\n\0", b"camera 3\0"):
        np.testing.assert_array_equal(
            decode_gray(Tiff().add(GRAY, (270, 2, harmless)).to_bytes()), GRAY
        )


def test_pages_in_a_circle_and_pages_that_are_gone_are_refused() -> None:
    file = bytearray(pages((GRAY, None)))
    (place,) = struct.unpack_from("<I", file, 4)
    (num_entries,) = struct.unpack_from("<H", file, place)
    struct.pack_into("<I", file, place + 2 + 12 * num_entries, place)
    assert error_of(bytes(file)).code == "undecodable"
    struct.pack_into("<I", file, place + 2 + 12 * num_entries, len(file) + 100)
    assert error_of(bytes(file)).code == "truncated"
    struct.pack_into("<I", file, 4, 0)
    assert error_of(bytes(file)).code == "undecodable"


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_beside_transparency_are_not_multiplied_by_it(order: str) -> None:
    rgba = np.dstack([RGB, ALPHA])
    for kind in (0, 2):  # says nothing, beside it
        file = Tiff(order).add(rgba, (338, 3, (kind,))).to_bytes()
        np.testing.assert_allclose(decode_gray(file).astype(int), RGB_GRAY, atol=1)
    deep = rgba.astype(np.uint16) * 257
    file = Tiff(order).add(deep, (338, 3, (2,))).to_bytes()
    np.testing.assert_array_equal(decode_gray(file), RGB_GRAY)


def test_gray_beside_transparency_is_not_multiplied_by_it() -> None:
    file = Tiff().add(np.dstack([GRAY, ALPHA]), (262, 3, (1,)), (338, 3, (2,))).to_bytes()
    np.testing.assert_array_equal(decode_gray(file), GRAY)


def test_colours_that_were_multiplied_by_transparency_are_refused_unless_it_is_full() -> None:
    full = np.full_like(ALPHA, 255)
    multiplied = (RGB.astype(int) * ALPHA[..., None] // 255).astype(np.uint8)
    for scale, kind in ((1, "u1"), (257, "u2")):
        dark = (np.dstack([multiplied, ALPHA]).astype(int) * scale).astype(kind)
        assert error_of(Tiff().add(dark, (338, 3, (1,))).to_bytes()).code == "unsupported_format"
        whole = (np.dstack([RGB, full]).astype(int) * scale).astype(kind)
        found = decode_gray(Tiff().add(whole, (338, 3, (1,))).to_bytes())
        np.testing.assert_allclose(found.astype(int), RGB_GRAY, atol=1)
    gray = Tiff().add(np.dstack([GRAY, ALPHA]), (262, 3, (1,)), (338, 3, (1,))).to_bytes()
    assert error_of(gray).code == "unsupported_format"


@pytest.mark.parametrize(
    ("kind", "tile"),
    [
        *((np.uint8, tile) for tile in [(64, 64), (64, 160), (64, 176), (32, 32)]),
        *((np.uint16, tile) for tile in [(64, 64), (64, 160), (32, 176), (16, 48), (16, 16)]),
    ],
)
def test_tiles_are_the_image_also_where_they_reach_beyond_it(
    kind: type, tile: tuple[int, int]
) -> None:
    pixels = GRAY.astype(kind) << (8 if kind is np.uint16 else 0)
    np.testing.assert_array_equal(decode_gray(Tiff().add(pixels, tile=tile).to_bytes()), GRAY)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_of_few_bits_is_named_and_not_called_damaged(bits: int) -> None:
    page: list[Entry] = [
        (256, 4, (WIDTH,)), (257, 4, (HEIGHT,)), (258, 3, (bits,)), (259, 3, (1,)),
        (262, 3, (1,)), (277, 3, (1,)), (278, 4, (HEIGHT,)),
    ]  # fmt: skip
    few = (GRAY >> (8 - bits)).astype(np.uint16)
    error = error_of(Tiff().add(packed(few, bits), *page).to_bytes())
    assert error.code == "unsupported_format"
    assert f"a TIFF with 1 channels of {bits} bits" in error.message


@pytest.mark.parametrize(
    ("pixels", "more"),
    [
        (RGB, [(262, 3, (8,))]),  # CIELab
        (RGB, [(262, 3, (34892,))]),
        (GRAY, [(262, 3, (32803,))]),  # a camera's mosaic
        (np.dstack([GRAY] * 5), [(262, 3, (2,))]),
        (RGB, [(258, 3, (5, 6, 5))]),
        (GRAY, [(339, 3, (2,))]),  # negative values
        (RGB.astype(np.uint16) << 8, [(284, 3, (2,))]),
        (GRAY.astype(np.uint16) << 8, [(262, 3, (3,))]),
        (np.dstack([GRAY] * 2).astype(np.uint16) << 8, [(262, 3, (1,)), (338, 3, (2,))]),
        (GRAY, [(259, 3, (7,))]),
        (GRAY, [(317, 3, (2,))]),  # differences, and not compressed
        (GRAY, [(259, 3, (32773,)), (317, 3, (2,))]),
        (GRAY, [(259, 3, (8,)), (317, 3, (3,))]),
        (GRAY, [(259, 3, (5,)), (266, 3, (2,))]),
    ],
    ids=lambda given: str(given)[:20] if isinstance(given, list) else "",
)
def test_what_opencv_would_read_wrongly_is_refused_by_name(
    pixels: np.ndarray, more: list[Entry]
) -> None:
    assert error_of(Tiff().add(pixels, *more).to_bytes()).code == "unsupported_format"
