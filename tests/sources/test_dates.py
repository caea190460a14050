"""How keys spell dates: every spelling is found, and none changes what was found before."""

from __future__ import annotations

import datetime
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.sources.dates import read_date, spellings
from steel_batch.sources.key_pattern import KeyPattern, literal_prefixes
from steel_batch.sources.undated import ImagesByDate
from tests.sources.made_up_sources import source_of

DAY = "2026-11-05"


@pytest.mark.parametrize(
    ("text", "date"),
    [
        (DAY, DAY), ("2026-11-5", DAY), ("20261105", DAY), ("2026_11_05", DAY), ("2026.11.5", DAY),
        ("2026/11/05", DAY), ("2026-11-05T23:59:59Z", DAY), (" 2026-11-05 00:00:00", DAY),
        ("05.11.2026", None), ("11/05/2026", None), ("2026-11_05", None), ("2026111", None),
        ("2026-02-30", None), ("20261301", None), ("26-11-05", None), ("", None),
        ("٢٠٢٦-11-05", None),
    ],
)  # fmt: skip
def test_a_date_begins_with_its_year_and_is_a_day(text: str, date: str | None) -> None:
    assert read_date(text) == date


SPELLED = [
    ("{year}/{month}/{day}/{image_id}.jpg", ["2026/11/5/a.jpg", "2026/11/05/a.jpg"],
     ["2026/11/50/a.jpg", "2026/Nov/5/a.jpg", "26/11/05/a.jpg"]),
    ("year={year}/month={month}/day={day}/{image_id}.jpg", ["year=2026/month=11/day=5/a.jpg"],
     ["year=2026/month=11/day=__HIVE_DEFAULT_PARTITION__/a.jpg"]),
    ("date={date}/{image_id}.jpg",
     [f"date={d}/a.jpg" for d in (DAY, "2026-11-5", "20261105", "2026_11_05", "2026.11.05")],
     ["date=05.11.2026/a.jpg", "date=2026-02-30/a.jpg", "date=latest/a.jpg"]),
    ("all/{date}_{image_id}.jpg", ["all/20261105_a.jpg", "all/2026-11-5_b.jpg"], []),
    ("{day}.{month}.{year}/{image_id}.jpg", ["5.11.2026/a.jpg", "05.11.2026/b.jpg"], []),
    ("{year}{month}{day}/{image_id}.jpg", ["20261105/a.jpg"], ["2026115/a.jpg"]),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "keys", "others"), SPELLED)
def test_a_date_is_found_however_its_folders_spell_it(
    tmp_path: Path, pattern: str, keys: list[str], others: list[str]
) -> None:
    lake = Lake(str(tmp_path))
    for key in (*keys, *others, pattern.format(year=2026, month=11, day=15, date="2026-11-15",
                                               image_id="x")):  # fmt: skip
        lake.write(key, b"x")
    source = source_of(lake, pattern)
    assert source.dates() == [DAY, "2026-11-15"]
    for date, found in ((DAY, keys), (None, None)):
        selection = source.select(date)
        refs = list(selection)
        assert {ref.date for ref in refs} <= {DAY, "2026-11-15"}
        assert found is None or sorted(ref.image_key for ref in refs) == sorted(found)
        assert (selection.num_left_out, bool(selection.example_left_out)) == (
            len(others),
            bool(others),
        )


def test_a_spelling_that_is_not_read_is_named_where_there_is_no_other(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("date=05.11.2026/a.jpg", b"x")
    source = source_of(lake, "date={date}/{image_id}.jpg")
    text = r"date=05\.11\.2026/.*name the parts, as in .day.\..month.\..year."
    with pytest.raises(ConfigError, match=text):
        source.dates()
    selection = source.select(DAY)
    assert list(selection) == []
    assert "name the parts" in str(selection.explain_empty())
    renamed = source_of(lake, "date={day}.{month}.{year}/{image_id}.jpg")
    assert renamed.dates() == [DAY]


def test_unpadded_folders_of_a_bucket_are_found(lake: Lake) -> None:
    lake.write("2026/11/5/a.jpg", b"x")
    lake.write("2026/1/15/b.jpg", b"x")
    source = source_of(lake, "{year}/{month}/{day}/{image_id}.jpg")
    assert source.dates() == ["2026-01-15", DAY]
    assert [ref.image_key for ref in source.select(DAY)] == ["2026/11/5/a.jpg"]


def test_a_key_in_the_usual_spelling_is_read_as_ever() -> None:
    fields = KeyPattern("{a}-{year}-{month}-{day}-{image_id}").match("x-2026-11-05-7-2026-1-2-y")
    assert fields is not None
    assert (fields["a"], fields["image_id"]) == ("x", "7-2026-1-2-y")


@hypothesis.given(
    st.dates(datetime.date(1000, 1, 1)), st.sampled_from(["date", "year", "month", "day"])
)
def test_every_spelling_is_matched_and_none_is_listed_twice(day: datetime.date, name: str) -> None:
    date = day.isoformat()
    heads = literal_prefixes("x{" + name + "}{image_id}", date)
    assert not any(a != b and b.startswith(a) for a in heads for b in heads)
    pattern = KeyPattern("{date}/{image_id}")
    for text in spellings("date", date):
        fields = pattern.match(f"{text}/a")
        assert fields is not None
        assert fields["date"] == text
        assert read_date(text) == date


@pytest.mark.parametrize("folder", ["date=20261105", "year=2026/month=11/day=5", "date=2026-11-5"])
def test_images_whose_folders_spell_another_date_are_not_taken_for_the_given_one(
    tmp_path: Path, folder: str
) -> None:
    lake = Lake(str(tmp_path))
    lake.write(f"{folder}/a.jpg", b"x")
    images = source_of(lake, None).select("2026-11-06")
    with pytest.raises(ConfigError, match="contains date=2026-11-05 in its name"):
        list(ImagesByDate(images, lake.url, None, "2026-11-06"))
    assert len(list(ImagesByDate(source_of(lake, None).select(DAY), lake.url, None, DAY))) == 1
