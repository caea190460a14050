"""Two engines compared: counts are those of the rows, and both kinds of difference are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steel_batch.lake import Lake
from steel_batch.report.comparison_page import Agreement
from steel_batch.tables.query import run_query
from tests.browser import faint_texts, needs_browser
from tests.cli.command_line import Command, refused
from tests.cli.conftest import steel_batch as steel_batch
from tests.conftest import DATE, fill_lake
from tests.scored_store import score_without_ray

NUM_IMAGES = 60
OTHER_LEVELS = (0.65, 0.55, 0.75, 0.85)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """A folder of images and their store, and two engines: of the other, two levels are swapped."""
    folder = tmp_path_factory.mktemp("two")
    images, store = Lake(str(folder / "images")), Lake(str(folder / "store"))
    fill_lake(images, num_images=NUM_IMAGES)
    first = score_without_ray(images, store)
    second = score_without_ray(images, store, levels=OTHER_LEVELS)
    return folder, (first.engine, second.engine)


def found_by(folder: Path, engine: str) -> dict[str, set[int]]:
    rows = run_query(
        Lake(str(folder / "store")), f"FROM predictions WHERE engine = '{engine}'"
    ).to_pylist()
    return {row["image_key"]: {d["class_id"] for d in row["defects"]} for row in rows}


def test_counts_are_those_of_the_rows_and_both_kinds_are_shown(
    steel_batch: Command, scored: tuple[Path, tuple[str, str]], tmp_path: Path
) -> None:
    folder, engines = scored
    out = tmp_path / "page.html"
    done = steel_batch(
        "report", "--store", folder / "store", "--out", out, "--compare", *engines,
        "--output", "json",
    )  # fmt: skip
    assert done.code == 0, done
    text = out.read_text(encoding="utf-8")
    a, b = (found_by(folder, engine) for engine in engines)
    expected: dict[str, Any] = {}
    for number in range(1, 5):
        pairs = [(number in a[key], number in b[key]) for key in a]
        expected[f"band_{number}"] = {
            "both": pairs.count((True, True)),
            "only_first": pairs.count((True, False)),
            "only_second": pairs.count((False, True)),
            "neither": pairs.count((False, False)),
        }
    assert done.json["agreement"] == expected
    assert expected["band_1"]["only_first"] > 0 < expected["band_2"]["only_second"]
    assert f"<h3>band_1, found by {engines[0]} alone</h3>" in text
    assert f"<h3>band_2, found by {engines[1]} alone</h3>" in text
    assert f"<h3>band_2, found by {engines[0]} alone</h3>" not in text
    assert text.count("<img alt") == 6
    assert len(text.encode()) < 5_000_000
    assert f"{NUM_IMAGES} images that both scored, of all dates" in text
    assert done.json["not_compared"] == []
    assert "Not compared" not in text


def test_classes_that_only_one_engine_has_are_counted_and_no_agreement_is_claimed_on_them(
    steel_batch: Command, tmp_path: Path
) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=30)
    engines = []
    for name in ("scratches", "scr<i>'tches"):
        classes = ("pits", name, "lines", "scabs")
        engines.append(score_without_ray(images, store, classes=classes).engine)
    found = found_by(tmp_path, engines[0])
    num = sum(2 in classes for classes in found.values())
    assert 0 < num < 30
    flags = ["report", "--store", store.url, "--compare", *engines]
    done = steel_batch(*flags, "--out", tmp_path / "page.html", "--output", "json")
    assert done.code == 0, done
    assert set(done.json["agreement"]) == {"pits", "lines", "scabs"}
    assert done.json["not_compared"] == [
        {"class_name": "scratches", "engine": engines[0], "num_defective": num},
        {"class_name": "scr<i>'tches", "engine": engines[1], "num_defective": num},
    ]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, engine in zip(("scratches", "scr&lt;i&gt;&#x27;tches"), engines, strict=True):
        assert f'<td>{name}</td><td class="text">{engine}</td><td>{num}</td>' in text
    assert "<i>" not in text
    assert "None: both give every image the same verdict on pits, lines, scabs.</p>" in text
    said = steel_batch(*flags, "--out", tmp_path / "again.html").err
    assert f"class scratches is not compared: only {engines[0]} has it, and found it on" in said


@needs_browser
@pytest.mark.parametrize("is_dark", [True, False], ids=["dark", "light"])
def test_every_text_can_be_read_in_the_readers_scheme(
    steel_batch: Command, scored: tuple[Path, tuple[str, str]], tmp_path: Path, is_dark: bool
) -> None:
    folder, engines = scored
    out = tmp_path / "compared.html"
    done = steel_batch("report", "--store", folder / "store", "--out", out, "--compare", *engines)
    assert done.code == 0, done
    assert faint_texts(out.read_text(encoding="utf-8"), tmp_path, is_dark=is_dark) == []


def test_kappa_is_that_of_the_textbook() -> None:
    each = Agreement(class_name="a", both=20, only=(5, 10), neither=15, differences=())
    assert each.kappa == pytest.approx(0.4)
    same = Agreement(class_name="a", both=0, only=(0, 0), neither=9, differences=())
    assert same.kappa is None


@pytest.mark.parametrize(
    ("pick", "flags", "expected"),
    [
        ((0, 0), (), "these are one engine"),
        ((0, 1), ("--date", "2026-01"), "no image in common of these dates"),
        ((0, 1), ("--date", DATE, "--against", "2026-01-01"), "takes neither"),
        ((0, None), (), "has no rows in this store. Give names as "),
    ],
)
def test_what_cannot_be_compared_is_refused(
    steel_batch: Command, scored: tuple[Path, tuple[str, str]], tmp_path: Path,
    pick: tuple[int | None, ...], flags: tuple[str, ...], expected: str,
) -> None:  # fmt: skip
    folder, engines = scored
    chosen = ["none-0123456789ab" if place is None else engines[place] for place in pick]
    out = tmp_path / "page.html"
    done = steel_batch(
        "report", "--store", folder / "store", "--out", out, "--compare", *chosen, *flags
    )
    assert expected in refused(done)
    assert not out.exists()


def test_a_report_of_nothing_is_refused(steel_batch: Command, tmp_path: Path) -> None:
    done = steel_batch("report", "--store", tmp_path, "--out", tmp_path / "page.html")
    assert "give --date, or two engines with --compare" in refused(done)
