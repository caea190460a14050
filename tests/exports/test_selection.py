"""Which images an export takes, and what it calls them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from steel_batch.answers.open_store import OpenStore
from steel_batch.errors import ConfigError
from steel_batch.exports.selection import Image, Picked, Selection
from steel_batch.lake import Lake
from tests.cli.command_line import Command, refused
from tests.made_up_run import ENGINE, commit_run, image_keys

DATE = "2026-11-21"
OTHER = "other-0123456789ab"
OF_ENGINE = f"SELECT image_key FROM predictions WHERE engine = '{ENGINE}' AND date = '{DATE}'"


def selected(store: Lake, *, by_key: bool = True, **selection: Any) -> list[Image]:
    with OpenStore(store) as opened:
        return list(Picked(opened, Selection(**selection), by_key=by_key))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two dates, one of them by two engines."""
    store = Lake(str(tmp_path_factory.mktemp("three")))
    commit_run(store, image_keys(8))
    commit_run(store, image_keys(6), date="2026-12-01")
    commit_run(store, image_keys(4), engine=OTHER)
    return store


def test_images_are_selected_by_date_engine_condition_and_query(three: Lake) -> None:
    assert len(selected(three, date="2026-12")) == 6
    assert len(selected(three, date=DATE)) == 4, "of the engine in `current`, the newest"
    assert len(selected(three, date="2026-11", engine=ENGINE, where="line = '1'")) == 4
    assert len(selected(three, date=DATE, engine=ENGINE, where="false) OR (true")) == 8
    assert len(selected(three, date=DATE, engine=ENGINE, limit=3)) == 3
    sql = f"SELECT image_key, area_px FROM defects WHERE engine = '{ENGINE}' ORDER BY area_px DESC"
    with OpenStore(three) as opened:
        keys = [row[0] for row in opened.sql(sql).fetchall()]
    found = [image.key for image in selected(three, query=sql, engine=ENGINE, date=DATE)]
    in_order = [key for key in dict.fromkeys(keys) if key in found]
    assert found == in_order
    assert len(found) > 3
    both = "SELECT image_key, engine, date FROM predictions WHERE image_key = '1/im00002.jpg'"
    assert len(selected(three, query=f"{both} AND date = '{DATE}' LIMIT 1")) == 1


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (
            {"date": "2031"},
            r"no image matches: .* query 'FROM current' --store \S+( --endpoint-url \S+)?`\.",
        ),
        ({"engine": "it's"}, "engine it's has no rows in this store: expected one of: made-"),
        ({"where": " "}, "--where is empty"),
        ({"where": "nonsense > 1"}, "nonsense"),
        ({"where": "1; DROP VIEW predictions"}, "--where"),
        ({"query": "SELECT 1 AS one"}, "no column image_key"),
        ({"query": "SELECT 1; SELECT 2"}, "found 2"),
        ({"query": "SELEC"}, "--query"),
        (
            {"query": "FROM (VALUES ('1/im00000.jpg'), ('1/typo.jpg'), (NULL)) t(image_key)"},
            r"no row in predictions: found 2, for example 1/typo\.jpg\.",
        ),
        (
            {"query": "SELECT '1/im00000.jpg' AS image_key, DATE '2031-01-01' AS date"},
            r"found 1, for example \(1/im00000\.jpg, 2031-01-01\)\. .*USING \(image_key, date\)",
        ),
        (
            {"query": OF_ENGINE, "date": DATE},
            rf"returns no engine for 1/im00000\.jpg, which has rows of several engines \({ENGINE}, "
            rf"{OTHER}\); found 4 such images\. .*\(SELECT image_key, engine\).* with --engine\.",
        ),
        (
            {"query": "SELECT image_key, engine FROM predictions"},
            r"no date for .* several dates \(2026-11-21, 2026-12-01\); found 6 .*with --date\.",
        ),
        (
            {"query": OF_ENGINE, "where": f"engine = '{OTHER}'"},
            r"no date and no engine .*\(SELECT image_key, date, engine\).*--date and --engine\.",
        ),
        ({}, "is selected twice"),
        ({"query": "SELECT image_key, engine, date FROM predictions", "date": DATE}, "twice"),
    ],
)
def test_a_selection_that_means_nothing_or_too_much_is_refused(
    three: Lake, selection: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        selected(three, **selection)


def test_a_query_selects_the_rows_that_it_has_read(three: Lake) -> None:
    with_engine = OF_ENGINE.replace("image_key", "image_key, engine")
    for found in (
        selected(three, query=with_engine, date=DATE),
        selected(three, query=OF_ENGINE, date=DATE, engine=ENGINE),
    ):
        assert [image.engine for image in found] == [ENGINE] * 8


def test_an_image_of_one_engine_needs_no_engine_even_if_another_is_current(three: Lake) -> None:
    sql = "SELECT image_key FROM predictions WHERE image_key >= '1/im00004.jpg' AND line = '1'"
    found = selected(three, query=sql, date=DATE)
    assert [(image.key, image.engine) for image in found] == [
        ("1/im00004.jpg", ENGINE), ("1/im00006.jpg", ENGINE)
    ]  # fmt: skip


def test_a_number_sign_separates_a_member_only_from_its_container(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    named = {
        "1/zl#x.jpg": "zl#x.jpg",
        "1/x.jpg": "x.jpg",
        "1/a#b/im.jpg": "im.jpg",
        "1/t.tar#q#r.jpg": "q#r.jpg",
        "1/t.tar#in/r.jpg": "r.jpg",
        "1/a#t.tar#b.tar#c.jpg": "b.tar#c.jpg",
        "1/t.parquet#000007": "000007",
    }
    commit_run(store, list(named))
    assert {image.key: image.name for image in selected(store, by_key=False)} == named


def test_members_of_one_name_in_two_containers_are_refused(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, ["1/a.tar#q#r.jpg", "1/b.tar#in/q#r.jpg"])
    with pytest.raises(ConfigError, match=r"would have the same name, q#r\.jpg"):
        selected(store, by_key=False)


def test_the_command_that_is_suggested_runs_as_printed(
    steel_batch: Command, tmp_path: Path
) -> None:
    store = tmp_path / "a store"
    commit_run(Lake(str(store)), image_keys(2))
    flags = ["--store", store, "--format", "kaggle", "--out", tmp_path / "out"]
    told = refused(steel_batch("export", *flags, "--date", "2031")).split("`")[1]
    _, *words = shlex.split(told)
    assert ENGINE in steel_batch(*words).out


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, ["1/a/im1.jpg", "1/b/im1.jpg"])
    with pytest.raises(ConfigError, match=r"would have the same name, im1\.jpg"):
        selected(store, by_key=False)
    assert len(selected(store)) == 2
