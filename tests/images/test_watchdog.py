"""A process that an image or the engine holds up is ended, and no other one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from steel_batch.images.watchdog import EXIT_CODE, Watchdog

HELD_UP = """
import sys, time
from steel_batch.images.watchdog import Watchdog
dog = Watchdog({decode}, {infer})
getattr(dog, sys.argv[1])(time.sleep, 60)
"""


@pytest.mark.parametrize(
    ("work", "limits", "said"),
    [
        ("decode", {"decode": 0.2, "infer": 50}, "an image was decoded for more than 0.2 s"),
        ("infer", {"decode": 50, "infer": 0.2}, "the engine was at one batch for more than 0.2 s"),
    ],
)
def test_each_kind_of_work_has_a_limit_of_its_own(
    work: str, limits: dict[str, float], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD_UP.format(**limits), work],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == EXIT_CODE
    assert said in done.stderr


def test_work_that_ends_in_time_gives_what_it_gives() -> None:
    watchdog = Watchdog(60.0, 60.0)
    assert watchdog.decode(str, 1) == watchdog.infer(str, 1) == "1"
    with pytest.raises(ValueError, match="x"):
        watchdog.infer(int, "x")
    time.sleep(0.01)
    watchdog.close()
