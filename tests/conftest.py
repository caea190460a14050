"""What several tests need: a real S3 server process, places to store, a small lake and engine."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import cv2
import hypothesis
import numpy as np
import pytest
import ray
from ray._private.parameter import RayParams
from ray.util import list_named_actors

from steel_batch import layout
from steel_batch.cluster.join import joined_cluster
from steel_batch.config import Limits, ScoreConfig
from steel_batch.lake import Lake
from steel_batch.pipeline.run import score_date
from steel_batch.pipeline.scope import DateScope, Scope
from steel_batch.pipeline.score import score
from steel_batch.registry.versions import load_engine
from steel_batch.runs.events import Observer
from steel_batch.runs.record import RunResult
from steel_batch.sources.contract import Source
from steel_batch.sources.open import open_source
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import find_table
from tests.ceph import ceph_gateway, missing_programs
from tests.forked_worker import WORKER_PATH
from tests.tiny_engine import write_tiny_engine

PATTERN = "line={line}/date={date}/{image_id}.png"
DATE = "2026-11-21"
S3_START_SECONDS = 120.0
# Ray's workers and the processes that tests start find the tests' own decoders there.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# PyTorch's threads wait in loops, on cores that other processes of the tests need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test` draws the same examples every time, `make test-slow` others, and more of them.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, max_examples=34)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("same")


def examples(most: int) -> int:
    """How many of what is dear to try: a third where the same ones are drawn every time."""
    return -(-most // 3) if hypothesis.settings().derandomize else most


LONGEST = (
    "cli/test_interrupted.py",
    "pipeline/test_lost_workers.py",
    "pipeline/test_faults.py",
    "pipeline/test_backfill.py",
    "pipeline/test_kill.py",
    "pipeline/test_concurrent.py",
    "pipeline/test_bad_images.py",
    "pipeline/test_run.py",
    "cluster/test_check_nodes.py",
    "cluster/test_address.py",
    "cli/test_credentials.py",
    "cluster/test_own_cluster.py",
    "machines/test_network.py",
    "tables/test_commit.py",
    "lake/test_probe.py",
    "lake/test_lock.py",
    "lake/test_lock_processes.py",
    "images/test_isolate.py",
    "images/test_decode.py",
    "lake/test_s3_refusals.py",
    "tables/test_verify.py",
    "tables/test_writers_at_once.py",
    "sources/test_limits.py",
    "sources/test_manifest.py",
    "lake/test_lake.py",
    "answers/test_current.py",
)
"""The files that take longest: they begin first, so that no process ends with one alone."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files are first; of a test marked ``quick(case, …)`` the other cases are slow."""
    places = {Path(__file__).parent / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
    for item in items:
        marker = item.get_closest_marker("quick")
        if marker is not None and item.callspec.id not in marker.args:  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server in its own process."""
    use_test_credentials()
    yield from served("tests.s3_server", "decides")


@pytest.fixture(scope="session")
def ceph_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Ceph's S3 gateway."""
    if missing := missing_programs():
        pytest.skip(f"Ceph's S3 gateway is not installed here: no {', '.join(missing)}")
    use_test_credentials()
    with ceph_gateway(tmp_path_factory.mktemp("ceph"), keys=("testing", "testing")) as url:
        yield url


@pytest.fixture(scope="session")
def ignoring_endpoint() -> Iterator[str]:
    """The URL of an S3 server that ignores If-None-Match."""
    use_test_credentials()
    yield from served("tests.s3_server", "ignores")


@pytest.fixture(scope="session")
def refusing_endpoint() -> Iterator[str]:
    """The URL of an S3 server that answers 501 to If-None-Match."""
    use_test_credentials()
    yield from served("tests.s3_server", "refuses")


@pytest.fixture(scope="session")
def late_endpoint() -> Iterator[str]:
    """The URL of an S3 server that refuses a later writer, and lets concurrent ones all win."""
    use_test_credentials()
    yield from served("tests.s3_server", "late")


def use_test_credentials() -> None:
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))


def served(module: str, *arguments: str) -> Iterator[str]:
    """The URL of a server that is a Python module and takes its port as the last argument."""
    give_up = time.monotonic() + S3_START_SECONDS
    while time.monotonic() < give_up:
        with s3_server(give_up, module, *arguments) as url:
            if url is not None:
                yield url
                return
    raise TimeoutError(f"no S3 server answered within {S3_START_SECONDS:g} s")


@contextmanager
def s3_server(give_up: float, module: str, *arguments: str) -> Iterator[str | None]:
    """A server's URL once it answers; None where it ends, as its port was taken meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (answers := is_listening(port)) and time.monotonic() < give_up:
            if server.poll() is not None:
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}" if answers else None
    finally:
        server.kill()
        server.wait()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def group(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are started together; none is left."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """A new bucket's s3:// URL."""
    return new_bucket(s3_endpoint)


def new_bucket(endpoint: str) -> str:
    name = f"b{uuid.uuid4().hex[:20]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


KINDS_OF_LAKE = ["folder", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=KINDS_OF_LAKE)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake of each kind."""
    return empty_lake(request, tmp_path)


@pytest.fixture(params=["folder", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def folder_daily(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """An empty lake for claims about what lies in it, which a test on S3 repeats.

    A file says ``lake = folder_daily``; what S3 has to do with asks there for `KINDS_OF_LAKE`.
    """
    return empty_lake(request, tmp_path)


def empty_lake(request: pytest.FixtureRequest, folder: Path) -> Lake:
    """An empty lake of the kind that a fixture asks for."""
    if request.param == "folder":
        return Lake(str(folder / "lake"))
    endpoint = request.getfixturevalue("s3_endpoint")
    return Lake(f"{new_bucket(endpoint)}/some/prefix", endpoint_url=endpoint)


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder of an engine for 64×160 images."""
    return write_tiny_engine(tmp_path_factory.mktemp("engine") / "tiny")


def band_image(seed: int, height: int = 64, width: int = 160) -> np.ndarray:
    """A dark image; two of three have a bright block that the tiny engine finds."""
    rng = np.random.default_rng(seed)
    image_HW = rng.integers(40, 70, (height, width)).astype(np.uint8)
    if seed % 3:
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 40)
        image_HW[y : y + 15, x : x + 5 + seed % 30] = 150 + 20 * (seed % 5)
    return image_HW


def png(image_HW: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image_HW)[1])


def fill_lake(
    lake: Lake, *, num_images: int, date: str = DATE, lines: tuple[str, ...] = ("1", "2")
) -> None:
    """Write small images under `PATTERN`."""
    for i in range(num_images):
        key = f"line={lines[i % len(lines)]}/date={date}/im{i:05d}.png"
        lake.write(key, png(band_image(i)))


@pytest.fixture(scope="session")
def ray_cluster(s3_endpoint: str) -> Iterator[None]:
    """Ray on this machine, shared by the tests that score; sees the S3 server's credentials."""
    with contextlib.ExitStack() as cluster:
        # pytest replaces the stdout that keeps Ray's late notices out of what a command prints.
        quiet = cluster.enter_context(pytest.MonkeyPatch.context())
        quiet.setattr("ray._private.worker.print_to_stdstream", lambda *_, **__: None)
        with pytest.MonkeyPatch.context() as patch:
            init = functools.partialmethod(RayParams.__init__, worker_path=WORKER_PATH)
            patch.setattr(RayParams, "__init__", init)
            cluster.enter_context(joined_cluster(None))
        yield


@pytest.fixture(scope="module", autouse=True)
def no_actors_left() -> Iterator[None]:
    """Ray Data's own actors, which a command leaves where it joins, take 1 % of a CPU each."""
    yield
    if ray.is_initialized():
        end_named_actors()


def end_named_actors() -> None:
    """End the actors that outlive the process that started them."""
    for found in list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(found["name"], found["namespace"]))


def cluster_address() -> str:
    """Where another process joins this one's Ray; "auto" would find any that runs here."""
    return str(ray.get_runtime_context().gcs_address)


def score_config(images: Lake, store: Lake, engine: Path, **changes: object) -> ScoreConfig:
    """A configuration for `fill_lake`'s images."""
    settings: dict[str, object] = {
        "images": images.url,
        "store": store.url,
        "key_pattern": PATTERN,
        "engine": str(engine),
        "date": DATE,
        "shard_images": 8,
        "endpoint_url": images.endpoint_url or store.endpoint_url,
    }
    return ScoreConfig(**(settings | changes))  # type: ignore[arg-type]


def config_of(fields: dict[str, Any]) -> ScoreConfig:
    """A configuration from `dataclasses.asdict`, as other processes are given it in JSON."""
    return ScoreConfig(**(fields | {"limits": Limits(**fields["limits"])}))


def scope_of(config: ScoreConfig, store: Lake, source: Source | None = None) -> DateScope:
    """What a configuration names, with a store, or a source too, that is not an ordinary one."""
    if source is None:
        source = open_source(config.images, config.key_pattern, endpoint_url=config.endpoint_url)
    engine = load_engine(config.engine, store=store)
    return Scope(config=config, engine=engine, source=source, store=store).at(config.date)


def complete(scope: DateScope, observe: Observer = lambda _: None) -> RunResult:
    """Score a date in this process."""
    with contextlib.ExitStack() as cluster:
        return score_date(scope, observe, cluster)


def run_score(config: ScoreConfig) -> RunResult:
    """Score one date in this process."""
    (result,) = score(config, lambda _: None)
    return result


def committed_rows(store: Lake, table: str = "predictions") -> list[dict[str, object]]:
    """The rows that Delta readers see, without what differs between two runs.

    None before the tables are made: the holder of a lock may still be planning.
    """
    if any(find_table(store, name) is None for name in layout.TABLES):
        return []
    rows = run_query(store, f"SELECT * FROM {table} ORDER BY ALL").to_pylist()
    volatile = {"run_id", "scored_at", "at", "etag", "decoder"}  # the last is a setting of a run
    return [{k: v for k, v in row.items() if k not in volatile} for row in rows]
