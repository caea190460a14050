"""Commands as jobs of a Ray cluster, and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import http.server
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from aiohttp import web

from steel_batch.cluster.submit import ClusterJobs
from steel_batch.errors import ClusterError, ConfigError
from steel_batch.lake import Lake
from tests.conftest import DATE, PATTERN, committed_rows, fill_lake

HAS_JOBS_SERVER = importlib.util.find_spec("aiohttp_cors") is not None


@contextmanager
def server(status: int, text: str) -> Iterator[str]:
    """The URL of a web server that has one answer."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


@pytest.mark.parametrize("address", ["head:8265", "auto", "ray://head:10001", ""])
def test_an_address_that_is_no_url_is_refused_before_anything_is_asked(address: str) -> None:
    with pytest.raises(ConfigError, match="is not a URL: give that of the head's jobs server"):
        ClusterJobs(address)


def test_an_address_at_which_nothing_answers_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no jobs server of Ray answers at {url}"):
            ClusterJobs(url)


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (401, "Unauthorized: Missing authentication token", "Set RAY_AUTH_MODE=token"),
        (404, "<html>", "If it is none, give that of the head's jobs server"),
        (200, "<html>", "If it is none, give that of the head's jobs server"),
        (200, "{}", "If it is none, give that of the head's jobs server"),
        (502, "bad gateway", "If it is none, give that of the head's jobs server"),
    ],
)
def test_what_is_no_open_jobs_server_is_explained_in_one_paragraph(
    status: int, text: str, expected: str
) -> None:
    with server(status, text) as url, pytest.raises(ConfigError) as caught:
        ClusterJobs(url)
    assert expected in caught.value.message
    assert url in caught.value.message
    assert "\n" not in caught.value.message


@contextmanager
def jobs_server_of(parts: Sequence[str], *, exit_code: int | None = None) -> Iterator[str]:
    """The URL of a jobs server that has one job.

    Args:
        parts: What the job prints, message by message.
        exit_code: How it ends; None: it dies while it is followed, and closes no connection.
    """
    loop = asyncio.new_event_loop()

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        for part in parts:
            await answer.send_str(part)
        if exit_code is None:
            await site.stop()
            await asyncio.sleep(60)
        return answer

    async def job(_: web.Request) -> web.Response:
        details = {
            "type": "SUBMISSION", "entrypoint": "x", "status": "FAILED",
            "submission_id": "raysubmit_1", "driver_exit_code": exit_code,
        }  # fmt: skip
        return web.json_response(details)

    app = web.Application()
    app.add_routes([web.get("/api/version", version), web.get("/api/jobs/{job}/logs/tail", tail)])
    app.add_routes([web.get("/api/jobs/{job}", job)])
    runner = web.AppRunner(app, shutdown_timeout=0)
    loop.run_until_complete(runner.setup())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        site = web.SockSite(runner, listening)
        loop.run_until_complete(site.start())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield url
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.close()


@pytest.mark.timeout(60)
def test_a_head_that_is_gone_without_a_word_is_noticed() -> None:
    told: list[str] = []
    with jobs_server_of(["scoring\n"]) as url:
        jobs = ClusterJobs(url, look_seconds=0.05)
        with pytest.raises(ClusterError, match="nothing answers there any more") as caught:
            jobs.follow("raysubmit_1", told.append)
    assert told == ["scoring\n"]
    assert "start it and submit the same command again" in caught.value.message


@pytest.mark.parametrize(("of_driver", "code"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_a_job_is_shown_without_what_ray_does_and_ends_with_its_code(
    of_driver: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = [
        "2026-11-28 23:00:00,123\tINFO job_manager.py:581 -- Runtime env is setting up.\nplan",
        "ning\n2026-11-21: 4 images",
        " scored\n2026-11-28 23:00:01,5 WARNING x.py:1 -- a disk is nearly full\nno end",
    ]
    told: list[str] = []
    with jobs_server_of(parts, exit_code=of_driver) as url:
        assert ClusterJobs(url).follow("raysubmit_1", told.append) == code
    assert "".join(told) == (
        "planning\n2026-11-21: 4 images scored\n"
        "2026-11-28 23:00:01,5 WARNING x.py:1 -- a disk is nearly full\nno end"
    )
    assert "INFO" not in "".join(capfd.readouterr())


FOLLOW = """
import os, signal, sys
from steel_batch import interrupt
interrupt.install()
from steel_batch.cluster.submit import ClusterJobs
jobs = ClusterJobs(sys.argv[1], look_seconds=1000)
with interrupt.noted():
    try:
        jobs.follow("raysubmit_1", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    except interrupt.Interrupted:
        print("interrupted")
"""


def test_following_a_job_that_is_silent_ends_when_a_signal_asks_for_it() -> None:
    with jobs_server_of(["scoring\n"]) as url:
        done = subprocess.run(
            [sys.executable, "-c", FOLLOW, url],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.fixture(scope="module")
def jobs_server() -> Iterator[str]:
    """The URL of the jobs server of a Ray head of its own."""
    places = [socket.socket() for _ in range(3)]
    for place in places:
        place.bind(("127.0.0.1", 0))
    gcs, dashboard, client = (str(place.getsockname()[1]) for place in places)
    for place in places:
        place.close()
    folder = tempfile.mkdtemp(dir="/tmp")  # the paths of sockets have to be short
    binaries = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
    }
    head = subprocess.Popen(
        [
            str(binaries / "ray"), "start", "--head", "--block", "--num-cpus", "2",
            "--port", gcs, "--dashboard-port", dashboard, "--ray-client-server-port", client,
            "--temp-dir", folder,
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"{url}/api/version"):  # noqa: S310 - our own
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not HAS_JOBS_SERVER, reason="the jobs server comes with ray[default]")
def test_a_submitted_run_scores_on_the_cluster_and_its_exit_code_is_the_jobs(
    jobs_server: str, tmp_path: Path, tiny_engine: Path
) -> None:
    fill_lake(Lake(str(tmp_path / "images")), num_images=6)
    flags = [
        "--images", str(tmp_path / "images"), "--key-pattern", PATTERN, "--engine",
        str(tiny_engine), "--store", str(tmp_path / "store"), "--date", DATE,
    ]  # fmt: skip
    submit = [sys.executable, "-m", "steel_batch.cli", "submit", "--address", jobs_server]
    scored = subprocess.run(
        [*submit, "--output", "json", "score", *flags, "--output", "json"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert set(json.loads(scored.stdout)) == {"job", "address"}
    assert '"num_scored": 6' in scored.stderr
    assert len(committed_rows(Lake(str(tmp_path / "store")))) == 6
    refused = subprocess.run(
        [*submit, "score", *flags[:-1], "1999-01-01"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "there are no images of 1999-01-01" in refused.stdout
