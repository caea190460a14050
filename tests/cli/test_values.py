"""Values of flags: one code and one form for those that are wrong, whichever command is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.cli.values import UNITS, parse_bytes, size_text
from steel_batch.errors import ConfigError
from tests.cli.command_line import Command, refused, with_flag
from tests.conftest import DATE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("67108864", 67108864), ("64 MiB", 64 << 20), ("64MiB", 64 << 20), ("64 mib", 64 << 20),
        ("64 MB", 64_000_000), ("1.5 GiB", 3 << 29), ("2 kB", 2000), ("1_000 B", 1000),
    ],
)  # fmt: skip
def test_a_size_is_read_as_people_write_it(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@given(st.integers(0, 1 << 50), st.sampled_from(sorted(UNITS)))
def test_a_whole_number_of_any_unit_is_exact(number: int, unit: str) -> None:
    assert parse_bytes(f"{number} {unit}") == number * UNITS[unit]


@given(st.integers(0, 1 << 50))
def test_a_size_is_shown_as_it_is_read_back(number: int) -> None:
    assert parse_bytes(size_text(number)) == number
    assert size_text(number << 20) == (
        f"{number} MiB" if number % 1024 else size_text(number << 20)
    )


@pytest.mark.parametrize("text", ["", "MiB", "-1", "64 M", "64 MiBs", "1.5", "0x10", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a size|not a whole number"):
        parse_bytes(text)


WRONG = [
    (["score"], "--max-bad", "20"),
    (["score"], "--max-bad", "nan"),
    (["score"], "--max-bad", "5%"),
    (["score"], "--date", "30.11.2026"),
    (["score"], "--date", ""),
    (["score"], "--shard-bytes", "64 M"),
    (["score"], "--shard-images", "0"),
    (["score"], "--shard-images", "1.5"),
    (["score"], "--lease-seconds", "inf"),
    (["score"], "--lease-seconds", "0"),
    (["score"], "--lock-wait", "inf"),
    (["score"], "--decode-seconds", "nan"),
    (["score"], "--cpus-per-actor", "inf"),
    (["score"], "--num-actors", "0"),
    (["score"], "--decoder", "nonsense"),
    (["score"], "--engine", "nonsense"),
    (["score"], "--images", ""),
    (["score"], "--images", "s3:/bucket/x"),
    (["score"], "--images", "gs://bucket/x"),
    (["score"], "--store", ""),
    (["score"], "--key-pattern", ""),
    (["score"], "--endpoint-url", "localhost:9000"),
    (["score"], "--runtime", "cuda"),
    (["score"], "--config", "no-such-file.toml"),
    (["plan"], "--date", "tomorrow"),
    (["quarantine", "retry"], "--max-bad", "20"),
    (["quarantine", "retry"], "--date", "30.11.2026"),
]


@pytest.mark.parametrize(("command", "flag", "value"), WRONG, ids=lambda v: str(v).strip("[]"))
def test_a_wrong_value_exits_2_in_one_line_and_writes_nothing(
    steel_batch: Command, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    command: list[str], flag: str, value: str,
) -> None:  # fmt: skip
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path(flags[5]).mkdir()
    (Path(flags[5]) / "runs").mkdir()
    given = with_flag(flags, flag, value) if flag in flags else [*flags, flag, value]
    done = steel_batch(*command, *given)
    assert done.code == 2, done
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert done.err.count("rror: ") == 1
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["backfill", "--images", "x", "--store", "y", "--from", "30.11.2026"],
        ["backfill", "--images", "x", "--store", "y"],
        ["pack", "--images", "x", "--out", ""],
        ["pack", "--images", "x", "--out", "y", "--shard-bytes", "64 M"],
        ["pack", "--images", "x", "--out", "y", "--date", "30.11.2026"],
        ["synth", "--out", ""],
        ["synth", "--out", "x", "--dates", "30.11.2026"],
        ["synth", "--out", "x", "--num-images", "0"],
        ["demo", "--num-images", "-3"],
        ["runs", "list", "--store", "nowhere"],
        ["runs", "list", "--store", "STORE", "--date", "30.11.2026"],
        ["runs", "list", "--store", "STORE", "--date", "2026-13"],
        ["runs", "show", "nonsense", "--store", "STORE"],
        ["quarantine", "list", "--store", "nowhere"],
        ["quarantine", "list", "--store", "STORE", "--date", "30.11.2026"],
        ["quarantine", "list", "--store", "STORE", "--code", "nonsense"],
        ["verify", "--store", "nowhere"],
        ["verify", "--store", "STORE", "--date", "30.11.2026"],
        ["verify", "--store", "STORE", "--engine", "nonsense"],
        ["gc", "--store", "nowhere"],
        ["query", "SELECT nope FROM predictions", "--store", "STORE"],
        ["query", "SELECT 1", "--store", "nowhere"],
        ["engines", "list", "--store", "nowhere"],
        ["engines", "show", "nonsense"],
        ["submit", "--address", "nowhere", "runs", "list", "--store", "/y"],
        ["scor"],
        ["score"],
    ],
    ids=lambda words: " ".join(words),
)
def test_wrong_usage_of_any_command_exits_2_in_one_line(
    steel_batch: Command, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = steel_batch(*(str(committed) if word == "STORE" else word for word in words))
    assert (done.code, done.out) == (2, ""), done
    assert done.err.startswith("Error: ")
    assert "\nError" not in done.err
    assert list(tmp_path.iterdir()) == []


CONFIGS = [
    "date = 2026-11-21T00:00:00", "shard-images = 3.7", "shard-images = true", 'max-bad = "1%"',
    "max-bad = true", 'fresh = "no"', "fresh = 1", "engine = 3", 'images = ["a", "b"]',
    "shard-bytes = 1.5", "shard-bytes = '64 M'", "runtime = 'cuda'", "nope = 1", "max-bad = 20",
    "date = '30.11.2026'", "store = ''",
]  # fmt: skip


@pytest.mark.parametrize("line", CONFIGS)
def test_a_wrong_value_in_a_configuration_file_exits_2(
    steel_batch: Command, flags: list[str], tmp_path: Path, line: str
) -> None:
    file = tmp_path / "nightly.toml"
    name = line.partition(" ")[0]
    others = {"images": flags[1], "store": flags[5], "date": DATE}
    rest = [f"{key} = '{value}'" for key, value in others.items() if key != name]
    file.write_text("\n".join(["[score]", *rest, line]))
    done = steel_batch("score", "--config", file)
    assert done.code == 2, done
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert name in done.err
    assert not Path(flags[5]).exists()


def test_a_configuration_file_may_begin_with_a_mark_and_say_sizes_and_dates(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "nightly.toml"
    text = f"[score]\r\nshard-bytes = '1 KiB'\r\ndate = {DATE}\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    done = steel_batch("plan", *flags[:-2], "--config", file, "--output", "json")
    assert (done.json["date"], done.json["num_images"]) == (DATE, 4)
    file.write_bytes(text.encode("utf-16"))
    assert "is not text in UTF-8" in refused(steel_batch("plan", *flags, "--config", file))


def test_a_warning_is_a_line_for_people_and_has_its_time_where_all_is_logged() -> None:
    script = (
        "import logging, sys; from steel_batch.cli.output import configure_logging\n"
        "configure_logging(sys.argv[1] == 'verbose')\n"
        "logging.getLogger('steel_batch.x').warning('%d images\\nare left', 3)"
    )

    def said(how: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, how], capture_output=True, text=True, check=True
        )
        return done.stderr

    assert said("quiet") == "Warning: 3 images\\nare left\n"
    assert said("verbose").endswith(" WARNING steel_batch.x: 3 images\\nare left\n")
