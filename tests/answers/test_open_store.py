"""The views of a store say what its tables say, and only what a question needs is opened."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steel_batch import layout
from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.pixel_size import parse_pixel_sizes
from steel_batch.answers.views import VIEWS
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.registry.versions import DEMO, load_engine
from steel_batch.tables.table_log import all_live_files
from tests.golden_store import copy_golden_store
from tests.made_up_run import CLASSES, DATE, ENGINE, begin, commit_run, image_keys, made_up_row
from tests.opened_files import opened_files

OTHER = "other-0123456789ab"
DATES = ("2026-11-20", DATE, "2026-11-22")


def rows(store: OpenStore, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = store.sql(sql).to_arrow_table().to_pylist()
    return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Three dates by one engine, one of them by another too; three lines, one without a name."""
    store = Lake(str(tmp_path_factory.mktemp("store")))
    keys = image_keys(30, lines=("1", "2", None))
    for date in DATES:
        commit_run(store, keys, bad=keys[:2], date=date, merge_bytes=1)
    commit_run(store, keys[:6], engine=OTHER)
    return store


@pytest.fixture(scope="module")
def opened(lake: Lake) -> Iterator[OpenStore]:
    with OpenStore(lake) as store:
        yield store


def test_each_view_has_the_columns_that_help_lists(opened: OpenStore) -> None:
    assert list(COLUMNS) == list(VIEWS)
    for name in VIEWS:
        assert set(opened.view(name).columns) == set(COLUMNS[name]), name
        comments = rows(
            opened,
            f"SELECT comment FROM duckdb_columns() WHERE table_name = '{name}'",
        )
        assert all(row["comment"] for row in comments), name


def test_each_defect_of_an_image_is_a_row(opened: OpenStore) -> None:
    """Against the rows as they were made up."""
    keys = image_keys(30, lines=("1", "2", None))[2:]
    expected = [
        (key, d["class_id"], CLASSES[d["class_id"] - 1], d["area_px"], d["bbox"]["h"], d["rle"])
        for key in keys
        for d in made_up_row(key, "")["defects"]
    ]
    found = rows(
        opened,
        f"SELECT image_key, class_id, class_name, area_px, h_px, rle FROM defects "
        f"WHERE date = '{DATE}' AND engine = '{ENGINE}'",
    )
    assert sorted(tuple(row.values()) for row in found) == sorted(expected)
    assert len(expected) > 10
    mm = rows(opened, "SELECT count(area_mm2) AS a, count(w_mm) AS b FROM defects")
    assert mm == [{"a": 0, "b": 0}]


def test_millimetres_follow_the_line(lake: Lake) -> None:
    with OpenStore(lake, pixel_sizes=parse_pixel_sizes(["0.5x0.25", "2=3"])) as store:
        for row in rows(store, "FROM defects"):
            x, y = (3, 3) if row["line"] == "2" else (0.5, 0.25)
            assert row["area_mm2"] == row["area_px"] * x * y
            assert (row["x_mm"], row["h_mm"]) == (row["x_px"] * x, row["h_px"] * y)
        size = "SELECT line, any_value(width_mm) AS w FROM predictions GROUP BY 1 ORDER BY 1"
        assert [row["w"] for row in rows(store, size)] == [80.0, 480.0, 80.0]


@pytest.mark.parametrize("size", ["0", "-1", "x", "1x", "nan", "inf", "1,2", "", "2=", "1e999"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match="millimetres"):
        parse_pixel_sizes([size])


def test_a_line_has_one_size() -> None:
    for sizes in (["1", "2"], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="the size of"):
            parse_pixel_sizes(sizes)
    assert set(parse_pixel_sizes(["it's=1", "a=b=2"]).of_line) == {"it's", "a=b"}


def test_every_image_and_class_has_a_peak_and_images_count_once_per_line(
    opened: OpenStore,
) -> None:
    assert rows(opened, "SELECT count(*) AS n FROM peaks") == [{"n": (3 * 28 + 6) * 4}]
    found = rows(opened, "SELECT count(*) AS n FROM peaks WHERE is_found")
    assert found == rows(opened, "SELECT count(*) AS n FROM defects")
    (lines, classes, images) = (
        rows(opened, f"SELECT {what} AS n FROM {view}")[0]["n"]
        for view, what in (
            ("line_summaries", "sum(num_images)"),
            ("class_summaries", "sum(num_images)"),
            ("predictions", "count(*)"),
        )
    )
    assert (int(lines), int(classes)) == (images, 4 * images)
    per_line = "SELECT line, sum(area_sum_px)::BIGINT AS a FROM {} GROUP BY 1 ORDER BY 1"
    assert rows(opened, per_line.format("line_summaries")) == rows(
        opened, "SELECT line, sum(area_px)::BIGINT AS a FROM defects GROUP BY 1 ORDER BY 1"
    )


def test_engines_are_known_by_their_cards_and_by_their_rows(opened: OpenStore) -> None:
    card = load_engine(DEMO, store=None).card
    found = {row["engine"]: row for row in rows(opened, "FROM engines")}
    assert set(found) == {ENGINE, OTHER, card.name}
    assert "not in this store" in found[ENGINE]["problem"]
    shipped = found[card.name]
    assert shipped["classes"] == list(card.classes)
    assert shipped["problem"] is None
    figures = dict(shipped["figures"])
    assert figures["kaggle_dice"] == card.metrics["kaggle_dice"]
    assert figures["scabs.recall"] == card.metrics["classes"][3]["recall"]


def test_runs_say_how_they_ended(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    commit_run(lake, image_keys(4))
    begin(lake, image_keys(4), date="2026-11-22")
    with OpenStore(lake) as store:
        found = rows(store, "SELECT state, num_scored, settings['shard_images'] AS n FROM runs")
        assert found == [
            {"state": "committed", "num_scored": 4, "n": "4"},
            {"state": "killed", "num_scored": None, "n": "4"},
        ]


def test_only_files_of_the_named_dates_and_engines_are_opened(lake: Lake) -> None:
    def of(engine: str, *dates: str) -> set[str]:
        live = all_live_files(lake, layout.PREDICTIONS)
        return {f.key for f in live if f.engine == engine and f.date in dates}

    questions = {
        f"FROM predictions WHERE date = '{DATE}' AND engine = '{ENGINE}'": of(ENGINE, DATE),
        f"FROM defects WHERE date = '{DATE}' AND engine = '{OTHER}'": of(OTHER, DATE),
        "FROM defects WHERE date = '2026-11-22' AND class_name = 'patch'": of(ENGINE, DATES[2]),
        "FROM peaks WHERE date < '2026-11-21' AND margin > 0": of(ENGINE, DATES[0]),
        "SELECT count(*) FROM predictions JOIN current USING (date, engine) "
        "WHERE date = '2026-11-22'": of(ENGINE, DATES[2]),
        "SELECT line, sum(num_images) FROM line_summaries WHERE date = '2026-11-22' GROUP BY 1":
            set(),
    }  # fmt: skip
    for sql, expected in questions.items():
        with OpenStore(lake) as store, opened_files(Path(lake.url)) as seen:
            store.sql(sql).fetchall()
        assert {key for key in seen if key.startswith("predictions/engine=")} == expected, sql
    summaries = {key for key in seen if key.startswith("class_summaries/engine=")}
    assert [key.split("/")[2] for key in summaries] == ["date=2026-11-22"]


def test_bounds_leave_out_rows_that_cannot_match(tmp_path: Path) -> None:
    """Every page of the other files is damaged, their footers are not."""
    lake = Lake(str(tmp_path))
    commit_run(lake, image_keys(16, lines=("1",)), merge_bytes=1)
    files = all_live_files(lake, layout.PREDICTIONS)
    assert len(files) > 2
    for file in files[1:]:
        path = Path(lake.uri(file.key))
        data = bytearray(path.read_bytes())
        footer = int.from_bytes(data[-8:-4], "little") + 8
        data[4:-footer] = bytes(len(data) - footer - 4)
        path.write_bytes(data)
    first = pq.read_table(lake.uri(files[0].key))["image_key"].to_pylist()
    with OpenStore(lake) as store:
        found = rows(store, f"SELECT image_key FROM defects WHERE image_key <= '{max(first)}'")
        assert {row["image_key"] for row in found} <= set(first)
        assert rows(store, f"SELECT count(*) AS n FROM predictions WHERE image_key = '{first[0]}'")
    with OpenStore(lake) as store, pytest.raises(LakeError, match="cannot be read"):
        list(store.sql("FROM predictions").read()[1])


def test_one_question_is_answered_to_duckdb_arrow_pandas_and_polars(opened: OpenStore) -> None:
    relation = opened.view("defects").filter(f"date = DATE '{DATE}'").order("image_key, class_id")
    arrow, frame, polars = relation.to_arrow_table(), relation.df(), relation.pl()
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(polars, pl.DataFrame)
    keys = [row[0] for row in relation.project("image_key").fetchall()]
    assert keys == arrow["image_key"].to_pylist() == list(frame["image_key"])
    assert keys == polars["image_key"].to_list()
    assert arrow["date"][0].as_py() == datetime.date.fromisoformat(DATE)


READINGS: dict[str, Callable[[Any], object]] = {
    "fetchall": lambda r: r.fetchall(),
    "fetchnumpy": lambda r: r.fetchnumpy(),
    "arrow": lambda r: r.to_arrow_table(),
    "pandas": lambda r: r.df(),
    "polars": lambda r: r.pl(),
    "reader": lambda r: r.to_arrow_reader().read_all(),
    "batches": lambda r: list(r.read()[1]),
    "pyarrow.table": pa.table,
    "len": len,
    "print": str,
    "shape": lambda r: r.shape,
    "derived": lambda r: r.filter("width > 0").order("image_key").fetchall(),
    "joined": lambda r: r.set_alias("a").join(r.set_alias("b"), "image_key").fetchall(),
    "summed": lambda r: r.sum("width").fetchall(),
    "column": lambda r: r["image_key"].fetchall(),
}


@pytest.fixture(scope="module", params=["damaged", "missing"])
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A store whose one file of rows is bad."""
    lake = Lake(str(tmp_path_factory.mktemp(request.param)))
    commit_run(lake, image_keys(8))
    (file,) = all_live_files(lake, layout.PREDICTIONS)
    path = Path(lake.uri(file.key))
    size = path.stat().st_size
    path.unlink()
    if request.param == "damaged":
        path.write_bytes(bytes(size))
    return lake


@pytest.mark.parametrize("name", READINGS)
def test_however_rows_are_read_a_bad_file_is_an_error_of_ours(
    name: str, opened: OpenStore, faulty: Lake
) -> None:
    read = READINGS[name]
    read(opened.view("predictions"))  # as it should be
    with OpenStore(faulty) as store:
        with pytest.raises(LakeError, match="a committed file cannot be read: ") as raised:
            read(store.view("predictions"))
        assert "steel-batch verify --store" in str(raised.value)


def test_a_mistake_in_what_is_derived_is_an_error_of_ours(opened: OpenStore) -> None:
    relation = opened.view("predictions")
    with pytest.raises(ConfigError, match=r"cannot be answered: .*nonsense"):
        relation.filter("nonsense > 1").fetchall()
    with pytest.raises(ConfigError, match=r"cannot be answered: .*Conversion"):
        relation.project("image_key::INTEGER").fetchall()
    with pytest.raises(AttributeError):
        _ = relation.nonsense
    assert copy.copy(relation).columns == relation.columns


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY predictions TO 'stolen.parquet'",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH 'other.duckdb'",
        "SET enable_external_access = true",
        "SET autoinstall_known_extensions = true",
    ],
)
def test_a_query_reaches_nothing_besides_the_store(opened: OpenStore, sql: str) -> None:
    with pytest.raises(ConfigError, match="cannot be answered"):
        opened.sql(sql)
    assert not Path("stolen.parquet").exists()


def test_names_that_are_computed_see_the_rows_too(opened: OpenStore) -> None:
    sql = "SELECT count(*) AS n FROM query_table('cur' || 'rent')"
    assert rows(opened, sql) == [{"n": 3}]
    assert {row["name"] for row in rows(opened, "SHOW TABLES")} >= set(VIEWS)


def test_classes_of_an_engine_from_a_folder_have_names(tmp_path: Path) -> None:
    with OpenStore(copy_golden_store(tmp_path).store) as store:
        found = rows(store, "SELECT DISTINCT class_name FROM defects ORDER BY 1")
        assert [row["class_name"] for row in found] == [f"band_{i}" for i in range(1, 5)]
        no_threshold = rows(store, "SELECT count(threshold) AS n, count(*) > 0 AS any FROM peaks")
        assert no_threshold == [{"n": 0, "any": True}]
