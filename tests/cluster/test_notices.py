"""What Ray says of lost nodes is one line for the operator, and never on stdout."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest

from steel_batch.cluster.notices import (
    Notices,
    first_line,
    keep_traces_off_the_terminal,
    notices_of_work,
)

DEAD = (
    "\x1b[33m(raylet)\x1b[0m Raylet is terminated. Termination is unexpected. Last 20 lines of "
    "the Raylet logs:\n    [2026-11-28 23:29:27,043 C 32 32] (raylet) node_manager.cc:971: "
    "[Timeout] Exiting\n    *** StackTrace Information ***\n    raylet(+0xff770a) operator<<()\n"
)
FAILED = (
    "\x1b[33m(raylet)\x1b[0m Task get_location failed. There are infinite retries remaining, so "
    "the task will be retried. Error: Traceback (most recent call last):\n\n"
    '  File "python/ray/_raylet.pyx", line 2153, in ray._raylet.execute_task\n'
    "ray.exceptions.RaySystemError: System error: No module named 'steel_batch'\n"
    "ModuleNotFoundError: No module named 'steel_batch'\n"
)


@pytest.mark.parametrize(
    ("notice", "expected"),
    [
        (DEAD, "(raylet) Raylet is terminated. Termination is unexpected. Last 20 lines of the "
               "Raylet logs: (more in Ray's logs)"),
        (FAILED, "(raylet) Task get_location failed. There are infinite retries remaining, so the "
                 "task will be retried. Error: ModuleNotFoundError: No module named "
                 "'steel_batch'."),
        ("(raylet) a node died", "(raylet) a node died"),
    ],
)  # fmt: skip
def test_a_notice_is_one_line_without_a_trace(
    notice: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_line(notice) == expected
    with contextlib.redirect_stdout(Notices()):
        print(notice)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{expected}\n"


def test_what_fails_because_the_work_was_ended_is_not_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        with contextlib.redirect_stdout(Notices()):
            print("while joining")
            with notices_of_work():
                print("at work")
            print("after it")
            with contextlib.suppress(ValueError), notices_of_work():
                print("at work again")
                raise ValueError
            print("after an error")
        assert capsys.readouterr() == ("", "while joining\nat work\nat work again\n")


def test_ray_datas_traces_are_kept_off_the_terminal_and_our_own_messages_are_not() -> None:
    own, shared = logging.StreamHandler(), logging.StreamHandler()
    with handlers("ray.data", own, shared), handlers(None, shared):
        keep_traces_off_the_terminal()
        assert (own.level, shared.level) == (logging.CRITICAL, logging.NOTSET)


@contextlib.contextmanager
def handlers(name: str | None, *added: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger(name)
    for handler in added:
        logger.addHandler(handler)
    yield
    for handler in added:
        logger.removeHandler(handler)
