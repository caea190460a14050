"""Processes hold a lease: they take it at once, are killed, stopped or interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.lake.lock import CLOCK_SKEW_SECONDS, holder_of
from tests.lake.leases import is_free, lease, newest

HOLD = """
import json, sys
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease

wanted = json.loads(sys.argv[1])
store = Lake(wanted["store"], endpoint_url=wanted["endpoint_url"])
print("ready", flush=True)
sys.stdin.readline()
try:
    with Lease(store, "locks/date", what="the date", lease_seconds=wanted["lease_seconds"]) as held:
        print("held", flush=True)
        sys.stdin.readline()
        held.check()
        store.write("committed", b"by the holder")
        print("committed", flush=True)
except LockHeldError as error:
    print(f"refused: {error}", flush=True)
"""
"""A process that takes the lease at a word, and at another writes what only a holder may write."""


@contextmanager
def holders(
    store: Lake, *, num: int, lease_seconds: float
) -> Iterator[list[subprocess.Popen[str]]]:
    wanted = {
        "store": store.url, "endpoint_url": store.endpoint_url, "lease_seconds": lease_seconds,
    }  # fmt: skip
    command = [sys.executable, "-c", HOLD, json.dumps(wanted)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(num)
    ]
    try:
        assert [heard(process) for process in processes] == ["ready"] * num
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def test_of_processes_that_try_at_once_one_gets_it_and_the_others_name_it(
    tmp_path: Path,
) -> None:
    with holders(Lake(str(tmp_path)), num=4, lease_seconds=60.0) as processes:
        for process in processes:
            tell(process)
        answers = {process.pid: heard(process) for process in processes}
    (holder,) = [pid for pid, answer in answers.items() if answer == "held"]
    for pid, answer in answers.items():
        assert pid == holder or f"process {holder} of " in answer


def test_a_holder_keeps_it_beyond_its_lease_and_a_killed_one_loses_it_after_the_lease(
    tmp_path: Path,
) -> None:
    store, lease_seconds = Lake(str(tmp_path)), 0.5
    with holders(store, num=1, lease_seconds=lease_seconds) as (process,):
        tell(process)
        assert heard(process) == "held"
        began = time.time()
        until = time.monotonic() + lease_seconds + CLOCK_SKEW_SECONDS + 0.3
        while time.monotonic() < until:
            assert not is_free(store)
            time.sleep(0.05)
        process.kill()
        process.wait()
        killed = time.time()
    last = newest(store)
    assert began + lease_seconds < last.expires_at <= killed + lease_seconds
    with lease(store, wait_seconds=30.0) as held:
        taken = time.time()
        held.check()
    assert taken >= last.expires_at + CLOCK_SKEW_SECONDS
    assert taken < last.expires_at + CLOCK_SKEW_SECONDS + 20.0


def test_a_holder_that_was_stopped_and_lost_it_notices_and_writes_nothing(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    with holders(store, num=1, lease_seconds=0.2) as (process,):
        tell(process)
        assert heard(process) == "held"
        os.kill(process.pid, signal.SIGSTOP)
        with lease(store, wait_seconds=30.0):
            pass
        with lease(store):
            pass
        os.kill(process.pid, signal.SIGCONT)
        tell(process)
        assert heard(process).startswith("refused: this run lost its lock on the date")
        process.wait()
    assert store.stat("committed") is None
    assert is_free(store)


def test_a_holder_that_was_stopped_and_did_not_lose_it_goes_on(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    with holders(store, num=1, lease_seconds=0.2) as (process,):
        tell(process)
        assert heard(process) == "held"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.4)
        assert time.time() > newest(store).expires_at
        os.kill(process.pid, signal.SIGCONT)
        tell(process)
        assert heard(process) == "committed"


HANG = """
import os, signal, sys, threading, time
from steel_batch import interrupt
interrupt.install()
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease

def press():
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

with interrupt.noted(), Lease(Lake(sys.argv[1]), "locks/x", what="engine e and date d"):
    threading.Thread(target=press).start()
    with interrupt.shielded():
        time.sleep(1000)  # a library's call
"""


def test_a_process_that_cannot_give_its_lock_back_says_when_it_is_free(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 130
    assert re.search("^interrupted: ", done.stderr, re.MULTILINE), done.stderr
    at = re.search(
        r"The lock on engine e and date d is not released; it is free after (\S+)\.", done.stderr
    )
    assert at, done.stderr
    seconds = datetime.fromisoformat(at[1]).timestamp() - time.time()
    assert 0 < seconds < 70
    assert holder_of(Lake(str(tmp_path)), "locks/x") is not None


GIVE_BACK = """
import os, signal, sys, time
from steel_batch import interrupt
interrupt.install()
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease

with interrupt.noted():
    try:
        with Lease(Lake(sys.argv[1]), "locks/x", what="engine e and date d"):
            os.kill(os.getpid(), signal.SIGTERM)
            if sys.argv[2] == "raised":
                interrupt.sleep(100)
            while not interrupt.is_requested():
                time.sleep(0.01)
    except interrupt.Interrupted:
        print("interrupted")
"""


@pytest.mark.parametrize("how", ["raised", "not looked at"])
def test_a_lock_is_given_back_while_a_signal_asks_to_stop(how: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVE_BACK, str(tmp_path), how],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("interrupted\n" if how == "raised" else "")
    assert holder_of(Lake(str(tmp_path)), "locks/x") is None
