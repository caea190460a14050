"""Each question of the docs is one command, and answers what independent code finds."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from steel_batch.lake import Lake
from steel_batch.tables.query import run_query
from tests.cli.command_line import Command, Done
from tests.cli.conftest import steel_batch as steel_batch
from tests.conftest import band_image, png
from tests.scored_store import score_without_ray

PAGE = Path(__file__).parents[1] / "docs/how-to/twelve-questions.md"
TABLES = PAGE.with_name("read-the-tables.md")
QUESTIONS = dict(
    re.findall(r"^## ([^\n]+)\n.*?^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
)
CLASSES = ("pits", "lines", "scratches", "scabs")
DATES = ("2026-11-13", "2026-11-20", "2026-11-21")
LAST = DATES[-1]
PATTERN = "line={line}/date={date}/hour={hour}/{image_id}.png"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """Three dates of two lines, the last by a second engine too; one image cannot be scored."""
    folder = tmp_path_factory.mktemp("questions")
    images, store = Lake(str(folder / "images")), Lake(str(folder / "store"))
    for day, date in enumerate(DATES):
        for number in range(40):
            key = f"line={1 + number % 2}/date={date}/hour={number % 3:02}/im{number:03}.png"
            images.write(key, png(band_image(100 * day * (number % 2) + number)))
    images.write(f"line=1/date={LAST}/hour=00/bad.png", b"no image")
    other = score_without_ray(
        images, store, date=LAST, pattern=PATTERN, classes=CLASSES, levels=(0.65, 0.55, 0.75, 0.85)
    )
    for date in DATES:
        first = score_without_ray(images, store, date=date, pattern=PATTERN, classes=CLASSES)
    return folder, (first.engine, other.engine)


@pytest.fixture
def answer(
    steel_batch: Command, scored: tuple[Path, tuple[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Done]:  # fmt: skip
    """Runs a question's command, where `store` lies in the working folder."""
    folder, engines = scored
    (tmp_path / "store").symlink_to(folder / "store")
    monkeypatch.chdir(tmp_path)

    def run(title: str, *flags: str) -> Done:
        command = QUESTIONS[title]
        for named, engine in zip(
            dict.fromkeys(re.findall(r"demo-[0-9a-f]{12}", command)), engines, strict=False
        ):
            command = command.replace(named, engine)
        program, *arguments = shlex.split(command)
        assert program == "steel-batch"
        done = steel_batch(*arguments, *flags)
        assert done.code == 0, done
        return done

    return run


@pytest.fixture(scope="module")
def rows(scored: tuple[Path, tuple[str, str]]) -> list[dict[str, Any]]:
    """The rows of the engine whose rows count, by code that knows no views."""
    folder, engines = scored
    table = run_query(
        Lake(str(folder / "store")), f"FROM predictions WHERE engine = '{engines[0]}'"
    )
    return [
        row | {"tags": dict(row["tags"]), "date": str(row["date"])} for row in table.to_pylist()
    ]


def classes_of(row: dict[str, Any]) -> set[str]:
    return {CLASSES[defect["class_id"] - 1] for defect in row["defects"]}


def test_there_are_twelve_questions_of_one_command_each() -> None:
    assert len(QUESTIONS) == 12
    assert all(command.count("steel-batch ") == 1 for command in QUESTIONS.values())


def test_more_scratches_than_last_week(
    answer: Callable[..., Done], rows: list[dict[str, Any]]
) -> None:
    found = answer("Which line has more scratches than last week?", "--output", "json").json
    expected = {}
    for line in "12":
        rates = []
        for dates in (DATES[1:], DATES[:1]):
            of_line = [row for row in rows if row["line"] == line and row["date"] in dates]
            rates.append(sum("scratches" in classes_of(row) for row in of_line) / len(of_line))
        if rates[0] > rates[1]:
            expected[line] = rates
    assert {row["line"]: [row["this_week"], row["last_week"]] for row in found} == expected
    assert expected


def test_rate_per_hour(answer: Callable[..., Done], rows: list[dict[str, Any]]) -> None:
    found = answer("What is the defect rate per hour?", "--output", "json").json
    for entry in found:
        of_hour = [r for r in rows if r["date"] == LAST and r["tags"]["hour"] == entry["hour"]]
        assert entry["images"] == len(of_hour)
        assert entry["defect_rate"] == pytest.approx(
            sum(row["has_defect"] for row in of_hour) / len(of_hour)
        )
    assert [entry["hour"] for entry in found] == ["00", "01", "02"]


def test_ten_largest_scabs(answer: Callable[..., Done], tmp_path: Path) -> None:
    answer("What do the ten largest scabs look like?")
    sheet_HWC = cv2.imread(str(tmp_path / "scabs.png"))
    assert sheet_HWC is not None
    assert sheet_HWC.shape == (10 * (22 + 512 + 10), 1280, 3)


@pytest.mark.parametrize("place", [0, 1])
def test_examples_of_show_select_the_rows_that_count(
    steel_batch: Command, scored: tuple[Path, tuple[str, str]], rows: list[dict[str, Any]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int,
) -> None:  # fmt: skip
    (tmp_path / "store").symlink_to(scored[0] / "store")
    monkeypatch.chdir(tmp_path)
    section = TABLES.read_text(encoding="utf-8").partition("## Pictures and exports\n")[2]
    commands = re.findall(r"^steel-batch show .*?(?=^steel-batch|^```)", section, re.M | re.S)
    done = steel_batch(*shlex.split(commands[place])[1:], "--output", "json")
    assert done.code == 0, done
    of_line = [row for row in rows if row["line"] == "1" and row["has_defect"]]
    assert done.json["images"] == (10, len(of_line))[place]


def test_cm2_per_metre(answer: Callable[..., Done], rows: list[dict[str, Any]]) -> None:
    found = answer("How many cm² of defects are on a metre?", "--output", "json").json
    for entry in found:
        of_line = [r for r in rows if r["date"] == LAST and r["line"] == entry["line"]]
        px = sum(defect["area_px"] for row in of_line for defect in row["defects"])
        metres = sum(row["width"] for row in of_line) * 0.35 / 1000
        assert entry["metres"] == pytest.approx(metres)
        assert entry["cm2_per_metre"] == pytest.approx(px * 0.35**2 / 100 / metres)
    assert len(found) == 2


def test_close_to_a_threshold(answer: Callable[..., Done], rows: list[dict[str, Any]]) -> None:
    found = answer("Which images are close to a threshold?", "--output", "json").json
    margins = sorted(abs(peak - 0.5) for row in rows if row["date"] == LAST for peak in row["peak"])
    assert [abs(row["peak"] - row["threshold"]) for row in found] == pytest.approx(margins[:20])


def test_two_engines(answer: Callable[..., Done], tmp_path: Path) -> None:
    said = answer("Which verdicts do two engines not share?", "--output", "json").json
    assert sum(each["only_first"] for each in said["agreement"].values()) > 0
    assert "found by" in (tmp_path / "engines.html").read_text(encoding="utf-8")


def test_masks_as_png(
    answer: Callable[..., Done], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    answer("Where are the masks as PNG?")
    expected = sum(len(row["defects"]) for row in rows if row["date"] == LAST)
    assert len(list((tmp_path / "masks").rglob("*.png"))) == expected > 0


def test_labels_for_other_programs(
    answer: Callable[..., Done], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    answer("How do labels get into other programs?")
    document = json.loads((tmp_path / f"{LAST}.json").read_text())
    found = Counter(entry["category_id"] for entry in document["annotations"])
    of_day = [row for row in rows if row["date"] == LAST]
    assert found == Counter(d["class_id"] for row in of_day for d in row["defects"])


def test_quarantined_and_why(answer: Callable[..., Done]) -> None:
    text = answer("What was quarantined, and why?").out
    assert "bad.png  not_an_image" in text


def test_trend(answer: Callable[..., Done], rows: list[dict[str, Any]]) -> None:
    found = answer("How do rates change over 30 days?", "--output", "json").json
    assert len(found) == len(DATES) * len(CLASSES)
    for entry in found:
        of_day = [row for row in rows if row["date"] == entry["date"]]
        share = sum(entry["class_name"] in classes_of(row) for row in of_day) / len(of_day)
        assert entry["defect_rate"] == pytest.approx(share)


def test_which_engine_scored_what(
    answer: Callable[..., Done], scored: tuple[Path, tuple[str, str]]
) -> None:
    found = answer("Which engine scored what?", "--output", "json").json
    said = {row["engine"]: (row["first"], row["last"], row["images"]) for row in found}
    first, other = scored[1]
    assert said == {first: (DATES[0], LAST, 120), other: (LAST, LAST, 40)}


def test_two_dates(answer: Callable[..., Done], tmp_path: Path) -> None:
    answer("How does a date differ from another?")
    text = (tmp_path / "two-dates.html").read_text(encoding="utf-8")
    assert "compared with 2026-11-20" in text
