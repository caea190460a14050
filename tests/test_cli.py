"""The command line: what it offers, what it prints for machines, and how it says no.

`python -m tests.test_cli` writes the golden list anew, where a change is meant.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import click
import pytest

from steel_batch import layout
from steel_batch.cli import cli, run
from steel_batch.cli.score import progress_line, show_result
from steel_batch.lake import Lake
from steel_batch.lock import Lease
from steel_batch.registry import load_engine, register
from steel_batch.telemetry import Progress
from tests.conftest import DATE, PATTERN, fill_lake
from tests.made_up_run import commit_run, image_keys, keys_of
from tests.tiny_engine import tiny_version

GOLDEN = Path(__file__).parent / "golden" / "commands.txt"


def commands(command: click.Command, path: str = "steel-batch") -> Iterator[str]:
    """Every command with its arguments and flags, one a line."""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], f"{path} {name}")
        return
    words = [
        p.make_metavar(click.Context(command))
        for p in command.params
        if p.param_type_name == "argument"
    ]
    flags = sorted(flag for p in command.params if isinstance(p, click.Option) for flag in p.opts)
    yield " ".join([path, *words, *flags])


def test_commands_and_flags_are_those_of_the_golden_list() -> None:
    found = list(commands(cli))
    assert found == GOLDEN.read_text().splitlines(), "if it is meant: python -m tests.test_cli"


def test_every_command_that_answers_can_answer_in_json() -> None:
    shows_pictures, hands_on = "demo", "train"
    for line in commands(cli):
        name = line.removeprefix("steel-batch ")
        if not name.startswith((shows_pictures, hands_on)):
            assert "--output" in name.split()


def test_the_list_of_commands_fits_a_terminal_of_80_columns() -> None:
    context = click.Context(cli, terminal_width=80)
    with context:
        _, _, listed = cli.get_help(context).partition("Commands:")
    assert "..." not in listed, "each is described in a sentence that is not cut off"
    assert len(listed.strip().splitlines()) == len(cli.commands)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def steel_batch(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs a command in this process, just as the installed script does."""

    def invoke(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["steel-batch", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(cli)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Done(int(ended.value.code or 0), out, err)

    handler = signal.getsignal(signal.SIGTERM)
    yield invoke
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("steel_batch").setLevel(logging.NOTSET)


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "images"))
    fill_lake(made, num_images=4)
    return made


@pytest.fixture
def flags(images: Lake, tmp_path: Path) -> list[str]:
    """What `score` needs."""
    store = str(tmp_path / "store")
    return ["--images", images.url, "--key-pattern", PATTERN, "--store", store, "--date", DATE]


# --- how it says no -------------------------------------------------------------------------


def refused(done: Done) -> str:
    """The one paragraph of an error; nothing is on stdout."""
    assert done.code in (1, 2), done
    assert done.out == ""
    (paragraph,) = done.err.strip().split("\n\n")
    *_, text = paragraph.splitlines()
    return text


def with_flag(flags: list[str], name: str, value: str) -> list[str]:
    at = flags.index(name)
    return [*flags[: at + 1], value, *flags[at + 2 :]]


@pytest.mark.parametrize("command", ["score", "plan"])
@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--images", "/no/such/place", "there is no folder /no/such/place: check --images"),
        ("--images", "EMPTY", "/empty: check --images"),
        ("--images", "s3://", "names no bucket"),
        ("--images", "gs://b/x", "gs://b/x"),
        ("--key-pattern", "day={date}/{image_id}.tif",
         f"found for example 'line=1/date={DATE}/im00000.png'. Adapt --key-pattern"),
        ("--key-pattern", "{line}/{line}/{image_id}", "is not usable"),
        ("--date", "2020-01-01", "and the date 2020-01-01"),
        ("--date", "21.11.2026", "'21.11.2026' is not YYYY-MM-DD"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_in_one_paragraph(
    steel_batch: Command, flags: list[str], tmp_path: Path, command: str, flag: str, value: str,
    expected: str,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    value = str(tmp_path / "empty") if value == "EMPTY" else value
    assert expected in refused(steel_batch(command, *with_flag(flags, flag, value)))
    written = keys_of(Lake(str(tmp_path / "store")))
    assert all(key.startswith("locks/") for key in written), "no table, no run"


def test_a_missing_date_is_asked_for(steel_batch: Command, flags: list[str]) -> None:
    without = with_flag(flags, "--key-pattern", "line={line}/*/{image_id}.png")[:-2]
    assert "give --date YYYY-MM-DD" in refused(steel_batch("score", *without))
    at = without.index("--key-pattern")
    del without[at : at + 2]
    assert "--date YYYY-MM-DD" in refused(steel_batch("score", *without))


def test_an_unknown_engine_shows_those_that_exist(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    card, graphs = tiny_version()
    register(Lake(str(tmp_path / "store")), card, graphs)
    for engine in ("tiny@production", "severstal-0123456789ab", "nonsense"):
        text = refused(steel_batch("score", *flags, "--engine", engine))
        assert f"no engine '{engine}'" in text
        assert f"There are: demo, {card.name}." in text
    text = refused(steel_batch("score", *flags, "--engine", str(tmp_path / "nowhere")))
    assert "nowhere/card.json is not there" in text


def test_a_store_that_cannot_be_written_is_refused_before_any_work(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    place = f"{tmp_path}/file/store"
    text = refused(steel_batch("score", *with_flag(flags, "--store", place)))
    assert place in text
    assert "Check --store" in text


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_named(
    steel_batch: Command, flags: list[str], s3_endpoint: str
) -> None:
    s3 = ["--endpoint-url", s3_endpoint]
    lake = with_flag(flags, "--images", "s3://no-such-bucket/x")
    assert "there is no such bucket" in refused(steel_batch("plan", *lake, *s3))
    store = with_flag(flags, "--store", "s3://no-such-bucket/x")
    assert "s3://no-such-bucket/x" in refused(steel_batch("score", *store, *s3))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Score a date's images"),
        (["scor"], "No such command 'scor'"),
        (["score"], "Missing option '--images'"),
        (["verify", "--store", "x", "--output", "xml"], "'xml' is not one of"),
        (["synth", "--out", "x", "--num-images", "many"], "'many' is not a valid integer"),
        (["query", "--store", "x"], "Missing argument 'SQL'"),
        (["verify"], "Missing option '--store'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_usage_exits_2(steel_batch: Command, arguments: list[str], expected: str) -> None:
    done = steel_batch(*arguments)
    assert done.code == 2
    assert expected in done.err + done.out


def test_a_value_that_no_run_can_use_is_refused_by_its_flag(
    steel_batch: Command, flags: list[str]
) -> None:
    assert "--max-bad is 7.0" in refused(steel_batch("score", *flags, "--max-bad", "7"))
    assert "--shard-images is 0" in refused(steel_batch("score", *flags, "--shard-images", "0"))


def test_a_configuration_file_gives_defaults_and_flags_go_before_it(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "job.toml"
    file.write_text("[score]\nshard-images = 3\n")
    plan = steel_batch("plan", *flags, "--config", file, "--output", "json")
    assert plan.json["num_shards"] == 2
    plan = steel_batch("plan", *flags, "--config", file, "--shard-images", 2, "--output", "json")
    assert plan.json["num_shards"] == 2
    plan = steel_batch("plan", *flags, "--config", file, "--shard-images", 1, "--output", "json")
    assert plan.json["num_shards"] == 4
    file.write_text("[score]\nshard-imags = 3\n")
    assert "unknown keys: shard_imags" in refused(steel_batch("plan", *flags, "--config", file))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT nonsense FROM predictions", "nonsense"),
        ("SELEC 1", "SELEC"),
        ("", "no rows"),
        ("SELECT * FROM elsewhere", "elsewhere"),
    ],
)
def test_sql_that_cannot_be_answered_is_explained(
    steel_batch: Command, committed: Path, sql: str, expected: str
) -> None:
    done = steel_batch("query", sql, "--store", committed)
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.err.startswith("error: the query cannot be answered: ")
    assert expected in done.err


def test_a_store_that_was_never_scored_into_says_so(steel_batch: Command, tmp_path: Path) -> None:
    text = refused(steel_batch("query", "SELECT 1", "--store", tmp_path / "nothing"))
    assert "nothing was scored into this store yet" in text


def test_a_run_that_is_not_there_is_named(steel_batch: Command, committed: Path) -> None:
    assert "'yesterday' is not a run id" in refused(
        steel_batch("runs", "show", "yesterday", "--store", committed)
    )
    missing = "2020-01-01-made-0123456789ab-0001"
    assert f"no run {missing}" in refused(
        steel_batch("runs", "show", missing, "--store", committed)
    )


def test_a_demo_never_deletes_what_is_not_a_demo(steel_batch: Command, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.tex"):
        done = steel_batch("demo", "--out", out)
        assert done.code == 2
        assert "name an empty --out" in done.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


# --- what it prints for machines ------------------------------------------------------------


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run."""
    path = tmp_path_factory.mktemp("committed") / "store"
    commit_run(Lake(str(path)), image_keys(8), bad=image_keys(1))
    return path


def keys(value: Any) -> set[str]:
    return set(value)


def test_plan_prints_one_object_and_writes_nothing(
    steel_batch: Command, flags: list[str], tmp_path: Path, images: Lake
) -> None:
    images.write("readme.txt", b"x")
    images.write(f"line=1/date={DATE}/thumbs.db", b"x")
    done = steel_batch("plan", *flags, "--output", "json")
    assert done.code == 0
    assert keys(done.json) == {
        "engine", "date", "digest", "num_images", "num_shards", "bytes", "num_committed",
        "num_changed", "num_left_out", "example_left_out",
    }  # fmt: skip
    assert (done.json["num_images"], done.json["num_left_out"]) == (4, 1)
    assert done.json["example_left_out"] == f"line=1/date={DATE}/thumbs.db"
    assert not (tmp_path / "store").exists()
    text = steel_batch("plan", *flags)
    assert text.out == ""
    assert text.err.startswith(f"{DATE}: 4 images in 1 shard, ")
    assert "\n  does not match: 1 other object, for example line=1/" in text.err


def test_queries_answer_in_json_and_text(steel_batch: Command, committed: Path) -> None:
    sql = "SELECT line, count(*) AS n FROM predictions GROUP BY line ORDER BY line"
    done = steel_batch("query", sql, "--store", committed, "--output", "json")
    assert done.json == [{"line": "1", "n": 3}, {"line": "2", "n": 4}]
    text = steel_batch("query", sql, "--store", committed)
    assert text.out.split() == ["line", "n", "1", "3", "2", "4"]
    tagged = steel_batch("query", "SELECT '[red]x[/]' AS tag", "--store", committed)
    assert tagged.out.split() == ["tag", "[red]x[/]"]


def test_runs_are_listed_and_shown(steel_batch: Command, committed: Path) -> None:
    (listed,) = steel_batch("runs", "list", "--store", committed, "--output", "json").json
    assert keys(listed) == {"run_id", "state", "result"}
    assert listed["state"] == "committed"
    shown = steel_batch("runs", "show", listed["run_id"], "--store", committed, "--output", "json")
    assert keys(shown.json) == {"run_id", "state", "record", "result", "events"}
    assert [event["event"] for event in shown.json["events"]][:1] == ["landed"]
    text = steel_batch("runs", "show", listed["run_id"], "--store", committed).out
    assert f"{listed['run_id']}: committed" in text
    assert "landed  table=predictions" in text
    none = steel_batch("runs", "list", "--store", committed, "--date", "1999")
    assert (none.code, none.out) == (0, f"no runs in {committed}\n")


def test_the_quarantine_is_listed(steel_batch: Command, committed: Path) -> None:
    (entry,) = steel_batch("quarantine", "list", "--store", committed, "--output", "json").json
    assert keys(entry) == {"date", "engine", "image_key", "error_code", "message", "bytes"}
    assert entry["error_code"] == "empty"
    only = ["--code", "truncated", "--output", "json"]
    assert steel_batch("quarantine", "list", "--store", committed, *only).json == []
    assert "is not an error code" in refused(
        steel_batch("quarantine", "list", "--store", committed, "--code", "' OR 1=1 --")
    )


def test_verify_exits_1_where_something_is_wrong_and_gc_shows_before_it_deletes(
    steel_batch: Command, tmp_path: Path
) -> None:
    store = Lake(str(tmp_path / "store"))
    result = commit_run(store, image_keys(4))
    place = ["--store", store.url]
    sound = steel_batch("verify", *place, "--output", "json")
    assert (sound.code, sound.json) == (0, [])
    assert steel_batch("verify", *place).err == "all is well\n"
    orphan = layout.table_file("predictions", result.engine, result.date, str(result.run_id), 7)
    store.write(orphan, b"12345")
    wrong = steel_batch("verify", *place, "--output", "json")
    assert wrong.code == 1
    assert [keys(problem) for problem in wrong.json] == [{"kind", "key", "message"}]
    assert f"foreign: {orphan}" in steel_batch("verify", *place).out
    before = keys_of(store)
    dry = steel_batch("gc", *place, "--dry-run", "--output", "json")
    assert [keys(item) for item in dry.json] == [{"key", "bytes", "reason", "engine", "date"}]
    assert steel_batch("gc", *place, "--dry-run").err == "would be deleted: 1 object, 5 bytes\n"
    assert keys_of(store) == before
    assert steel_batch("gc", *place, "--output", "json").json == dry.json
    assert store.stat(orphan) is None
    assert steel_batch("verify", *place).code == 0


@pytest.fixture
def registry(tmp_path: Path) -> tuple[list[str], str, str, str]:
    """A store's flags, and the names of a version, of a better and of a worse one."""
    store = Lake(str(tmp_path / "store"))
    names = []
    for number, dice in enumerate((0.95, 0.97, 0.9)):
        of_class = {"present_dice": dice, "recall": 1.0, "false_alarm_rate": 0.0, "num_present": 5}
        metrics = {
            "data_digest": "0a" * 32, "num_images": 50, "kaggle_dice": dice, "mean_iou": dice,
            "classes": [of_class] * 4,
        }  # fmt: skip
        card, graphs = tiny_version(min_area_px=number, metrics=metrics)
        register(store, card, graphs)
        names.append(card.name)
    return ["--store", store.url], *names


def test_engines_are_listed_and_shown(steel_batch: Command, registry: Any, tmp_path: Path) -> None:
    store, first, *_ = registry
    promoted = steel_batch("engines", "promote", first, *store, "--why", "the first [one]")
    assert promoted.out == (
        f"tiny@production means {first}, its first promotion\n"
        "There was nothing to compare it with.\n"
    )
    listed = steel_batch("engines", "list", *store, "--output", "json").json
    assert [keys(row) for row in listed] == [{"engine", "created", "aliases"}] * 4
    assert {row["engine"]: row["aliases"] for row in listed}[first] == ["production"]
    assert listed[-1]["engine"] == load_engine("demo", store=None).card.name
    shown = steel_batch("engines", "show", "tiny@production", *store, "--output", "json").json
    assert shown["card"]["version"] == first.partition("-")[2]
    (move,) = shown["moves"]
    assert keys(move) == {
        "number", "version", "previous", "action", "at", "by", "why", "forced", "checks",
    }  # fmt: skip
    text = steel_batch("engines", "show", "tiny@production", *store).out
    assert f"{first}, made " in text
    assert "judged on 50 held-out images: Kaggle Dice 0.9500, mIoU 0.9500" in text
    assert "the first [one]" in text.splitlines()[-1]
    page = tmp_path / "page.html"
    assert "judged on" not in steel_batch("engines", "show", first, *store, "--page", page).err
    assert first in page.read_text()
    assert steel_batch("engines", "show", "demo").out.startswith("demo-")


def test_an_alias_is_promoted_and_rolled_back(steel_batch: Command, registry: Any) -> None:
    store, first, better, worse = registry
    json_ = ["--output", "json"]
    steel_batch("engines", "promote", first, *store)
    moved = steel_batch("engines", "promote", better, *store, *json_).json
    assert keys(moved) == {"alias", "engine", "previous", "changed", "entry", "comparison"}
    assert (moved["engine"], moved["previous"], moved["changed"]) == (better, first, True)
    assert keys(moved["comparison"]) == {"figures", "refusals"}
    again = steel_batch("engines", "promote", better, *store)
    assert (again.code, again.err) == (0, "")
    assert f"tiny@production means {better} already" in again.out
    text = refused(steel_batch("engines", "promote", worse, *store))
    assert f"{worse} is not promoted, tiny@production still means {better}" in text
    without = steel_batch("engines", "promote", worse, *store, "--force")
    assert without.code == 2
    assert '--why "…"' in without.err
    forced = steel_batch("engines", "promote", worse, *store, "--force", "--why", "it is faster")
    assert forced.code == 0
    assert "forced although Kaggle Dice is 0.9000 against 0.9700" in forced.out
    back = steel_batch("engines", "rollback", "tiny@production", *store, "--why", "slow", *json_)
    assert (back.json["engine"], back.json["previous"]) == (better, worse)
    text = steel_batch("engines", "rollback", "tiny@production", *store).out
    assert text == f"tiny@production means {first}, before: {better}\n"
    history = steel_batch("engines", "show", "tiny@production", *store).out.splitlines()[-5:]
    assert [line.split()[1] for line in history] == [
        "rollback", "rollback", "forced", "promote", "promote",
    ]  # fmt: skip
    done = steel_batch("engines", "rollback", "tiny@production", *store)
    assert "there is no earlier version to go back to" in refused(done)


def test_what_differs_between_two_engines_is_shown(steel_batch: Command, registry: Any) -> None:
    store, first, better, _ = registry
    found = steel_batch("engines", "diff", first, better, *store, "--output", "json").json
    assert keys(found) == {"a", "b", "judged_on_the_same", "differences"}
    assert {d["name"]: (d["a"], d["b"]) for d in found["differences"]} == {
        **{f"min_area_px.band_{c}": (0, 1) for c in (1, 2, 3, 4)},
        **{f"metrics.band_{c}.present_dice": (0.95, 0.97) for c in (1, 2, 3, 4)},
        "metrics.kaggle_dice": (0.95, 0.97),
        "metrics.mean_iou": (0.95, 0.97),
    }
    text = steel_batch("engines", "diff", first, better, *store).out
    assert text.split("\n")[0].split() == [first, better]
    assert "metrics.kaggle_dice" in text
    assert "do not compare" in steel_batch("engines", "diff", first, "demo", *store).out
    assert "one and the same" in steel_batch("engines", "diff", first, first, *store).out


def test_synth_says_what_it_made(steel_batch: Command, tmp_path: Path) -> None:
    out = tmp_path / "lake"
    done = steel_batch("synth", "--out", out, "--num-images", 2, "--output", "json")
    assert keys(done.json) == {
        "out", "num_images", "num_defective", "num_masks", "bytes", "seconds",
    }  # fmt: skip
    assert done.json["num_images"] == 2
    assert len(list(out.rglob("*.jpg"))) == 2


# --- a run ----------------------------------------------------------------------------------


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
    result = commit_run(Lake(str(tmp_path)), image_keys(8), bad=image_keys(1))
    show_result(result)
    ended, *table, run_line, glob = capfd.readouterr().err.splitlines()
    assert ended == (
        f"{DATE}: 7 images scored with {result.engine} in 1 s (1.0 images/s; start-up 0 s), "
        "1 quarantined (`steel-batch quarantine list` says why)."
    )
    assert [row.split()[0] for row in table] == ["class", "1", "2", "3", "4"]
    assert (run_line, glob) == (f"run {result.run_id}, table version 1", result.predictions)


RESULT = {
    "run_id", "engine", "date", "num_images", "num_scored", "num_quarantined", "num_shards",
    "seconds", "images_per_second", "committed", "table_version", "predictions",
    "startup_seconds", "num_committed_before", "num_changed", "num_left_out",
    "num_resumed_shards", "classes",
    "attempt_seconds",
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
    assert bad.err.strip().splitlines()[-1].startswith("error: 1 of 5 images cannot be scored")
    done = steel_batch("score", *flags, "--max-bad", "0.5")
    assert done.code == 0
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


SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA0NEVERSHOWTHIS00",
    "AWS_SECRET_ACCESS_KEY": "never/show+this0secret1to2anybody3ever4x",
    "AWS_SESSION_TOKEN": "never-show-this-token-to-anybody-either",
}


@pytest.mark.ray
@pytest.mark.s3
def test_credentials_never_appear_in_any_output_or_file_of_the_store(
    steel_batch: Command,
    s3_endpoint: str,
    bucket: str,
    tiny_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run with a Ray of its own and all log records, then commands that read it or fail."""
    fill_lake(Lake(f"{bucket}/images", endpoint_url=s3_endpoint), num_images=4)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    at = ["--endpoint-url", s3_endpoint]
    store = ["--store", f"{bucket}/store", *at]
    score = [
        "score", "--images", f"{bucket}/images", "--key-pattern", PATTERN, *store,
        "--engine", str(tiny_engine), "--date", DATE, "--verbose", "--num-actors", "1",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    scored = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", *score],
        env=environment, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert "INFO steel_batch" in scored.stderr
    texts = {"score": scored.stdout + scored.stderr}
    (run_id,) = steel_batch("query", "SELECT DISTINCT run_id FROM predictions", *store).out.split()[
        1:
    ]
    for arguments, code in (
        (["runs", "show", run_id, *store, "--output", "json"], 0),
        (["verify", *store], 0),
        (["query", "SELECT * FROM elsewhere", *store], None),
        (["verify", "--store", "s3://no-such-bucket/x", *at], 1),
        (["query", "SELECT 1", "--store", f"{bucket}/nothing", *at], 1),
        (["score", *score[1:], "--engine", "nonsense"], None),
    ):
        done = steel_batch(*arguments)
        assert code in (None, done.code), done
        texts[" ".join(arguments)] = done.out + done.err
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    name = bucket.removeprefix("s3://")
    for item in s3.list_objects_v2(Bucket=name, Prefix="store/")["Contents"]:
        data = s3.get_object(Bucket=name, Key=item["Key"])["Body"].read()
        texts[item["Key"]] = data.decode("latin-1")
    assert any(key.endswith("events.jsonl") for key in texts)
    assert len(texts) > 20
    for where, text in texts.items():
        assert not [name for name, secret in SECRETS.items() if secret in text], where


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("".join(f"{line}\n" for line in commands(cli)))
