from __future__ import annotations

import time

import pytest

from training.labels import MAX_PROBLEMS, LabelError, read_groups, read_labels

SIZES = {"a.jpg": (10, 20), "b.jpg": (10, 20), "c_1.jpg": (10, 20)}
SPLIT = "ImageId,ClassId,EncodedPixels"
JOINED = "ImageId_ClassId,EncodedPixels"


def read(text: str, num_classes: int | None = 4) -> dict[str, dict[int, str]]:
    return read_labels(text.encode(), source="t.csv", sizes=SIZES, num_classes=num_classes)


def test_both_published_formats_give_the_same_masks() -> None:
    split = read(f"{SPLIT}\na.jpg,1,1 5 9 2\nc_1.jpg,4,200 1\n")
    joined = read(f"{JOINED}\na.jpg_1,1 5 9 2\na.jpg_2,\nc_1.jpg_4,200 1\nb.jpg_1,\n")
    assert split == joined == {"a.jpg": {1: "1 5 9 2"}, "c_1.jpg": {4: "200 1"}}


def test_a_byte_order_mark_and_blank_lines_change_nothing() -> None:
    assert read(f"\ufeff{SPLIT}\r\n\r\na.jpg,1,1 5\r\n") == {"a.jpg": {1: "1 5"}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,1,1 5 3 2", "row 2: run 2 (3 2) overlaps run 1 (1 5)"),
        ("a.jpg,1,30 5 3 2", "row 2: run 2 (3 2) comes before run 1 (30 5)"),
        ("a.jpg,1,198 5", "row 2: run 1 (198 5) ends at pixel 202 of 200"),
        ("a.jpg,1,0 5", "row 2: run 1 (0 5) has a number below 1"),
        ("a.jpg,1,7 0", "row 2: run 1 (7 0) has a number below 1"),
        ("a.jpg,1,1 5 9", "row 2: 3 numbers, expected pairs of start and length"),
        ("a.jpg,1,1 5.0", "row 2: number 2 is '5.0', expected a positive integer"),
        ("a.jpg,1,-3 5", "row 2: number 1 is '-3', expected a positive integer"),
        ("z.jpg,1,1 5", "row 2: contains 'z.jpg', which is not one of the images"),
        ("a.jpg,5,1 5", "row 2: has class '5', expected 1 to 4"),
        ("a.jpg,0,1 5", "row 2: has class '0', expected 1 to 4"),
        ("a.jpg,x,1 5", "row 2: has class 'x', expected 1 to 4"),
        ("a.jpg,1", "row 2: has 2 fields, expected 3"),
        ("a.jpg,1,1 5,more", "row 2: has 4 fields, expected 3"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason(row: str, message: str) -> None:
    with pytest.raises(LabelError) as raised:
        read(f"{SPLIT}\n{row}\n")
    text = str(raised.value)
    assert text.startswith("t.csv cannot be used, 1 problem(s):")
    assert message in text
    assert "nothing was trained" in text


def test_a_repeated_row_names_the_first_one() -> None:
    with pytest.raises(LabelError, match=r"row 4: repeats row 2 \(a\.jpg, class 1\)"):
        read(f"{SPLIT}\na.jpg,1,1 5\nb.jpg,1,1 5\na.jpg,1,9 1\n")


def test_every_bad_row_is_listed_up_to_a_limit() -> None:
    rows = "\n".join(f"z{i}.jpg,1,1 5" for i in range(MAX_PROBLEMS + 7))
    with pytest.raises(LabelError) as raised:
        read(f"{SPLIT}\n{rows}\n")
    text = str(raised.value)
    assert f"{MAX_PROBLEMS + 7} problem(s)" in text
    assert text.count("is not one of the images") == MAX_PROBLEMS
    assert "and 7 more" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has the columns (none), expected ImageId,ClassId,EncodedPixels or"),
        (b"id,mask\na,1 2\n", "has the columns id,mask"),
        (b"\xff\xfe\x00", "is not a CSV file in UTF-8"),
        (f'{SPLIT}\na.jpg,1,"1 5\n'.encode(), "is not a CSV file in UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(LabelError) as raised:
        read_labels(data, source="t.csv", sizes=SIZES)
    assert message in str(raised.value)


def test_groups_cover_every_image_once() -> None:
    names = sorted(SIZES)
    good = b"ImageId,Group\na.jpg,x\nb.jpg,x\nc_1.jpg,y\n"
    assert read_groups(good, source="g.csv", names=names) == {
        "a.jpg": "x", "b.jpg": "x", "c_1.jpg": "y",
    }  # fmt: skip
    bad = b"ImageId,Group\na.jpg,x\na.jpg,y\nz.jpg,x\nb.jpg,\n"
    with pytest.raises(LabelError) as raised:
        read_groups(bad, source="g.csv", names=names)
    for message in (
        "row 3: repeats 'a.jpg'",
        "row 4: contains 'z.jpg', which is not one of the images",
        "row 5: expected an image and its group, found ['b.jpg', '']",
        "'c_1.jpg' has no group",
    ):
        assert message in str(raised.value)
    with pytest.raises(LabelError, match="has the columns image,g, expected ImageId,Group"):
        read_groups(b"image,g\n", source="g.csv", names=names)


def seconds_of_reading(num_images: int) -> float:
    """CPU time for reading the rows of a number of images, four each."""
    rle = " ".join(f"{1 + 40 * i} 20" for i in range(120))  # as long as real ones are
    rows = [f"im{i // 4}.jpg_{i % 4 + 1},{rle}" for i in range(4 * num_images)]
    data = "\n".join([JOINED, *rows]).encode()
    sizes = {f"im{i}.jpg": (256, 1600) for i in range(num_images)}
    started = time.process_time()
    masks = read_labels(data, source="t.csv", sizes=sizes, num_classes=4)
    seconds = time.process_time() - started
    assert len(masks) == num_images
    return seconds


def test_ten_times_the_rows_are_not_a_hundred_times_the_work() -> None:
    assert seconds_of_reading(12_500) < 30 * seconds_of_reading(1_250)
