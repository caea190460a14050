"""Commands that are interrupted at random moments: how each ended, and what it left locked."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steel_batch.lake import Lake

END_SECONDS = 240.0
"""How long a command may take to end on a loaded machine."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NUM_SLOW = int(os.environ.get("INTERRUPTIONS", "300")) // 7 + 1
"""Of each of seven commands."""
MOST_IN_A_ROW = 4
"""Interruptions of one command before it may end: else one that is never far enough never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    was_running: bool
    """Whether it was when the signal was sent."""
    seconds: float
    """From the signal to its end, or else from the moment at which it notes signals."""


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command, and return once it notes signals: before, Python itself just begins."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # or a shell's `&` stays
    )
    while process.poll() is None and not _notes_signals(process.pid):
        time.sleep(0.002)
    return process


def interrupt(
    command: Sequence[str],
    number: int,
    when: float | Callable[[subprocess.Popen[str]], str],
    *,
    times: int = 1,
) -> Ended:
    """Send a command a signal.

    Args:
        command: Its words.
        number: The signal.
        when: Seconds from the moment at which it notes signals, or what waits for another moment
            and returns what it read of the command's stderr.
        times: How often it is sent, a fifth of a second apart.
    """
    process = start(command)
    with process:
        told = ""
        if callable(when):
            told = when(process)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(when)
        was_running, sent = process.poll() is None, time.monotonic()
        for _ in range(times):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        try:
            out, err = process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        seconds = time.monotonic() - sent
    return Ended(
        code=process.returncode, out=out, err=told + err, was_running=was_running, seconds=seconds
    )


def once_said(text: str) -> Callable[[subprocess.Popen[str]], str]:
    """Wait until a command has written a text to stderr, or has ended."""

    def wait(process: subprocess.Popen[str]) -> str:
        assert process.stderr is not None
        told = ""
        while text not in told and (line := process.stderr.readline()):
            told += line
        return told

    return wait


def once_worked(seconds: float) -> Callable[[subprocess.Popen[str]], str]:
    """Wait until a command has used so much CPU, or has ended."""

    def wait(process: subprocess.Popen[str]) -> str:
        while process.poll() is None and _cpu_seconds(process.pid) < seconds:
            time.sleep(0.02)
        return ""

    return wait


def once_in(folder: Path) -> Callable[[subprocess.Popen[str]], str]:
    """Wait until a command has put something into a folder, or has ended."""

    def wait(process: subprocess.Popen[str]) -> str:
        while process.poll() is None and not any(folder.iterdir()):
            time.sleep(0.005)
        return ""

    return wait


def once_asked(server: socket.socket, num_refused: int) -> Callable[[subprocess.Popen[str]], str]:
    """Wait until a command has connected to a server that never answers.

    Args:
        server: It listens.
        num_refused: Wait until so many connections were reset.
    """

    def wait(process: subprocess.Popen[str]) -> str:
        for _ in range(num_refused or 1):
            ready, *_ = select.select([server], [], [], END_SECONDS)
            assert ready, f"{process.args!r} does not connect"
            if num_refused:
                connection = server.accept()[0]
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        return ""

    return wait


def complete(command: Sequence[str]) -> Ended:
    """Run a command to its end."""
    process = start(command)
    with process:
        started = time.monotonic()
        out, err = process.communicate()
        seconds = time.monotonic() - started
    return Ended(code=process.returncode, out=out, err=err, was_running=False, seconds=seconds)


def steel_batch(*words: object) -> list[str]:
    """A command line of the product."""
    return [sys.executable, "-m", "steel_batch.cli", *map(str, words)]


def held_locks(store: Lake) -> list[str]:
    """The locks of a store whose newest entry does not say that it was given back."""
    newest: dict[str, str] = {}
    for item in store.list_objects("locks/"):
        series, _, name = item.key.rpartition("/")
        if name.endswith(".json"):
            newest[series] = max(newest.get(series, ""), item.key)
    return [key for key in newest.values() if not json.loads(store.read(key))["released"]]


def check_interrupted(ended: Ended, store: Lake) -> None:
    """What is promised of every interruption."""
    assert ended.code == 130, (ended.code, ended.out, ended.err)
    assert "interrupted" in ended.err, ended
    assert "Traceback" not in ended.err, ended.err
    assert held_locks(store) == []


def interrupt_again_and_again(
    command: list[str], store: Lake, num: int, *, seed: int, renew: Callable[[], None]
) -> None:
    """Interrupt a command at random moments, let it end after some of them, and start again.

    Args:
        command: Its words.
        store: Where its locks lie.
        num: Interruptions.
        seed: Of the moments; an even one begins with SIGINT, an odd one with SIGTERM.
        renew: Called to begin anew; checks what the command did when it ended.
    """
    rng = random.Random(seed)
    usual = complete(command)
    assert usual.code == 0, usual
    renew()
    seen: Counter[str] = Counter()
    in_a_row = 0
    while seen["interrupted"] < num:
        how = SIGNALS[(seed + seen["interrupted"]) % 2]
        ended = interrupt(
            command, how, rng.uniform(0.0, usual.seconds), times=rng.choice((1, 1, 2))
        )
        if ended.was_running and ended.code != 0:
            check_interrupted(ended, store)
            seen["interrupted"] += 1
            in_a_row += 1
        else:
            assert ended.code == 0, ended
            seen["ended before"] += 1
        if ended.code == 0 or in_a_row == MOST_IN_A_ROW:
            last = complete(command)
            assert last.code == 0, last
            seen["continued"] += 1
            renew()
            in_a_row = 0
    last = complete(command)
    assert last.code == 0, last
    print(command[3], dict(seen))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _notes_signals(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (blocked,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)
