"""Columns of manifests and of Parquet files: whatever their names' case and their values' types."""

from __future__ import annotations

import datetime
import gzip
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, pack
from steel_batch.sources.columns import texts
from tests.sources.made_up_sources import images_of, parquet_of, read, source_of

JPEG = b"\xff\xd8\xff\xe0 first \xff\xd9"
OTHER = b"\xff\xd8\xff\xe0 second, which is longer \xff\xd9"
DAY = "2026-11-05"


def nullable(kind: pa.DataType, *values: Any) -> pa.Array:
    return pa.array(list(values), kind)


def signed(data: bytes) -> list[int]:
    return [byte - 256 if byte > 127 else byte for byte in data]


COLUMNS_OF_IMAGES = {
    "binary": nullable(pa.binary(), JPEG, None, OTHER),
    "large_binary": nullable(pa.large_binary(), JPEG, None, OTHER),
    "binary_view": nullable(pa.binary_view(), JPEG, None, OTHER),
    "dictionary": nullable(pa.binary(), JPEG, None, OTHER).dictionary_encode(),
    "list": nullable(pa.list_(pa.uint8()), list(JPEG), None, list(OTHER)),
    "signed": nullable(pa.list_(pa.int8()), signed(JPEG), None, signed(OTHER)),
    "large_list": nullable(pa.large_list(pa.uint8()), list(JPEG), None, list(OTHER)),
    "hugging_face": pa.array(
        [{"bytes": JPEG, "path": "a.jpg"}, None, {"bytes": OTHER, "path": None}]
    ),
}
ARROW = int(pa.__version__.partition(".")[0])
if ARROW >= 25:  # the first that writes it
    COLUMNS_OF_IMAGES["list_view"] = nullable(
        pa.list_view(pa.uint8()), list(JPEG), None, list(OTHER)
    )


@pytest.mark.parametrize("form", COLUMNS_OF_IMAGES)
@pytest.mark.parametrize("name", ["image", "Image ", "bytes", "jpeg"])
def test_images_are_read_from_each_form_of_column(tmp_path: Path, form: str, name: str) -> None:
    lake = Lake(str(tmp_path / "lake"))
    columns = {"image_id": [b"x", b"y", b"z"], name: COLUMNS_OF_IMAGES[form], "label": [1, 2, 3]}
    lake.write("p.parquet", parquet_of(columns, row_group_size=2))
    _, found = read(source_of(lake, "*.parquet"), tmp_path)
    assert list(found.values()) == [JPEG, "empty", OTHER]
    assert {ref.image_id for ref in images_of(lake, "*.parquet").values()} == {"x", "y", "z"}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(pa.binary(len(JPEG)), id="binary"),
        pytest.param(
            pa.list_(pa.uint8(), len(JPEG)),
            id="list",
            marks=pytest.mark.skipif(ARROW < 26, reason="Arrow cannot read it with a null"),
        ),
    ],
)
def test_images_of_one_size_are_read(lake: Lake, tmp_path: Path, kind: pa.DataType) -> None:
    values = [JPEG, None] if pa.types.is_fixed_size_binary(kind) else [list(JPEG), None]
    lake.write("p.parquet", parquet_of({"image": nullable(kind, *values)}))
    _, found = read(source_of(lake, "*.parquet"), tmp_path)
    assert list(found.values()) == [JPEG, "empty"]


def test_a_record_with_a_path_alone_says_so(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("p.parquet", parquet_of({"image": [{"bytes": None, "path": "a.jpg"},
                                                  {"bytes": JPEG, "path": "b.jpg"}]}))  # fmt: skip
    shard, found = read(source_of(lake, "*.parquet"), tmp_path)
    assert list(found.values()) == ["empty", JPEG]
    assert next(e.message for e in shard.errors if e).startswith("The row holds the path 'a")


def test_images_of_hugging_face_are_packed_as_others_are(tmp_path: Path) -> None:
    lake, out = Lake(str(tmp_path / "lake")), Lake(str(tmp_path / "out"))
    lake.write("p.parquet", parquet_of({"image": [{"bytes": JPEG, "path": "a.jpg"}],
                                        "line": [3.0]}))  # fmt: skip
    settings = PackConfig(images=lake.url, key_pattern="*.parquet", out=out.url, format="parquet")
    result = pack(settings, lambda _: None)
    _, found = read(source_of(out, result.key_pattern), tmp_path)
    assert list(found.values()) == [JPEG]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": ["a"]}, "^p.parquet: its column 'image' is string, expected binary:"),
        ({"Image ": [[1.5]], "x": [1]}, "its column 'Image ' is list<.*double>, expected binary"),
        ({"images": [[JPEG]]}, r"0 binary columns.*'images' \(list<"),
        ({"x": [JPEG], "y": [{"bytes": JPEG}]}, "2 binary columns"),
        ({"image": [JPEG], "line": [["1"]]}, r"'line' is list<.*expected text"),
        ({"image": [JPEG], "image_id": [JPEG]}, r"#00000000: .*'image_id' holds 13 bytes that are"),
        ({"image": [JPEG], "date": [JPEG]}, "'date' holds 13 bytes that are not UTF-8 text"),
        ({"image": [JPEG], "date": ["05.11.2026"]}, "holds '05.11.2026', expected YYYY-MM-DD"),
        ({"image": [JPEG] * 2, "bytes": [1, -1]}, r"#00000001: its column 'bytes' holds -1"),
        ({"image": [JPEG], "bytes": ["big"]}, "'bytes' holds 'big', expected each image's size"),
        ({"image": [JPEG], "image_id": [1e17]}, "stands for several integers"),
        ({"image": [JPEG], "Date": [DAY], " date": ["2026-11-06"]},
         "columns 2 and 3 are both 'date' .written 'Date' and ' date'"),
        ({"image": [JPEG], "tags": ["a"]}, "'tags' is string, expected a map.*or rename"),
        ({"image": [JPEG], "tags": nullable(pa.map_(pa.string(), pa.list_(pa.int8())), [])},
         "'tags' has values of list<"),
        ({"image": [JPEG], "tags": nullable(pa.map_(pa.string(), pa.binary()), [("a", JPEG)])},
         "'tags' holds 13 bytes"),
        ({"image": [JPEG], "tags": nullable(pa.map_(pa.string(), pa.int8()), [("a", 1), ("a", 2)])},
         "has two values for the tag 'a'"),
    ],
)  # fmt: skip
def test_what_a_parquet_file_cannot_mean_is_one_sentence_without_bytes(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", parquet_of(columns))
    with pytest.raises(ConfigError, match=said) as raised:
        images_of(lake, "*.parquet")
    text = str(raised.value)
    assert text.startswith("p.parquet")
    assert "damaged" not in text
    assert r"\xff" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (nullable(pa.float64(), 3, None, 3), ["3", None, "3"]),
        (nullable(pa.float64(), 3.5, float("nan")), ["3.5", None]),
        (nullable(pa.float32(), 3.1, 1e7), ["3.1", "10000000"]),
        (nullable(pa.float16(), np.float16(0.5)), ["0.5"]),
        (nullable(pa.int8(), 3, None), ["3", None]),
        (nullable(pa.decimal128(9, 2), Decimal("3.00"), Decimal("100.50")), ["3", "100.5"]),
        (nullable(pa.binary(), b"s1", "\u00fc".encode()), ["s1", "\u00fc"]),
        (nullable(pa.string_view(), "s1", None), ["s1", None]),
        (nullable(pa.large_string(), "s1"), ["s1"]),
        (nullable(pa.string(), "b", None, "b").dictionary_encode(), ["b", None, "b"]),
        (nullable(pa.float64(), 3, None).dictionary_encode(), ["3", None]),
        (nullable(pa.bool_(), True, None), ["true", None]),
        (nullable(pa.timestamp("ns"), 1_762_300_800_123_456_789), ["2025-11-05 00:00:00.123456"]),
        (nullable(pa.date32(), datetime.date(2026, 11, 5)), [DAY]),
    ],
    ids=str,
)
def test_values_become_the_text_that_people_write(
    tmp_path: Path, array: pa.Array, expected: list[str | None]
) -> None:
    assert texts(array) == expected
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", parquet_of({"image": [JPEG] * len(array), "line": array}))
    assert [ref.line for ref in images_of(lake, "*.parquet").values()] == expected
    tags = pa.MapArray.from_arrays([*range(len(array)), len(array)], ["t"] * len(array), array)
    lake.write("p.parquet", parquet_of({"image": [JPEG] * len(array), "tags": tags}))
    found = [ref.tags.get("t") for ref in images_of(lake, "*.parquet").values()]
    assert found == expected
    lake.write(
        "m.parquet", parquet_of({"key": [f"{i}.jpg" for i in range(len(array))], "t": array})
    )
    found = [ref.tags.get("t") for ref in images_of(lake, None, "m.parquet").values()]
    assert found == expected


@given(st.lists(st.none() | st.integers(-(2**53) + 1, 2**53 - 1), min_size=1))
def test_whole_numbers_are_the_same_text_in_each_type(numbers: list[int | None]) -> None:
    expected = [None if number is None else str(number) for number in numbers]
    for kind in (pa.int64(), pa.float64(), pa.string()):
        held = expected if kind == pa.string() else numbers
        assert texts(nullable(kind, *held)) == expected


@pytest.mark.parametrize(
    "value",
    [DAY, "2026-11-5", 20261105, 20261105.0, DAY.encode(), datetime.date(2026, 11, 5),
     datetime.datetime(2026, 11, 5, 23, 59), "2026-11-05 00:00:00",
     datetime.datetime(2026, 11, 5, tzinfo=datetime.timezone.utc)],
    ids=repr,
)  # fmt: skip
def test_dates_of_each_type_are_read(tmp_path: Path, value: Any) -> None:
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", parquet_of({"image": [JPEG], "date": [value]}))
    assert source_of(lake, "*.parquet").dates() == [DAY]
    lake.write("m.parquet", parquet_of({"key": ["a.jpg"], "DATE": [value]}))
    assert source_of(lake, None, "m.parquet").dates() == [DAY]


@pytest.mark.parametrize(
    "tags",
    [
        nullable(pa.map_(pa.string(), pa.string()), [("camera", "1"), ("n", "2")], None),
        nullable(pa.map_(pa.binary(), pa.int64()), [(b"camera", 1), (b"n", 2)], None),
        pa.array([[{"key": "camera", "value": "1"}, {"key": "n", "value": "2"}], None]),
        pa.array([{"camera": 1.0, "n": 2}, None]),
    ],
    ids=["map", "other map", "pairs", "record"],
)
def test_tags_are_read_from_each_form(tmp_path: Path, tags: pa.Array) -> None:
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", parquet_of({"image": [JPEG] * 2, "tags": tags}))
    lake.write("m.parquet", parquet_of({"key": ["a.jpg", "b.jpg"], "tags": tags}))
    for pattern, name in (("p.parquet", ""), (None, "m.parquet")):
        found = [ref.tags for ref in images_of(lake, pattern, name).values()]
        assert found == [{"camera": "1", "n": "2"}, {}]


HEADERS = [
    "key,date,line,camera", "key, date, line, camera", "Key,Date,LINE,camera",
    "\ufeffkey,date,line,camera", '"key", "date", "line", "camera"', "KEY ,\tdate,line , camera ",
    "key,date,line,camera,", "\ufeff\ufeffkey,date,line,camera", "key,\u00a0date,line,camera",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS, ids=ascii)
def test_a_csv_is_read_whatever_the_case_and_blanks_of_its_header(
    tmp_path: Path, header: str
) -> None:
    lake = Lake(str(tmp_path))
    gap = ", " if ", " in header else ","
    tail = "," if header.endswith(",") else ""
    row = gap.join(["a.jpg", DAY, "3", '"c, 1"']) + tail
    lake.write("m.csv", f"{header}\r\n{row}\r\n".encode())
    source = source_of(lake, None, "m.csv")
    assert source.dates() == [DAY]
    (ref,) = source.select(DAY)
    assert (ref.image_key, ref.line, ref.tags) == ("a.jpg", "3", {"camera": "c, 1"})
    assert list(source.select("2026-11-06")) == []


@pytest.mark.parametrize("names", [("Key ", " DATE", "Line"), ("\ufeffkey", "Date", " line ")])
def test_a_parquet_manifest_is_read_whatever_the_case_of_its_columns(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    lake = Lake(str(tmp_path))
    values = (pa.array(["a.jpg"]).dictionary_encode(), [DAY], [3.0])
    lake.write("m.parquet", parquet_of(dict(zip(names, values, strict=True))))
    source = source_of(lake, None, "m.parquet")
    assert source.dates() == [DAY]
    assert [(r.image_key, r.line, r.tags) for r in source.select(DAY)] == [("a.jpg", "3", {})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("key,date,date\na.jpg,2026-11-05,2026-11-06\n", "columns 2 and 3 are both 'date'"),
        ("key,date, Date\na.jpg,2026-11-05,2026-11-06\n", "columns 2 and 3 are both 'date'"),
        ("key,camera,camera \na.jpg,1,2\n", "columns 2 and 3 are both 'camera'"),
        ("key,KEY\na.jpg,b.jpg\n", "columns 1 and 2 are both 'key'"),
        (",key\n0,a.jpg\n", "row 1 has '0' in column 1, which has no name"),
        ("key;date\na.jpg;2026-11-05\n", "none named 'key'.*separated by commas"),
        ("key,date\na.jpg,05.11.2026\n", "row 1: its date is '05.11.2026', expected YYYY-MM-DD"),
        ("key,size\na.jpg,1.5\n", "row 1: its size is '1.5'"),
    ],
)
def test_a_csv_that_says_two_things_is_refused(tmp_path: Path, text: str, said: str) -> None:
    lake = Lake(str(tmp_path))
    lake.write("m.csv", text.encode())
    with pytest.raises(ConfigError, match=said):
        images_of(lake, None, "m.csv")
    lake.write("m.csv", text.encode("utf-16"))
    with pytest.raises(ConfigError, match="a CSV in UTF-8"):
        images_of(lake, None, "m.csv")


def test_two_columns_of_one_name_in_a_parquet_manifest_are_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    table = pa.Table.from_arrays(
        [pa.array(["a.jpg"]), pa.array([DAY]), pa.array(["2026-11-06"])], ["key", "date", "date"]
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    lake.write("m.parquet", buffer.getvalue())
    with pytest.raises(ConfigError, match="columns 2 and 3 are both 'date'"):
        images_of(lake, None, "m.parquet")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"key": ["a.jpg"], "vector": [[1.0]]}, "its column 'vector' is list<"),
        ({"key": ["a.jpg"], "thumbnail": [JPEG]}, "row 1: its column 'thumbnail' holds 13 bytes"),
        ({"key": [b"a.jpg", JPEG]}, "row 2: its column 'key' holds 13 bytes"),
        ({"key": ["a.jpg"], "size": [b"\xff"]}, "row 1: its"),
    ],
)
def test_a_column_that_is_no_tag_is_refused_in_words(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    lake = Lake(str(tmp_path))
    lake.write("m.parquet", parquet_of(columns))
    with pytest.raises(ConfigError, match=said) as raised:
        images_of(lake, None, "m.parquet")
    assert r"\xff" not in str(raised.value)


def test_a_tag_of_the_key_is_not_replaced_by_a_column(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("m.csv", b"key,camera\nc1/a.jpg,2\n")
    with pytest.raises(ConfigError, match="row 1: its tag 'camera' has two values, '2' and '1'"):
        images_of(lake, "c{camera}/{image_id}.jpg", "m.csv")


def test_sizes_that_pandas_wrote_beside_nulls_are_read(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("a.jpg", b"12345")
    lake.write("b.jpg", b"1")
    lake.write("m.csv", b"key,size,etag\na.jpg,5.0,e\nb.jpg,,\n")
    found = {ref.image_key: (ref.bytes, ref.etag == "e") for ref in
             images_of(lake, None, "m.csv").values()}  # fmt: skip
    assert found == {"a.jpg": (5, True), "b.jpg": (1, False)}


def test_words_of_a_column_may_be_joined_in_any_way(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for name in ("image_id", "ImageId", "Image ID", "image-id", "IMAGE_ID "):
        lake.write("m.csv", f"key,{name}\na.jpg,7\n".encode())
        lake.write("p.parquet", parquet_of({"image": [JPEG], name: ["7"]}))
        for pattern, place in ((None, "m.csv"), ("p.parquet", "")):
            assert [r.image_id for r in images_of(lake, pattern, place).values()] == ["7"]


def test_a_binary_column_beside_the_images_is_no_size(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.write("p.parquet", parquet_of({"image": [JPEG], "bytes": [OTHER]}))
    assert list(read(source_of(lake, "*.parquet"), tmp_path)[1].values()) == [JPEG]


@pytest.mark.parametrize(
    ("data", "said"),
    [(gzip.compress(b"x", mtime=0), "compressed with gzip"), (b"PK\x03\x04", "a ZIP archive")],
)
def test_what_is_called_parquet_and_is_none_is_named(
    tmp_path: Path, data: bytes, said: str
) -> None:
    lake = Lake(str(tmp_path))
    lake.write("p.parquet", data)
    with pytest.raises(ConfigError, match=f"is {said}, not a Parquet file"):
        images_of(lake, "*.parquet")
