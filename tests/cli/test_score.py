"""What `score` prints while it runs and when it ended, and its exit codes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.cli.progress import progress_line
from steel_batch.cli.score import show_result
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.registry.versions import load_engine
from steel_batch.runs.events import Progress
from tests.cli.command_line import Command, keys, with_flag
from tests.conftest import DATE, fill_lake
from tests.made_up_run import commit_run, image_keys


@pytest.mark.parametrize(
    ("every_seconds", "expected"),
    [
        (1000, ["scoring · 1 of 9 images · 2 quarantined", "merging"]),
        (0, [f"scoring · {n} of 9 images · 2 quarantined" for n in (1, 2, 3)] + ["merging"]),
    ],
)
def test_progress_in_a_log_is_a_line_a_step_and_one_now_and_then(
    capfd: pytest.CaptureFixture[str], every_seconds: float, expected: list[str]
) -> None:
    with progress_line(every_seconds=every_seconds) as observe:
        for num_done in (1, 2, 3):
            observe(Progress(step="scoring", num_done=num_done, num_images=9, num_quarantined=2))
        observe(Progress(step="merging"))
    assert capfd.readouterr().err.splitlines() == expected


def test_how_a_run_ended_is_a_line_a_table_and_where_its_rows_are(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = Lake(str(tmp_path / "my store"))
    result = commit_run(store, image_keys(8), bad=image_keys(1))
    show_result(result, store)
    ended, *table, run_line, glob, why = capfd.readouterr().err.splitlines()
    assert ended == (
        f"{DATE}: 7 images scored with {result.engine} in 1 s (1.0 images/s; start-up 0 s), "
        "1 quarantined."
    )
    assert [row.split()[0] for row in table] == ["class", "1", "2", "3", "4"]
    assert (run_line, glob) == (f"run {result.run_id}, table version 1", result.predictions)
    assert why == (
        "why images were quarantined: `steel-batch quarantine list --run "
        f"{result.run_id} --store '{store.url}'`"
    )


RESULT = {
    "run_id", "engine", "date", "num_images", "num_scored", "num_quarantined", "num_shards",
    "seconds", "images_per_second", "committed", "table_version", "predictions",
    "startup_seconds", "num_committed_before", "num_changed", "num_left_out",
    "example_left_out", "num_retried", "num_bad_again", "num_resumed_shards",
    "num_resumed_images", "classes",
    "attempt_seconds", "num_beyond_limit",
}  # fmt: skip
"""What one line of `score --output json` holds."""


def test_a_held_lock_exits_4_and_names_the_holder(
    steel_batch: Command, flags: list[str], tiny_engine: Path, tmp_path: Path
) -> None:
    engine = load_engine(str(tiny_engine), store=None).card.name
    store = Lake(str(tmp_path / "store"))
    with Lease(store, layout.lock_series(engine, DATE), what="the date", run_id="r7"):
        done = steel_batch("score", *flags, "--engine", tiny_engine)
    assert done.code == 4
    assert done.out == ""
    assert f"process {os.getpid()}" in done.err
    assert "r7" in done.err


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_score_exits_3_for_too_many_bad_images_and_else_prints_one_object(
    steel_batch: Command, flags: list[str], images: Lake, tiny_engine: Path
) -> None:
    flags = [*flags, "--engine", str(tiny_engine), "--output", "json"]
    images.write(f"line=1/date={DATE}/page.png", b"<html>")
    images.write(f"line=1/date={DATE}/page.PNG", b"<html>")
    bad = steel_batch("score", *flags)
    assert bad.code == 3
    assert bad.out == ""
    error = bad.err.strip().splitlines()[-1]
    assert error.startswith("Error: 1 of 5 images cannot be scored")
    store = ["--store", flags[5]]
    (failed,) = steel_batch("runs", "list", *store, "--output", "json").json
    assert failed["state"] == "failed"
    assert error == f"Error: {failed['reason']}"
    listed = steel_batch("runs", "list", *store).out
    assert f"{failed['run_id']}  failed: too many bad images " in listed
    assert f"quarantine list --run {failed['run_id']} --store {flags[5]}" in error
    of_run = ["quarantine", "list", *store, "--run", failed["run_id"]]
    (entry,) = steel_batch(*of_run, "--output", "json").json
    assert keys(entry) == {"date", "engine", "image_key", "error_code", "message", "bytes"}
    assert (entry["image_key"], entry["error_code"]) == (
        f"line=1/date={DATE}/page.png", "not_an_image",
    )  # fmt: skip
    assert "page.png  not_an_image" in steel_batch(*of_run).out
    assert steel_batch(*of_run, "--code", "empty", "--output", "json").json == []
    assert steel_batch(*of_run, "--code", "nonsense").code == 2
    assert steel_batch(*of_run, "--date", "2026-11-01").code == 2
    done = steel_batch("score", *flags, "--max-bad", "0.5", "--report")
    assert done.code == 0
    page = Path(flags[5]) / "runs" / done.json["run_id"] / "report.html"
    assert f"the report is {page}" in done.err
    assert "<b>4</b> images of 2 lines were scored by" in page.read_text(encoding="utf-8")
    assert done.out.count("\n") == 1
    assert keys(done.json) == RESULT
    assert (done.json["num_images"], done.json["num_scored"]) == (5, 4)
    assert done.json["committed"] is True
    again = steel_batch("score", *flags)
    assert again.code == 0
    assert keys(again.json) == RESULT
    assert (again.json["run_id"], again.json["num_committed_before"]) == (None, 5)
    assert done.json["num_left_out"] == again.json["num_left_out"] == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_date_that_fails_does_not_hide_those_before_it(
    steel_batch: Command, flags: list[str], images: Lake, tiny_engine: Path, tmp_path: Path
) -> None:
    fill_lake(images, num_images=2, date="2026-11-22")
    engine = load_engine(str(tiny_engine), store=None).card.name
    store = Lake(str(tmp_path / "store"))
    flags = [*with_flag(flags, "--date", "all"), "--engine", str(tiny_engine), "--output", "json"]
    with Lease(store, layout.lock_series(engine, "2026-11-22"), what="the date"):
        done = steel_batch("score", *flags)
    assert done.code == 4
    assert (done.json["date"], done.json["num_scored"]) == (DATE, 4)
