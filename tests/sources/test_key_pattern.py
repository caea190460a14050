"""Key patterns and listings."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake, LakeObject, ListedPage
from steel_batch.sources.image_ref import ref_of
from steel_batch.sources.key_pattern import KeyPattern
from steel_batch.sources.prefix import Listing, find_dates

USUAL = "line={line}/date={date}/{image_id}.jpg"


class CountingLake(Lake):
    """A lake that notes what was listed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.listed: list[str] = []

    def list_pages(self, prefix: str = ""):  # type: ignore[no-untyped-def]
        self.listed.append(prefix)
        return super().list_pages(prefix)


@pytest.fixture
def archive(tmp_path: Path) -> CountingLake:
    lake = CountingLake(str(tmp_path / "archive"))
    for line in "12":
        for date in ("2026-11-20", "2026-11-21"):
            for name in "ab":
                lake.write(f"line={line}/date={date}/{name}.jpg", b"x")
    lake.write("line=1/date=2026-11-21/notes.txt", b"x")
    lake.write("readme.md", b"x")
    return lake


def test_a_pattern_fills_columns_and_tags() -> None:
    pattern = KeyPattern("site={site}/{line}/{date}/{camera}_{image_id}.png")
    fields = pattern.match("site=linz/L7/2026-11-21/c2_000123.png")
    assert fields is not None
    ref = ref_of(fields, LakeObject(key="k", size_bytes=5, etag="e"))
    assert (ref.line, ref.date, ref.image_id) == ("L7", "2026-11-21", "000123")
    assert ref.tags == {"site": "linz", "camera": "c2"}
    assert pattern.match("site=linz/L7/2026-11-21/sub/c2_000123.png") is None
    assert pattern.match("site=linz/L7/21.11.2026/c2_000123.png") is None


def test_year_month_and_day_make_a_date() -> None:
    fields = KeyPattern("{year}/{month}/{day}/{image_id}.jpg").match("2026/11/21/a.jpg")
    assert fields is not None
    ref = ref_of(fields, LakeObject(key="k", size_bytes=5, etag="e"))
    assert (ref.date, ref.tags) == ("2026-11-21", {})


def test_without_a_pattern_every_image_file_is_taken() -> None:
    pattern = KeyPattern(None)
    assert pattern.match("deep/in/here/abc.JPEG") == {"image_id": "abc"}
    assert pattern.match("deep/in/here/abc.txt") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("line={line}/x.jpg", "no {image_id}"),
        ("{image_id}/{image_id}.jpg", "used once"),
        ("{image id}.jpg", "each placeholder must be"),
        ("/{image_id}.jpg", "relative"),
        ("{year}/{image_id}.jpg", "all three"),
    ],
)
def test_a_bad_pattern_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        KeyPattern(text)


def test_a_date_costs_only_its_own_folders(archive: CountingLake) -> None:
    listing = Listing(archive, KeyPattern(USUAL), "2026-11-21")
    found = sorted(ref.image_key for ref in listing)
    assert found == [f"line={line}/date=2026-11-21/{name}.jpg" for line in "12" for name in "ab"]
    assert archive.listed == ["line=1/date=2026-11-21/", "line=2/date=2026-11-21/"]
    assert (listing.num_left_out, listing.example_left_out) == (
        1,
        "line=1/date=2026-11-21/notes.txt",
    )


def test_dates_are_found_from_folders_alone(archive: CountingLake) -> None:
    assert find_dates(archive, KeyPattern(USUAL)) == ["2026-11-20", "2026-11-21"]
    assert archive.listed == []


def test_dates_in_file_names_are_found_too(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for date in ("2026-11-20", "2026-11-21"):
        lake.write(f"all/{date}_a.jpg", b"x")
    pattern = KeyPattern("all/{date}_{image_id}.jpg")
    assert find_dates(lake, pattern) == ["2026-11-20", "2026-11-21"]
    assert [r.image_id for r in Listing(lake, pattern, "2026-11-21")] == ["a"]


def test_dates_need_a_pattern_that_has_one(archive: CountingLake) -> None:
    with pytest.raises(ConfigError, match="--date YYYY-MM-DD"):
        find_dates(archive, KeyPattern(None))


def test_an_empty_listing_explains_itself(archive: CountingLake) -> None:
    listing = Listing(archive, KeyPattern("{image_id}.tif"), None)
    assert list(listing) == []
    assert "found for example" in str(listing.explain_empty())


def test_a_folder_that_does_not_exist_a_file_and_an_empty_folder_are_told_apart(
    tmp_path: Path,
) -> None:
    def explain(name: str) -> str:
        return str(Listing(Lake(str(tmp_path / name)), KeyPattern(None), None).explain_empty())

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert explain("nothing") == f"there is no folder {tmp_path}/nothing: check --images."
    assert explain("empty") == f"there are no files under {tmp_path}/empty: check --images."
    assert explain("file").startswith(f"{tmp_path}/file is a file")


def test_a_listing_that_fails_raises_in_the_reader(tmp_path: Path) -> None:
    class Failing(Lake):
        def list_pages(self, prefix: str = ""):  # type: ignore[no-untyped-def]
            yield ListedPage(keys=["a.jpg"], sizes_bytes=[1], etags=["e"])
            raise ConfigError("no more")

    stream = iter(Listing(Failing(str(tmp_path)), KeyPattern(None), None))
    with pytest.raises(ConfigError, match="no more"):
        list(stream)


def test_a_reader_that_stops_early_stops_the_listing(archive: CountingLake) -> None:
    stream = iter(Listing(archive, KeyPattern(None), None))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
