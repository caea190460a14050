"""Signals are noted, looked at where it is safe, and end the process in bounded time with 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from steel_batch import interrupt
from tests.interrupting import END_SECONDS

HEAD = """
import os, signal, subprocess, sys, threading, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # the parent may ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
from steel_batch import interrupt

def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    while not interrupt.is_requested():
        time.sleep(0.01)

interrupt.GRACE_SECONDS, interrupt.HURRY_SECONDS, interrupt.NOTICE_SECONDS = 60, 60, 60
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=END_SECONDS,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_raises_nothing_until_it_is_looked_at(name: str) -> None:
    done = run(f"""
interrupt.install()
with interrupt.noted():
    send(signal.{name})
    sum(range(1000))
    print("went on")
    try:
        interrupt.check()
    except interrupt.Interrupted:
        print("stopped")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("went on\nstopped\n", "", 0)


def test_neither_an_error_handler_nor_asyncio_takes_it_for_an_error() -> None:
    assert not issubclass(interrupt.Interrupted, (Exception, KeyboardInterrupt))


def test_a_signal_before_anything_is_held_ends_the_process_at_once() -> None:
    done = run("interrupt.install()\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(100)")
    assert (done.returncode, done.stderr) == (130, f"{interrupt.MESSAGE}\n")


def test_a_handler_that_a_library_installs_changes_nothing() -> None:
    """Ray leaves the default of SIGTERM in C behind when it shuts down, which ends the process."""
    done = run("""
interrupt.install()
with interrupt.noted():
    for handler in (lambda *_: sys.exit(15), signal.SIG_DFL):
        signal.signal(signal.SIGTERM, handler)
        send()
    time.sleep(0.2)
    print("alive")
""")
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


def test_what_a_shell_had_ignored_stays_ignored() -> None:
    done = run("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupt.install()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
print("alive")
""")
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


def test_what_is_given_back_after_an_interruption_is_not_interrupted() -> None:
    done = run("""
interrupt.install()
with interrupt.noted():
    send()
    try:
        try:
            interrupt.check()
        finally:
            interrupt.check()
            interrupt.sleep(0.01)
            print("given back")
    except interrupt.Interrupted:
        pass
    with interrupt.shielded():
        interrupt.check()
        print("finished")
""")
    assert done.stdout == "given back\nfinished\n", done.stderr


def test_what_waits_is_woken() -> None:
    done = run("""
interrupt.install()
with interrupt.noted():
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    try:
        interrupt.sleep(100)
    except interrupt.Interrupted:
        print("sleep", time.monotonic() - started < 50)
    try:
        with interrupt.waking(print):
            pass
    except interrupt.Interrupted:
        print("not begun")
""")
    assert done.stdout == "sleep True\nnot begun\n", done.stderr
    done = run("""
interrupt.install()
ended = threading.Event()
with interrupt.noted(), interrupt.waking(ended.set):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    print(ended.wait(100))
""")
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("how", ["grace", "second", "third"])
def test_a_call_that_does_not_end_is_left_behind_and_what_is_locked_is_said(how: str) -> None:
    limits = {"grace": "interrupt.GRACE_SECONDS", "second": "interrupt.HURRY_SECONDS"}
    num_signals = {"grace": 1, "second": 2, "third": 3}[how]
    done = run(f"""
{limits.get(how, "unused")} = 0.2
interrupt.install()
def press():
    for _ in range({num_signals}):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with interrupt.noted(), interrupt.last_words(lambda: "The lock on X is not released."):
    threading.Thread(target=press).start()
    with interrupt.shielded():
        time.sleep(1000)
""")
    assert done.returncode == 130
    assert done.stderr == (
        "interrupted: the work did not stop in time and was abandoned. The lock on X is not "
        "released. Run the same command again to resume.\n"
    )


def test_what_takes_long_to_stop_says_so_once() -> None:
    done = run("""
interrupt.NOTICE_SECONDS = 0.1
interrupt.install()
with interrupt.noted():
    send()
    time.sleep(0.6)
""")
    assert done.stderr.startswith("stopping, which may take up to 60 s;")
    assert done.stderr.count("stopping") == 1


def test_a_child_process_can_be_ended_as_any_other() -> None:
    """With `preexec_fn`, as Ray starts its own, or within `starting_processes`."""
    done = run("""
interrupt.install()
with interrupt.noted():
    sleep = ["sleep", "100"]
    forked = subprocess.Popen(sleep, preexec_fn=lambda: None)
    with interrupt.starting_processes():
        spawned = subprocess.Popen(sleep)
    for child in (forked, spawned):
        child.terminate()
        print(child.wait(20))
""")
    assert done.stdout == "-15\n-15\n", done.stderr


def test_a_block_in_a_program_of_another_leaves_its_signals_as_they_were() -> None:
    before = [signal.getsignal(n) for n in interrupt.SIGNALS]
    mask, threads = signal.pthread_sigmask(signal.SIG_BLOCK, ()), set(threading.enumerate())
    with interrupt.installed():
        assert interrupt.is_installed()
    assert [signal.getsignal(n) for n in interrupt.SIGNALS] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert set(threading.enumerate()) <= threads  # one of an earlier test may have ended
    interrupt.check()


def test_an_error_that_an_interruption_became_in_a_library_is_an_interruption() -> None:
    done = run("""
interrupt.install()
with interrupt.noted():
    send()
    try:
        with interrupt.restored():
            raise RuntimeError("of a library")
    except interrupt.Interrupted as error:
        print(repr(error.__cause__))
""")
    assert done.stdout == "RuntimeError('of a library')\n", done.stderr
    with pytest.raises(RuntimeError), interrupt.restored():
        raise RuntimeError("of a library")


def test_it_loads_nothing_but_the_standard_library() -> None:
    """Or the time in which a signal is not noted would be long."""
    script = "import sys, steel_batch.cli; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("steel_batch")}
    assert ours == {
        "steel_batch", "steel_batch.cli", "steel_batch.cli.search_path", "steel_batch.interrupt",
    }  # fmt: skip
    assert not loaded & {"click", "rich", "ray", "numpy", "pyarrow"}
