"""A JPEG's restart intervals and scans have to be all there and in order, whoever decodes it."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import DecodeError
from steel_batch.images.decode import check_jpeg, decode_gray
from steel_batch.images.jpeg import is_plain_jpeg
from steel_batch.images.scans import check_scans
from steel_batch.scoring.shard import ShardInput, check_jpegs
from tests.bad_files import strange_files
from tests.image_files import HEIGHT, WIDTH, encode, good_image, good_jpeg
from tests.images.jpeg_scans import (
    RESTARTS,
    intervals_of,
    scan_of,
    scans_of,
    with_intervals,
    with_restart_interval,
)

ROW = WIDTH // 8
"""Blocks of a row: the interval of cameras that restart with each row."""
JPEG = good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
INTERVALS = intervals_of(JPEG)
COLOUR = np.dstack([good_image(), good_image()[::-1], 255 - good_image()])
PROGRESSIVE = encode(".jpg", COLOUR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def code_of(jpeg: bytes) -> str | None:
    """What becomes of a file, which is the same in a read task and where it is decoded."""
    codes: list[str | None] = []
    for look in (check_jpeg, decode_gray):
        try:
            look(jpeg)
            codes.append(None)
        except DecodeError as error:
            codes.append(error.code)
    assert codes[0] == codes[1]
    return codes[0]


def reordered(order: list[int], numbers: list[int] | None = None) -> bytes:
    return with_intervals(JPEG, [INTERVALS[i] for i in order], numbers)


def test_the_intervals_of_the_image_are_those_of_its_header() -> None:
    assert len(INTERVALS) == HEIGHT * ROW // 8 // 4 == 40
    assert with_intervals(JPEG, INTERVALS) == JPEG
    assert code_of(JPEG) is None


ALL = list(range(40))
FAULTY: dict[str, tuple[bytes, str]] = {
    "one interval cut out": (reordered([*ALL[:5], *ALL[6:]], [*range(5), *range(6, 39)]),
                             "undecodable"),
    "the first interval cut out": (reordered(ALL[1:], list(range(1, 39))), "undecodable"),
    "the last interval cut out": (reordered(ALL[:-1]), "truncated"),
    "one interval cut out and the others numbered anew": (reordered([*ALL[:5], *ALL[6:]]),
                                                          "truncated"),
    "eight intervals cut out": (reordered([*ALL[:5], *ALL[13:]]), "truncated"),
    "numbers from RST1": (reordered(ALL, list(range(1, 40))), "undecodable"),
    "numbers that never wrap": (reordered(ALL, [min(i, 7) for i in range(39)]), "undecodable"),
    "numbers that wrap at seven": (reordered(ALL, [i % 7 for i in range(39)]), "undecodable"),
    "all numbers RST0": (reordered(ALL, [0] * 39), "undecodable"),
    "numbers backwards": (reordered(ALL, [-i for i in range(39)]), "undecodable"),
    "two markers exchanged": (reordered(ALL, [1, 0, *range(2, 39)]), "undecodable"),
    "the last two markers exchanged": (reordered(ALL, [*range(37), 38, 37]), "undecodable"),
    "one interval twice": (reordered([*ALL[:5], 4, *ALL[5:]], [*range(5), *range(4, 39)]),
                           "undecodable"),
    "one interval more, numbered on": (reordered([*ALL, 39]), "undecodable"),
    "eight intervals twice": (reordered([*ALL[:16], *ALL[8:]]), "undecodable"),
    "one marker left out": (JPEG.replace(RESTARTS[3], b"", 1), "undecodable"),
    "one marker twice": (JPEG.replace(RESTARTS[3], RESTARTS[3] * 2, 1), "undecodable"),
    "a marker behind the last interval": (JPEG[:-2] + RESTARTS[7] + JPEG[-2:], "undecodable"),
    "an interval without pixels": (with_intervals(JPEG, [*INTERVALS[:7], b"", *INTERVALS[8:]]),
                                   "undecodable"),
    "a last interval without pixels": (with_intervals(JPEG, [*INTERVALS[:-1], b""]), "truncated"),
    "no interval in the header": (with_restart_interval(JPEG, 0), "undecodable"),
    "half the interval in the header": (with_restart_interval(JPEG, 2), "truncated"),
    "twice the interval in the header": (with_restart_interval(JPEG, 8), "undecodable"),
    "an interval longer than the image": (with_restart_interval(JPEG, 60_000), "undecodable"),
    "an interval in the header and no markers": (with_restart_interval(good_jpeg(), ROW),
                                                 "truncated"),
    "a marker in an image without": (
        good_jpeg()[: scan_of(good_jpeg())[1]] + RESTARTS[0] + b"\xff\xd9", "undecodable"),
    "a marker TEM among the pixels": (JPEG.replace(RESTARTS[2], b"\xff\x01", 1), "undecodable"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_restart_intervals_are_refused_before_anything_decodes_them(name: str) -> None:
    jpeg, code = FAULTY[name]
    assert jpeg != JPEG
    assert code_of(jpeg) == code


def test_a_row_of_blocks_that_is_cut_out_is_refused_wherever_it_was() -> None:
    jpeg = good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, ROW)
    rows = intervals_of(jpeg)
    assert len(rows) == 8
    for row in range(8):
        numbers = [number for number in range(8) if number != row][: len(rows) - 2]
        assert code_of(with_intervals(jpeg, rows[:row] + rows[row + 1 :], numbers)) is not None


def test_a_gpu_is_given_no_jpeg_with_faulty_restart_intervals() -> None:
    jpegs = [JPEG, *(jpeg for jpeg, _ in FAULTY.values())]
    shard = ShardInput(
        run_id="run", plan_digest="", shard=0, refs=pa.table({}), contents=jpegs,
        errors=[None] * len(jpegs),
    )  # fmt: skip
    checked = check_jpegs(shard, HEIGHT, WIDTH)
    assert checked.errors[0] is None
    codes = [error.code if error else None for error in checked.errors[1:]]
    assert codes == [code for _, code in FAULTY.values()]
    assert checked.plain is not None
    assert checked.plain[0]


@given(numbers=st.lists(st.integers(0, 7), min_size=39, max_size=39), place=st.integers(0, 38))
def test_markers_are_right_in_one_order_alone(numbers: list[int], place: int) -> None:
    right = [number % 8 for number in range(39)]
    assert code_of(reordered(ALL, numbers)) == (None if numbers == right else "undecodable")
    one_wrong = [*right[:place], numbers[0], *right[place + 1 :]]
    assert code_of(reordered(ALL, one_wrong)) == (None if one_wrong == right else "undecodable")


SHAPES = [(1, 1), (8, 8), (33, 77), (64, 160), (100, 13)]
SAMPLINGS = [0x111111, 0x121111, 0x211111, 0x221111, 0x411111]


@pytest.mark.parametrize("flag", [0, cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_OPTIMIZE])
def test_whole_jpegs_pass_in_every_sampling_size_and_interval(flag: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    for (height, width), sampling in itertools.product(SHAPES, SAMPLINGS):
        for interval in (0, 1, 3, 8, 20, 1000):
            image = np.ascontiguousarray(noise[:height, :width])
            flags = [cv2.IMWRITE_JPEG_RST_INTERVAL, interval, flag, 1 if flag else 0]
            colour = encode(".jpg", image, *flags, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
            check_scans(memoryview(colour))
            check_scans(memoryview(encode(".jpg", image[..., 0], *flags)))


def test_numbers_wrap_after_eight_and_the_last_interval_may_be_shorter() -> None:
    for interval in range(1, 161):
        jpeg = good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, interval)
        assert len(intervals_of(jpeg)) == -(-160 // interval)
        check_scans(memoryview(jpeg))


def test_flat_images_have_the_shortest_intervals_and_pass() -> None:
    for value in (0, 128, 255):
        flat = np.full((HEIGHT, WIDTH), value, np.uint8)
        for flags in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_OPTIMIZE, 1)):
            for interval in (0, 1, 7, ROW):
                restarts = (cv2.IMWRITE_JPEG_RST_INTERVAL, interval)
                check_scans(memoryview(encode(".jpg", flat, *restarts, *flags)))


def test_a_gray_file_with_any_sampling_factors_has_one_block_a_unit_and_stays_off_the_gpu() -> None:
    place = JPEG.index(b"\xff\xc0") + 11
    for across, down in itertools.product(range(1, 5), repeat=2):
        jpeg = JPEG[:place] + bytes([across << 4 | down]) + JPEG[place + 1 :]
        np.testing.assert_array_equal(decode_gray(jpeg), decode_gray(JPEG))
        assert is_plain_jpeg(jpeg, HEIGHT, WIDTH) == ((across, down) == (1, 1))


def test_a_restart_interval_that_is_stated_twice_keeps_off_the_gpu() -> None:
    assert is_plain_jpeg(JPEG, HEIGHT, WIDTH)
    twice = with_restart_interval(JPEG, 4)
    assert code_of(twice) is None
    assert not is_plain_jpeg(twice, HEIGHT, WIDTH)


def test_a_progressive_jpeg_without_its_last_scans_is_cut_off() -> None:
    head, scans, end = scans_of(PROGRESSIVE)
    assert len(scans) == 10
    assert code_of(head + b"".join(scans) + end) is None
    for num in range(1, len(scans)):
        assert code_of(head + b"".join(scans[:num]) + end) == "truncated"


def test_a_progressive_jpeg_with_a_scan_twice_or_out_of_order_is_refused() -> None:
    head, scans, end = scans_of(PROGRESSIVE)
    for place in range(len(scans)):
        twice = [*scans[: place + 1], *scans[place:]]
        assert code_of(head + b"".join(twice) + end) == "undecodable", place
        left_out = [*scans[:place], *scans[place + 1 :]]
        assert code_of(head + b"".join(left_out) + end) in ("undecodable", "truncated"), place
    assert code_of(head + b"".join(reversed(scans)) + end) is not None


def test_each_scan_of_a_progressive_jpeg_has_its_restart_intervals() -> None:
    jpeg = encode(".jpg", COLOUR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 3)
    head, scans, end = scans_of(jpeg)
    for place, scan in enumerate(scans):
        at = scan.index(RESTARTS[1])
        cut = scan[:at] + scan[scan.index(RESTARTS[2]) :]
        for faulty in (cut, scan[:at] + RESTARTS[5] + scan[at + 2 :]):
            others = [*scans[:place], faulty, *scans[place + 1 :]]
            assert code_of(head + b"".join(others) + end) == "undecodable", place
    assert code_of(head + b"".join(scans) + end) is None


def test_a_channel_in_a_scan_of_its_own_comes_once() -> None:
    """Four channels in four scans, as `image_files` writes CMYK."""
    jpeg = next(file.data for file in strange_files() if file.name == "jpeg_cmyk")
    head, scans, end = scans_of(jpeg)
    assert len(scans) == 4
    assert code_of(head + b"".join(scans) + end) is None
    assert code_of(head + b"".join(scans[:3]) + end) == "truncated"
    assert code_of(head + b"".join([*scans, scans[2]]) + end) == "undecodable"
    unknown = scans[3].replace(b"\xff\xda\0\x08\x01\x04", b"\xff\xda\0\x08\x01\x07")
    assert code_of(head + b"".join([*scans[:3], unknown]) + end) == "undecodable"


def test_headers_that_are_longer_than_their_channels_are_refused() -> None:
    frame, scan = JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xda")
    for at, value in [(frame + 3, 12), (frame + 9, 2), (scan + 3, 9), (scan + 4, 2), (scan + 4, 0)]:
        assert code_of(JPEG[:at] + bytes([value]) + JPEG[at + 1 :]) is not None, (at, value)
