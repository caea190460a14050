"""Every strange file ends as an image of the size that it states, or as an error with a code."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ConfigError, DecodeError, ImageError, ShapeError
from steel_batch.images.decode import Image, decode_gray, fit_to, load_decoder, mask_to_source
from steel_batch.images.header import probe
from steel_batch.images.scans import MAX_SCANS
from steel_batch.synthetic import render
from tests.bad_files import strange_files
from tests.conftest import examples
from tests.header_bombs import header_bombs
from tests.image_files import HEIGHT, WIDTH, StrangeFile, encode, good_image, good_jpeg

CORPUS = strange_files()
CODES = {
    "empty", "not_an_image", "unsupported_format", "truncated", "too_large", "undecodable",
    "multiple_images", "unknown_bits", "wrong_bits",
}  # fmt: skip


def outcome(data: bytes, limits: Limits = LIMITS) -> Image | ImageError:
    """What becomes of a file; any other exception is a bug."""
    try:
        return decode_gray(data, limits=limits)
    except ImageError as error:
        return error


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_each_strange_file_ends_as_it_must(file: StrangeFile) -> None:
    found = outcome(file.data)
    if isinstance(found, ImageError):
        assert found.code == file.code, found.message
        assert found.message
        return
    if file.code == "wrong_size":
        with pytest.raises(ShapeError):
            fit_to(found, HEIGHT, WIDTH, "never")
        return
    assert file.code is None
    assert found.shape == (HEIGHT, WIDTH)
    if file.image_HW is not None:
        np.testing.assert_array_equal(found, file.image_HW)


def test_the_corpus_covers_every_code_and_format() -> None:
    assert len({file.name for file in CORPUS}) == len(CORPUS) >= 60
    assert {file.code for file in CORPUS} == CODES | {None, "wrong_size"}
    scored = {probe(memoryview(file.data)).format for file in CORPUS if file.code is None}
    assert scored == {"JPEG", "PNG", "BMP", "TIFF", "WebP", "PGM"}


_DECODE_BOMBS = """
import re
from pathlib import Path
from steel_batch.images.decode import decode_gray
from steel_batch.errors import DecodeError
from tests.header_bombs import header_bombs
from tests.image_files import good_jpeg

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

bombs = list(header_bombs())
decode_gray(good_jpeg())
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
before_kb = peak_kb()
for file in bombs:
    try:
        decode_gray(file.data)
    except DecodeError as error:
        print(file.name, error.code, peak_kb() - before_kb)
"""


def test_header_bombs_are_refused_before_memory_is_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DECODE_BOMBS], capture_output=True, text=True, timeout=200
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, _, _ in found] == [file.name for file in header_bombs()], done.stderr
    assert {code for _, code, _ in found} == {"too_large"}
    assert int(found[-1][2]) < 10_000


def test_a_jpeg_cut_at_any_byte_is_never_an_image() -> None:
    jpeg = good_jpeg()
    for size in range(len(jpeg)):
        with pytest.raises(DecodeError) as caught:
            decode_gray(jpeg[:size])
        assert caught.value.code == {0: "empty", 1: "not_an_image"}.get(size, "truncated")


@pytest.mark.parametrize("interval", [0, 2], ids=["plain", "restarts"])
def test_a_jpeg_cut_and_closed_again_is_an_image_only_if_the_last_block_alone_suffered(
    interval: int,
) -> None:
    jpeg = good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, interval)
    whole_HW = decode_gray(jpeg)
    begin = jpeg.index(b"\xff\xda") + 10
    for size in [*range(begin, len(jpeg) - 150, 5), *range(len(jpeg) - 150, len(jpeg) - 2)]:
        found = outcome(jpeg[:size].rstrip(b"\xff") + b"\xff\xd9")
        if isinstance(found, ImageError):
            assert found.code == "truncated"
        else:
            differs_HW = found != whole_HW
            differs_HW[-8:, -16:] = False
            assert not differs_HW.any(), size
            assert size > len(jpeg) - 100


def test_progressive_jpegs_of_an_encoder_have_far_fewer_scans_than_are_allowed() -> None:
    colour = cv2.cvtColor(good_image(), cv2.COLOR_GRAY2BGR)
    jpeg = encode(".jpg", colour, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert 2 <= jpeg.count(b"\xff\xda") < MAX_SCANS / 4


def test_the_whole_corpus_decodes_from_any_buffer() -> None:
    jpeg = good_jpeg()
    expected_HW = decode_gray(jpeg)
    column = pa.array([b"before", jpeg])
    for data in (bytearray(jpeg), memoryview(jpeg), column[1].as_buffer()):
        np.testing.assert_array_equal(decode_gray(data), expected_HW)
    with pytest.raises(DecodeError, match="0 bytes"):
        decode_gray(pa.array([b""])[0].as_buffer())


def test_a_limit_of_pixels_holds_to_the_pixel() -> None:
    limits = Limits(image_pixels=HEIGHT * WIDTH)
    assert decode_gray(good_jpeg(), limits=limits).shape == (HEIGHT, WIDTH)
    with pytest.raises(DecodeError, match="160×64") as caught:
        decode_gray(good_jpeg(), limits=Limits(image_pixels=HEIGHT * WIDTH - 1))
    assert caught.value.code == "too_large"


Edit = tuple[str, float, bytes]
_PLACES = st.floats(0, 1, exclude_max=True)
EDITS: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "cut out", "repeat", "end"]),
        _PLACES,
        st.binary(min_size=1, max_size=12)
        | st.sampled_from([b"\xff\xd9", b"\xff\xd8", b"\xff\xc2\0\x0b", b"\xff\xc4", b"\xff\xff"]),
    ),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """A file after some damage; most of it lands in the header, where it does most."""
    for kind, place, piece in edits:
        span = min(len(data), 700) if place < 0.5 else len(data)
        at = int(place * span)
        if kind == "set":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "cut out":
            data = data[:at] + data[at + len(piece) :]
        elif kind == "repeat":
            data = data[: at + 64] + data[at:]
        else:
            data = data[: max(at, 1)]
    return data


@cache
def strips() -> list[bytes]:
    """Pieces of synthetic strips in every coding of JPEG that OpenCV writes."""
    flags = [
        (),
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 5),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    ]
    pieces = [np.ascontiguousarray(render(5, i).image_HW[i : i + 96, 800:1040]) for i in range(4)]
    jpegs = [encode(".jpg", piece, *flag) for piece, flag in zip(pieces, flags, strict=True)]
    return [*jpegs, encode(".jpg", cv2.cvtColor(pieces[0], cv2.COLOR_GRAY2BGR))]


def _check_outcome(data: bytes) -> None:
    found = outcome(data, Limits(image_pixels=1_000_000))
    if isinstance(found, ImageError):
        assert found.code in CODES
    else:
        header = probe(memoryview(data))
        assert found.shape == (header.height, header.width)
        assert found.dtype == np.uint8


@settings(max_examples=examples(400))
@given(which=st.integers(0, 4), edits=EDITS)
def test_mutated_jpegs_are_images_of_the_stated_size_or_errors(
    which: int, edits: list[Edit]
) -> None:
    _check_outcome(edited(strips()[which], edits))


OTHERS = [
    file
    for file in CORPUS
    if file.code is None and not file.name.startswith("jpeg") and len(file.data) < 50_000
]


@settings(max_examples=examples(300))
@given(file=st.sampled_from(OTHERS), edits=EDITS)
def test_other_mutated_files_are_images_of_the_stated_size_or_errors(
    file: StrangeFile, edits: list[Edit]
) -> None:
    _check_outcome(edited(file.data, edits))


@settings(max_examples=examples(200))
@given(
    magic=st.sampled_from([b"", *(file.data[:24] for file in OTHERS[::3]), good_jpeg()[:2]]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_behind_any_magic_number_are_an_error_or_an_image(
    magic: bytes, rest: bytes
) -> None:
    _check_outcome(magic + rest)


def test_an_image_of_the_engines_size_is_not_touched() -> None:
    image_HW = good_image()
    assert fit_to(image_HW, HEIGHT, WIDTH, "never") is image_HW


@pytest.mark.parametrize(("height", "width"), [(1, 1), (128, 320), (32, 500), (300, 80)])
def test_another_size_is_refused_or_fitted_as_the_card_says(height: int, width: int) -> None:
    image_HW = np.full((height, width), 77, np.uint8)
    with pytest.raises(ShapeError, match=f"{width}×{height}.*takes 160×64.*never") as caught:
        fit_to(image_HW, HEIGHT, WIDTH, "never")
    assert caught.value.code == "wrong_size"
    fitted_HW = fit_to(image_HW, HEIGHT, WIDTH, "fit")
    assert fitted_HW.shape == (HEIGHT, WIDTH)
    assert (fitted_HW == 77).all()


def test_a_mask_goes_back_to_the_source_with_no_bit_made_up() -> None:
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[8:24, 40:80], mask_HW[32:48, 100:120] = 0b0101, 0b1000
    source_HW = mask_to_source(mask_HW, HEIGHT * 2, WIDTH * 2)
    np.testing.assert_array_equal(source_HW, mask_HW.repeat(2, axis=0).repeat(2, axis=1))
    assert set(np.unique(mask_to_source(mask_HW, 37, 91))) <= {0, 0b0101, 0b1000}


@pytest.mark.parametrize(
    ("size", "wanted", "golden"),
    [
        (4, 10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        (10, 4, [1, 3, 6, 8]),
        (3, 7, [0, 0, 1, 1, 1, 2, 2]),
        (7, 3, [1, 3, 5]),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
        (1, 3, [0, 0, 0]),
        (3, 1, [1]),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (8, 4, [1, 3, 5, 7]),
    ],
)
def test_a_mask_takes_the_value_at_each_pixels_centre(
    size: int, wanted: int, golden: list[int]
) -> None:
    ramp = np.arange(size, dtype=np.uint8)
    np.testing.assert_array_equal(mask_to_source(ramp[None], 1, wanted)[0], golden)
    np.testing.assert_array_equal(mask_to_source(ramp[:, None], wanted, 1)[:, 0], golden)


@pytest.mark.parametrize(
    ("height", "width", "digest"),
    [
        (256, 1600, "df1958dae96def02"),
        (200, 256, "d6cc618f2cb1f2dc"),
        (100, 33, "3bc5efc05b0a1960"),
        (333, 1601, "b2dbc9dab9f78f55"),
    ],
)
def test_a_mask_in_the_images_size_is_the_same_with_every_opencv(
    height: int, width: int, digest: str
) -> None:
    columns = np.arange(512, dtype=np.int64)
    mask_HW = ((columns[None] * 7 + columns[:128, None] * 13) % 16).astype(np.uint8)
    found_HW = mask_to_source(mask_HW, height, width)
    assert hashlib.sha256(found_HW.tobytes()).hexdigest()[:16] == digest


@given(size=st.integers(1, 90), wanted=st.integers(1, 90))
def test_a_mask_taken_back_is_in_order_and_nearest(size: int, wanted: int) -> None:
    ramp = np.arange(size, dtype=np.uint8)
    found = mask_to_source(ramp[None], 1, wanted)[0].astype(int)
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    assert (found < size).all()
    assert np.abs(found + 0.5 - (np.arange(wanted) + 0.5) * size / wanted).max() <= 0.5 + 1e-9


def test_a_decoder_is_named_by_module_and_function() -> None:
    decode = load_decoder("steel_batch.images.decode:decode_gray")
    np.testing.assert_array_equal(decode(good_jpeg()), decode_gray(good_jpeg()))
    module = "steel_batch.images.decode"
    for name in ("", module, "no.such.module:decode", f"{module}:nothing"):
        with pytest.raises(ConfigError, match="module:function"):
            load_decoder(name)


@pytest.mark.parametrize("function", ["raises_value_error", "gives_colour"])
def test_what_goes_wrong_in_somebody_elses_decoder_costs_the_image_alone(function: str) -> None:
    with pytest.raises(DecodeError, match=f"tests.strange_decoders:{function} "):
        load_decoder(f"tests.strange_decoders:{function}")(good_jpeg())
