"""What `submit` refuses before it asks for a cluster, and what it warns of."""

from __future__ import annotations

import pytest

from tests.cli.command_line import Command

NOWHERE = "http://127.0.0.1:1"
"""Where no jobs server is: what gets there was not refused."""
SCORE = ["score", "--images", "s3://lake/images", "--store", "s3://lake/steel", "--date", "all"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*SCORE, "--date", "2026-13-45"], "there is no date 2026-13-45; expected YYYY-MM-DD"),
        ([*SCORE, "--max-bad", "7"], "--max-bad is 7.0, expected a share from 0 to 1"),
        ([*SCORE, "--nope"], "No such option"),
        (["plan", *SCORE[1:5], "--date", "today"], "'today' is not YYYY-MM-DD"),
        (["backfill", *SCORE[1:5], "--from", "2026-11-31"], "there is no date 2026-11-31"),
        (["backfill", *SCORE[1:5], "--max-dates-at-once", "0"], "--max-dates-at-once is 0"),
        (["quarantine", "retry", *SCORE[1:5], "--date", "2026-11-31"], "no date 2026-11-31"),
        (["quarantine", "retri", *SCORE[1:]],
         "cannot submit quarantine command 'retri': expected one of: list, retry."),
        (["quarantine"], "cannot submit quarantine command: expected one of"),
        (["pack", "--images", "s3://lake", "--out", "s3://p", "--shard-bytes", "1"],
         "--shard-bytes is 1"),
        (["train", "--images", "s3://lake", "--nope"], "No such option"),
        ([*SCORE, "--config", "job.toml"], "--config is a file on this machine"),
        (["submit", *SCORE], "cannot submit command 'submit': expected one of: backfill, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_the_job_would_refuse_is_refused_here(
    steel_batch: Command, words: list[str], expected: str
) -> None:
    done = steel_batch("submit", "--address", NOWHERE, *words)
    assert done.code in (1, 2)
    assert expected in done.err
    assert NOWHERE not in done.err


def test_a_folder_that_only_this_machine_may_have_is_warned_of(steel_batch: Command) -> None:
    done = steel_batch(
        "submit", "--address", NOWHERE, "score", "--images", "lake", "--store", "/mnt/store",
        "--date", "2026-11-21",
    )  # fmt: skip
    warning, error = done.err.splitlines()[:2]
    assert warning == (
        "Warning: --images lake is a relative path, read in the job's folder on the head node; "
        "give s3://… or the absolute path of a folder that every node has."
    )
    assert f"no jobs server of Ray answers at {NOWHERE}" in error
    assert "Warning" not in steel_batch("submit", "--address", NOWHERE, *SCORE).err
