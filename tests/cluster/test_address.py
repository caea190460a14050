"""Before a cluster is joined, its head is checked: does it answer, and does it require a token?"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cluster_address

pytestmark = pytest.mark.ray

JOIN = """
import functools, os, sys
import ray
from steel_batch.errors import SteelBatchError
from steel_batch.cluster.join import joined_cluster
from ray._private import services
# As on a machine of its own: other tests' clusters run on this one, and "auto" takes any.
services.find_gcs_addresses = functools.cache(set)
try:
    with joined_cluster(sys.argv[1], wait_seconds=float(sys.argv[2])):
        # Within, the process's stdout is stderr.
        print("joined", ray.get(ray.remote(lambda: 42).remote()), file=sys.__stdout__)
except SteelBatchError as error:
    print(error)
print(os.environ.get("RAY_AUTH_MODE"))
"""
HEAD = """
import sys
import ray
from steel_batch.cluster.join import joined_cluster
with joined_cluster(None):
    print(ray.get_runtime_context().gcs_address, file=sys.__stdout__, flush=True)
    sys.stdin.read()
"""
TOKEN, OTHER = "7" * 64, "8" * 64


def environment(home: Path, token: str | None, **changes: str) -> dict[str, str]:
    """Of a user whose home has a token, or none."""
    home.mkdir(exist_ok=True)
    if token is not None:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(token)
    dropped = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "HOME": str(home), **changes}


@contextlib.contextmanager
def head(env: dict[str, str]) -> Iterator[str]:
    """The address of a cluster that another process started."""
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate(timeout=200)


def join(address: str, env: dict[str, str], *, seconds: float = 20.0) -> tuple[str, str]:
    """What came of joining a cluster, and Ray's mode afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address, str(seconds)],
        env=env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, mode = done.stdout.strip().splitlines()
    return text, mode


def test_the_token_that_is_there_is_taken_where_a_cluster_asks_for_one(tmp_path: Path) -> None:
    with head(environment(tmp_path / "head", TOKEN)) as address:
        same = environment(tmp_path / "same", TOKEN)
        assert join(address, same) == ("joined 42", "None"), "and the mode is as it was"
        for name, token in (("other", OTHER), ("none", None)):
            text, _ = join(address, environment(tmp_path / name, token))
            assert text.startswith(f"the Ray cluster at '{address}' cannot be joined: ")
            assert "token is missing or incorrect" in text
            assert "~/.ray/auth_token; on the head, `ray get-auth-token` prints it." in text


def test_a_cluster_that_asks_for_no_token_is_joined_by_who_has_one(tmp_path: Path) -> None:
    """Ray itself uses it with ``auto``, and its actors are then cancelled before they start."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # the paths of sockets have to be short
    with head(environment(tmp_path / "head", None, RAY_AUTH_MODE="disabled")) as address:
        (place / "ray").mkdir()
        (place / "ray" / "ray_current_cluster").write_text(address)
        user = environment(tmp_path / "user", TOKEN, RAY_TMPDIR=str(place))
        assert join("auto", user) == ("joined 42", "None")
        assert join(address, user) == ("joined 42", "None")


def test_a_cluster_of_a_command_leaves_no_token_and_asks_for_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with head(environment(home, None)) as address:
        text, _ = join(address, environment(tmp_path / "stranger", None))
        assert "token is missing or incorrect" in text
    assert not (home / ".ray" / "auth_token").exists()


@pytest.mark.parametrize("asked", ["auto", "the address"])
def test_a_head_that_does_not_answer_is_not_waited_for(asked: str, tmp_path: Path) -> None:
    """It listens, as one does whose process is stopped, or behind a cut link."""
    (tmp_path / "ray").mkdir()
    with socket.socket() as silent:
        silent.bind(("", 0))  # with ``auto``, Ray takes this machine's own address
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        env = environment(tmp_path / "home", None, RAY_TMPDIR=str(tmp_path))
        started = time.monotonic()
        text, _ = join("auto" if asked == "auto" else address, env, seconds=1.0)
        seconds = time.monotonic() - started
    assert "Something listens there, but it does not answer as a Ray head." in text
    assert text.endswith("with --ray-address or RAY_ADDRESS, or none to run on this machine.")
    assert seconds < 35, "Ray alone waits for 40 s, and then again"


SHUT_DOWN = """
import os, signal, sys, time
from steel_batch import interrupt
interrupt.install()  # before anything else, as the entry point does: libraries begin threads

import ray
from steel_batch.cluster.join import joined_cluster

leave = ray.shutdown

def leave_and_be_told_again(*args, **options):
    leave(*args, **options)
    for _ in range({num_signals}):  # Ray has put back the default of SIGTERM in C by now
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

ray.shutdown = leave_and_be_told_again
with interrupt.noted():
    try:
        with joined_cluster(sys.argv[1]):
            if {num_signals} == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                interrupt.sleep(100)
    except interrupt.Interrupted:
        pass
    print("left", interrupt.is_requested(), flush=True)
"""


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("num_signals", [1, 2], ids=["a second signal", "two signals"])
def test_sigterm_while_ray_shuts_down_does_not_end_the_process(num_signals: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHUT_DOWN.format(num_signals=num_signals), cluster_address()],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "left True\n"), done.stderr
