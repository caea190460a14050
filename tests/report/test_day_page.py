"""The page about a date says what the tables say, whatever keys are called, and loads nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steel_batch.cli.run_report import Afterwards
from steel_batch.lake import Lake
from steel_batch.report.pictures import COLORS_BGR, outlined
from steel_batch.runs.record import list_runs, read_run
from steel_batch.tables.query import run_query
from tests.browser import ask_page, faint_texts, needs_browser, num_near, photograph
from tests.cli.command_line import Command, refused
from tests.cli.conftest import steel_batch as steel_batch
from tests.conftest import band_image, new_bucket, png, score_config
from tests.golden_store import copy_golden_store
from tests.scored_store import score_without_ray

PATTERN = "line={line}/date={date}/hour={hour}/{image_id}.png"
LINES = ("1", "2", "<img src=x onerror=document.title='owned'>", "r\u202etl\"'&")
DATES = [f"2026-11-{day}" for day in range(14, 22)]
DATE = DATES[-1]
PER_DAY = 80


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight dates of four lines, of which one is brighter on the last; one image is none."""
    folder = tmp_path_factory.mktemp("days")
    images, store = Lake(str(folder / "images")), Lake(str(folder / "store"))
    for day, date in enumerate(DATES):
        for number in range(PER_DAY):
            line = LINES[number % 4]
            image_HW = band_image(1000 * day + number)
            if date == DATE and line == "2":
                image_HW = cv2.add(image_HW, np.full_like(image_HW, 40))
            key = f"line={line}/date={date}/hour={number % 3:02}/im{number:03}.png"
            images.write(key, png(image_HW))
        if date == DATE:
            images.write(f"line=1/date={date}/hour=00/<b>bad.png", b"no image")
        score_without_ray(images, store, date=date, pattern=PATTERN)
    return folder


@pytest.fixture(scope="module")
def made() -> dict[tuple[object, ...], Any]:
    """Pages that were made, by their flags: no test changes the store."""
    return {}


@pytest.fixture
def report(
    steel_batch: Command, scored: Path, tmp_path: Path, made: dict[tuple[object, ...], Any]
) -> Callable[..., Any]:
    def run(*flags: object) -> Any:
        if flags not in made:
            made[flags] = make(*flags)
        return made[flags]

    def make(*flags: object) -> Any:
        out = tmp_path / "page.html"
        out.unlink(missing_ok=True)
        done = steel_batch(
            "report", "--store", scored / "store", "--out", out, "--output", "json", *flags
        )
        assert done.code == 0, done
        return out.read_text(encoding="utf-8"), done.json

    return run


def test_the_page_has_what_the_tables_say(report: Callable[..., Any], scored: Path) -> None:
    text, said = report("--date", DATE)
    for title in (
        "What is not as usual", "Defect rates", "Areas", "By hour", "Largest and most doubtful",
        "Quarantine", "Runs",
    ):  # fmt: skip
        assert text.count(f"<h2>{title}</h2>") == 1
    assert said["num_images"] == PER_DAY
    assert said["num_quarantined"] == 1
    assert f"<b>{PER_DAY}</b> images of 4 lines were scored by" in text
    assert "<td>not_an_image</td>" in text or "&lt;b&gt;bad.png" in text
    rows = run_query(
        Lake(str(scored / "store")),
        "SELECT line, class_name, num_defective, num_images, area_p50_px, area_sum_px "
        f"FROM class_summaries WHERE date = '{DATE}' AND line IN ('1', '2')",
    ).to_pylist()
    assert len(rows) == 8
    for row in rows:
        rate = f"{100 * row['num_defective'] / row['num_images']:.1f}\N{NO-BREAK SPACE}%"
        cells = f"<td>line {row['line']}</td><td>{row['num_defective']}</td><td>20</td><td>{rate}"
        assert cells in text
        areas = text.partition("<th>lower median px</th>")[2]
        assert f"<td>{row['area_p50_px']:,}</td>" in areas
        assert f"<td>{row['area_sum_px']:,}</td>" in areas


def test_a_line_that_became_brighter_is_warned_of_with_its_images(
    report: Callable[..., Any],
) -> None:
    text, said = report("--date", DATE)
    brighter = [sentence for sentence in said["drift"] if "brightness" in sentence]
    assert len(brighter) == 1
    assert brighter[0].startswith("Line 2: mean brightness is ")
    assert f"It is so since {DATE}." in brighter[0]
    assert not [sentence for sentence in said["drift"] if not sentence.startswith("Line 2")]
    assert brighter[0] in text
    shown = text.partition("<h3>brightness, line 2</h3>")[2].partition("<h2>")[0]
    assert shown.count("<img alt") == 3
    assert shown.count("<figcaption>line=2/") == 3
    quiet, said = report("--date", DATES[-2])
    assert said["drift"] == []
    assert "Nothing: " in quiet


def test_another_date_may_be_compared_with(report: Callable[..., Any]) -> None:
    text, said = report("--date", DATE, "--against", DATES[0])
    assert f"compared with {DATES[0]}" in text
    assert said["drift"] == []
    assert DATES[3] not in text


def test_one_file_holds_its_pictures_and_states_that_it_loads_nothing(
    report: Callable[..., Any],
) -> None:
    text, _ = report("--date", DATE)
    assert len(text.encode()) < 5_000_000
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in text
    assert text.count('src="data:image/jpeg;base64,') >= 12
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', text)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "r\\u202etl" in text


def test_images_that_are_gone_leave_a_sentence_and_no_error(
    steel_batch: Command, scored: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = steel_batch(
        "report", "--store", scored / "store", "--out", tmp_path / "page.html", "--date", DATE,
        "--images", tmp_path / "empty",
    )  # fmt: skip
    assert done.code == 0, done
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("cannot be shown from") >= 12
    assert "<img alt" not in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ("--date", "2026-11-30"),
            "no engine has rows of 2026-11-30. `steel-batch query 'FROM current' --store /",
        ),
        (("--date", "2026-11-31"), "2026-11-31"),
        (
            ("--date", DATE, "--engine", "no-0123456789ab"),
            f"has no rows of {DATE}. `steel-batch query 'FROM current' --store /",
        ),
        (("--date", DATE, "--against", DATE), "is the date itself"),
        (("--date", DATE, "--against", "2026-01-01"), "has no rows of 2026-01-01"),
    ],
)
def test_a_date_without_rows_is_refused_and_nothing_written(
    steel_batch: Command, scored: Path, tmp_path: Path, flags: tuple[str, ...], expected: str
) -> None:
    out = tmp_path / "page.html"
    done = steel_batch("report", "--store", scored / "store", "--out", out, *flags)
    assert expected in refused(done)
    assert not out.exists()


def test_what_is_there_is_not_written_over(
    steel_batch: Command, scored: Path, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text("years of work")
    flags = ["--store", scored / "store", "--out", tmp_path / "page.html", "--date", DATE]
    assert "exists" in refused(steel_batch("report", *flags))
    assert (tmp_path / "page.html").read_text() == "years of work"


def test_rows_of_a_store_without_its_runs_have_a_page_too(
    steel_batch: Command, scored: Path, tmp_path: Path
) -> None:
    shutil.copytree(scored / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "runs")
    out = tmp_path / "page.html"
    engine = run_query(Lake(str(scored / "store")), "SELECT any_value(engine) FROM predictions")
    done = steel_batch(
        "report", "--store", tmp_path / "store", "--out", out, "--date", DATE,
        "--engine", engine.column(0)[0].as_py(),
    )  # fmt: skip
    assert done.code == 0, done
    assert "The records of its runs are not in this store" in out.read_text(encoding="utf-8")


@pytest.mark.s3
def test_a_store_in_a_bucket_has_the_same_page(
    report: Callable[..., Any], steel_batch: Command, scored: Path, s3_endpoint: str, tmp_path: Path
) -> None:
    text, _ = report("--date", DATE)
    folder, bucket = Lake(str(scored / "store")), f"{new_bucket(s3_endpoint)}/store"
    copy = Lake(bucket, endpoint_url=s3_endpoint)
    for item in folder.list_objects():
        copy.write(item.key, folder.read(item.key))
    out = tmp_path / "bucket.html"
    done = steel_batch(
        "report", "--store", bucket, "--endpoint-url", s3_endpoint, "--out", out, "--date", DATE
    )
    assert done.code == 0, done
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("level", [0, 128, 255])
def test_outlines_can_be_seen_on_strips_of_any_brightness(level: int) -> None:
    image_HW = np.full((64, 160), level, np.uint8)
    mask_HW = np.zeros_like(image_HW)
    mask_HW[20:40, 50:100] = 1
    for color in COLORS_BGR:
        found_HWC = outlined(image_HW, [(mask_HW, color)]).astype(int)
        contrast_HW = np.abs(found_HWC - level).max(axis=2)
        assert (contrast_HW > 90).sum() > 200
        assert (found_HWC == color).all(axis=2).sum() > 200


@needs_browser
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_all_of_it_within_its_width(
    report: Callable[..., Any], tmp_path: Path, width: int
) -> None:
    text, _ = report("--date", DATE)
    seen = ask_page(
        text,
        tmp_path,
        """{
            title: document.title,
            too_wide: document.documentElement.scrollWidth - innerWidth,
            images: [...document.images].map(image => image.naturalWidth),
            overflowing: [...document.querySelectorAll("img, svg, p, h3")].filter(
                element => element.getBoundingClientRect().right > innerWidth + 1).length,
            text: document.body.innerText,
            small: [...document.querySelectorAll("svg")].filter(
                chart => chart.getBoundingClientRect().width < 300).length,
            ragged: [...document.querySelectorAll("td")].filter(cell =>
                /[a-z]{3}/.test(cell.innerText) && getComputedStyle(cell).textAlign !== "left"
            ).map(cell => cell.innerText),
            fetched: performance.getEntriesByType("resource")
                .filter(entry => !entry.name.startsWith("data:")).length,
        }""",
        width=width,
    )
    assert seen["title"] == f"{DATE}: surface defects"
    assert LINES[2] in seen["text"]
    assert seen["too_wide"] <= 0
    assert seen["overflowing"] == 0
    assert all(seen["images"])
    assert len(seen["images"]) >= 12
    assert seen["small"] == 0, "charts are as wide as on paper, so their text is too"
    assert seen["ragged"] == [], "words begin below their title, only numbers end there"
    assert seen["fetched"] == 0


@needs_browser
def test_a_browser_paints_charts_and_outlines(report: Callable[..., Any], tmp_path: Path) -> None:
    text, _ = report("--date", DATE)
    painted_HWC = photograph(text, tmp_path, width=1280, height=6000)
    assert num_near(painted_HWC, (178, 114, 0)) > 1000, "of a chart's blue"


@needs_browser
@pytest.mark.parametrize("is_dark", [True, False], ids=["dark", "light"])
def test_every_text_can_be_read_in_the_readers_scheme(
    report: Callable[..., Any], tmp_path: Path, is_dark: bool
) -> None:
    assert faint_texts(report("--date", DATE)[0], tmp_path, is_dark=is_dark) == []


def test_a_run_leaves_its_report_in_its_folder_and_never_fails_by_it(
    scored: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], steel_batch: Command
) -> None:
    shutil.copytree(scored / "store", tmp_path / "store")
    images, store = Lake(str(scored / "images")), Lake(str(tmp_path / "store"))
    run_id = next(run_id for run_id in list_runs(store) if run_id.startswith(DATE))
    result = read_run(store, run_id).result
    assert result is not None
    config = score_config(images, store, tmp_path)
    asked = ["quarantined > 0.005", "drift", "images < 10", "failed"]
    after = Afterwards.of(with_report=True, alert_if=asked, config=config)
    assert after.run(config, result)
    folder = tmp_path / "store" / "runs" / run_id
    said = capfd.readouterr().err
    assert f"{DATE}: the report is {folder / 'report.html'}" in said
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert f"<b>{PER_DAY}</b> images of 4 lines" in text
    written = json.loads((folder / "alerts.json").read_text())
    assert written["conditions"] == asked
    assert written["alerts"][0].startswith("quarantined > 0.005: it is 0.0123")
    assert all(alert.startswith("drift: Line 2: ") for alert in written["alerts"][1:])
    assert len(written["alerts"]) > 1
    for alert in written["alerts"]:
        assert f"alert: {alert}" in said
    shown = steel_batch("runs", "show", run_id, "--store", store.url)
    assert [line[9:] for line in shown.out.splitlines() if line.startswith("  alert: ")] == (
        written["alerts"]
    )
    shown = steel_batch("runs", "show", run_id, "--store", store.url, "--output", "json")
    assert json.loads(shown.out)["alerts"] == written["alerts"]
    assert text.partition("<h2>Alerts</h2>")[2].count("<li>quarantined &gt; 0.005") == 1
    (rows,) = (tmp_path / "store" / "predictions").rglob(f"date={DATE}/*.parquet")
    rows.write_bytes(b"")
    assert not after.run(config, result), "drift needs these rows"
    said = capfd.readouterr().err
    assert "alert: quarantined > 0.005: it is 0.0123" in said
    assert "alert: could not be checked: drift: a committed file cannot be read" in said
    assert "the rows are committed, but its report could not be written: " in said


def test_alerts_are_refused_before_a_run_where_they_cannot_be_met(
    steel_batch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--images", tmp_path, "--store", tmp_path / "store", "--date", DATE]
    done = steel_batch("score", *flags, "--alert-if", "defect_rate['rust'] > 0.1")
    assert "does not have; it has pits, lines, scratches, scabs" in refused(done)
    assert "is no condition" in refused(steel_batch("score", *flags, "--alert-if", "rust"))
    done = steel_batch("score", *flags, "--alert-if", "quarantined > 5")
    assert "expected a share from 0 to 1" in refused(done)
    assert done.code == 2
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", "file:///etc/T0KEN")
    text = refused(steel_batch("score", *flags, "--alert-if", "drift"))
    assert "STEEL_BATCH_ALERT_URL is no http" in text
    assert "T0KEN" not in text
    assert not (tmp_path / "store").exists()


def test_a_run_that_fails_is_told_of_and_fails_as_before(
    steel_batch: Command, tmp_path: Path
) -> None:
    flags = ["--images", tmp_path / "nothing", "--store", tmp_path / "store", "--date", DATE]
    plain = steel_batch("score", *flags)
    told = steel_batch("score", *flags, "--alert-if", "failed")
    assert told.code == plain.code != 0
    assert "alert: failed: " in told.err
    assert "alert" not in plain.err


def test_a_store_of_an_earlier_build_has_a_page_without_looks(
    steel_batch: Command, tmp_path: Path
) -> None:
    golden = copy_golden_store(tmp_path / "golden")
    out = tmp_path / "page.html"
    done = steel_batch("report", "--store", golden.store.url, "--date", DATE, "--out", out)
    assert done.code == 0, done
    text = out.read_text(encoding="utf-8")
    assert "Too few days before to judge: line 1, line 2." in text
    assert "Runs" in text


@pytest.mark.parametrize("table", ["predictions", "class_summaries", "quarantine"])
def test_a_damaged_file_is_an_error_and_no_page(
    steel_batch: Command, scored: Path, tmp_path: Path, table: str
) -> None:
    shutil.copytree(scored / "store", tmp_path / "store")
    (rows,) = (tmp_path / "store" / table).rglob(f"date={DATE}/*.parquet")
    rows.write_bytes(b"")
    out = tmp_path / "page.html"
    done = steel_batch("report", "--store", tmp_path / "store", "--date", DATE, "--out", out)
    assert "a committed file cannot be read" in refused(done)
    assert not out.exists()
