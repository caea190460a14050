"""What a run tells and leaves after its commit, also on the worst night and in a damaged store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.cli.run_report import Afterwards
from steel_batch.lake import Lake
from steel_batch.runs.record import RunResult
from tests.alerts.service import Service
from tests.alerts.service import service as service
from tests.cli.command_line import Command, refused
from tests.conftest import DATE, cluster_address, fill_lake, score_config
from tests.score_here import score_here

WORST = "2026-11-22"
"""A date whose images are all quarantined; `DATE` is scored before."""
ASKED = ["quarantined > 0.005", "images < 1000", "defect_rate['band_1'] > 0.9", "failed", "drift"]


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "store"))


def make_bad(images: Lake, date: str) -> None:
    for number in range(3):
        images.write(f"line=1/date={date}/im{number}.png", b"garbage")


def after(
    images: Lake, store: Lake, engine: Path, date: str, asked: Sequence[str] = ASKED
) -> tuple[RunResult, bool]:
    """Score a date, and do what follows; whether that was complete."""
    config = score_config(images, store, engine, date=date, max_bad=1.0)
    result = score_here(config)
    wanted = Afterwards.of(with_report=True, alert_if=asked, config=config)
    return result, wanted.run(config, result)


def written(store: Lake, result: RunResult) -> Any:
    return json.loads(store.read(layout.run_file(str(result.run_id), layout.RUN_ALERTS)))


def page_of(store: Lake, result: RunResult) -> str:
    return store.read(layout.run_file(str(result.run_id), layout.RUN_REPORT)).decode()


@pytest.mark.parametrize("is_first", [True, False], ids=["first date", "later date"])
def test_a_date_that_is_all_in_quarantine_raises_alerts_and_has_a_page(
    images: Lake, store: Lake, tiny_engine: Path, service: Service,
    monkeypatch: pytest.MonkeyPatch, steel_batch: Command, tmp_path: Path, is_first: bool,
) -> None:  # fmt: skip
    if not is_first:
        score_here(score_config(images, store, tiny_engine))
    make_bad(images, WORST)
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", service.url)
    result, is_done = after(images, store, tiny_engine, WORST)
    assert is_done
    alerts = ["quarantined > 0.005: it is 1.", "images < 1000: it is 0."]
    assert written(store, result) == {"conditions": ASKED, "alerts": alerts}
    ((_, body),) = service.got
    assert body["text"].splitlines()[1:] == [f"- {alert}" for alert in alerts]
    page = page_of(store, result)
    assert "<b>No image could be scored</b>" in page
    assert "<b>3</b> are in quarantine" in page
    assert "<td>not_an_image</td>" in page or "not_an_image" in page.partition("Quarantine")[2]
    assert "Defect rates" not in page
    assert str(result.run_id) in page.partition("<h2>Runs</h2>")[2]
    out = tmp_path / "page.html"
    flags = ["--store", store.url, "--date", WORST, "--out", out, "--output", "json"]
    done = steel_batch("report", *flags)
    assert done.code == 0, done
    assert (done.json["num_images"], done.json["num_quarantined"]) == (0, 3)
    assert done.json["engine"] == result.engine
    assert "not_an_image" in out.read_text(encoding="utf-8")


def test_a_date_with_neither_rows_nor_quarantine_is_refused(
    images: Lake, store: Lake, tiny_engine: Path, steel_batch: Command, tmp_path: Path
) -> None:
    make_bad(images, WORST)
    result, _ = after(images, store, tiny_engine, WORST)
    flags = ["--store", store.url, "--date", DATE, "--out", tmp_path / "page.html"]
    assert f"no engine has rows of {DATE}" in refused(steel_batch("report", *flags))
    asked = steel_batch("report", *flags, "--engine", result.engine)
    assert f"{result.engine} has no rows of {DATE}" in refused(asked)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["result.json", "run.json"])
def test_a_damaged_record_of_another_run_hides_no_alert_and_no_page(
    images: Lake, store: Lake, tiny_engine: Path, service: Service,
    monkeypatch: pytest.MonkeyPatch, name: str,
) -> None:  # fmt: skip
    earlier = score_here(score_config(images, store, tiny_engine))
    store.write(layout.run_file(str(earlier.run_id), name), b"[]")
    fill_lake(images, num_images=4, date=WORST)
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", service.url)
    result, is_done = after(images, store, tiny_engine, WORST)
    assert is_done
    assert written(store, result)["alerts"] == ["images < 1000: it is 4."]
    ((_, body),) = service.got
    assert "images < 1000: it is 4." in body["text"]
    assert "<b>4</b> images of 2 lines" in page_of(store, result)


def test_a_page_that_cannot_be_written_holds_no_alert_back(
    images: Lake, store: Lake, tiny_engine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = score_config(images, store, tiny_engine)
    result = score_here(config)
    store.write(layout.run_file(str(result.run_id), f"{layout.RUN_REPORT}/in-the-way"), b"x")
    wanted = Afterwards.of(with_report=True, alert_if=["images < 1000"], config=config)
    assert wanted.run(config, result)
    assert written(store, result)["alerts"] == ["images < 1000: it is 4."]
    said = capfd.readouterr().err
    assert "alert: images < 1000: it is 4." in said
    assert "the rows are committed, but its report could not be written: " in said


def test_alerts_that_cannot_be_written_are_sent_all_the_same(
    images: Lake, store: Lake, tiny_engine: Path, service: Service,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", service.url)
    config = score_config(images, store, tiny_engine)
    result = score_here(config)
    store.write(layout.run_file(str(result.run_id), f"{layout.RUN_ALERTS}/in-the-way"), b"x")
    wanted = Afterwards.of(with_report=False, alert_if=["images < 1000"], config=config)
    assert not wanted.run(config, result)
    assert len(service.got) == 1
    assert "but its alerts could not be written: " in capfd.readouterr().err


def test_alerts_that_cannot_be_checked_at_all_are_sent_as_that(
    images: Lake, store: Lake, tiny_engine: Path, service: Service,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", service.url)
    config = score_config(images, store, tiny_engine)
    result = score_here(config)
    asked = ["images < 1000", "drift"]
    wanted = Afterwards.of(with_report=True, alert_if=asked, config=config)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/nonexistent/temporary/files")
        assert not wanted.run(config, result)
    alerts = written(store, result)["alerts"]
    assert [alert.rpartition("/")[0] for alert in alerts] == [
        f"could not be checked: {text}: [Errno 2] No such file or directory: "
        "'/nonexistent/temporary/files"
        for text in asked
    ]
    ((_, body),) = service.got
    assert body["text"].splitlines()[1:] == [f"- {alert}" for alert in alerts]
    assert "its report could not be written" in capfd.readouterr().err


@pytest.mark.parametrize("status", [200, 401])
def test_the_address_of_alerts_appears_in_no_output_and_no_file(
    images: Lake, store: Lake, tiny_engine: Path, service: Service,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int,
) -> None:  # fmt: skip
    service.status = status
    login = service.url.replace("://", "://never-show-user:never-show-this@")
    monkeypatch.setenv("STEEL_BATCH_ALERT_URL", f"{login}/never-show-path")
    after(images, store, tiny_engine, DATE)
    assert len(service.got) == 1
    out, err = capfd.readouterr()
    assert "alert: images < 1000: it is 4." in err
    assert ("the alerts were not sent: 127.0.0.1 answered 401" in err) == (status == 401)
    assert "never-show" not in out + err
    files = [path for path in Path(store.url).rglob("*") if path.is_file()]
    assert any(path.name == layout.RUN_ALERTS for path in files)
    assert not [path for path in files if b"never-show" in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("command", ["score", "backfill"])
def test_a_condition_that_cannot_be_checked_exits_1_and_the_rows_are_committed(
    images: Lake, store: Lake, tiny_engine: Path, steel_batch: Command, flags: list[str],
    command: str,
) -> None:  # fmt: skip
    score_here(score_config(images, store, tiny_engine))
    (file,) = (Path(store.url) / layout.CLASS_SUMMARIES).rglob(f"date={DATE}/*.parquet")
    file.write_bytes(b"")
    fill_lake(images, num_images=4, date=WORST)
    dates = ["--date", WORST] if command == "score" else ["--from", WORST, "--to", WORST]
    done = steel_batch(
        command, *flags[:6], *dates, "--engine", tiny_engine, "--alert-if", "drift",
        "--alert-if", "images < 1000", "--ray-address", cluster_address(), "--output", "json",
    )  # fmt: skip
    assert done.code == 1, done
    assert "alert: images < 1000: it is 4." in done.err
    assert "alert: could not be checked: drift: a committed file cannot be read" in done.err
    assert '"committed": true' in done.out
