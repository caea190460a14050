"""A plant's machines: a Ray head that does not score, workers, an S3 server, and a client.

Nodes are started by the commands of docs/how-to/own-machines.md, behind firewalls that let in the
ports of that page.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ray

from steel_batch.lake import Lake
from tests.conftest import DATE, PATTERN, fill_lake
from tests.machines.network import Machine, Network
from tests.tiny_engine import write_tiny_engine

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/how-to/own-machines.md").read_text()
NODE_PORTS: Final = "6380-6385, 10002-10101"
HEAD_PORTS: Final = f"6379, 8265, {NODE_PORTS}"
S3: Final = "http://s3:9000"
TOKEN: Final = "0123456789abcdef" * 4
NUM_IMAGES: Final = 120
DECODE_SECONDS: Final = 1.0
SMALL: Final = ["--object-store-memory", str(100 << 20), "--disable-usage-stats"]
DECODER: Final = f'''
"""Decodes like the shipped function, and takes its time, so that a test can disturb it."""

import time

from steel_batch.images.decode import decode_gray

print("slow_decoder is loaded", flush=True)  # to this node's logs


def slow(data):
    time.sleep({DECODE_SECONDS})
    return decode_gray(data)
'''
FILL: Final = f"""
import pathlib, sys, urllib.request
from steel_batch.lake import Lake

urllib.request.urlopen(urllib.request.Request("{S3}/lake", method="PUT"))
for folder in ("images", "engine"):
    lake = Lake(f"s3://lake/{{folder}}", endpoint_url="{S3}")
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            lake.write(path.relative_to(folder).as_posix(), path.read_bytes())
"""
COUNT: Final = f"""
import sys, urllib.request

query = f"list-type=2&max-keys=1000&prefix={{sys.argv[1]}}/runs/"
print(urllib.request.urlopen(f"{S3}/lake?{{query}}").read().count(b"/receipts/"))
"""
READ: Final = f"""
import dataclasses, json, sys
from steel_batch.lake import Lake
from steel_batch.tables.query import run_query
from steel_batch.tables.verify import verify

store = Lake(f"s3://lake/{{sys.argv[1]}}", endpoint_url="{S3}")
tables = {{
    "predictions": "image_key, line, width, height, has_defect, peak, defects, engine, date",
    "class_summaries": "line, class_id, num_images, num_defective, defect_rate, area_p50_px",
    "quarantine": "image_key, error_code",
}}
rows = {{
    table: run_query(store, f"SELECT {{columns}} FROM {{table}} ORDER BY ALL").to_pylist()
    for table, columns in tables.items()
}}
problems = [dataclasses.asdict(problem) for problem in verify(store)]
print(json.dumps({{"rows": rows, "problems": problems}}, default=str))
"""
"""The rows of the three tables without what differs between two runs, and what `verify` finds."""
Rows = dict[str, list[dict[str, Any]]]


class Site:
    """The machines, on, with images and an engine in the S3 server.

    Args:
        network: What they are plugged into.
        scratch: For what is built on the way.
    """

    def __init__(self, network: Network, scratch: Path) -> None:
        self.network = network
        self._wheel = build_wheel(scratch)
        self.s3 = self._machine("s3", "9000")
        self.head = self._machine("head", HEAD_PORTS)
        self.client = self._machine("client", "1")
        self.workers = [self.new_worker(f"worker-{number}") for number in (1, 2)]
        self.s3.switch_on()
        self.s3.start("python", "-m", "moto.server", "-H", self.s3.address, "-p", "9000", log="s3")
        for machine in (self.head, self.client):
            machine.switch_on()
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)
        self._fill()
        for machine in (self.head, *self.workers):
            wait_until(lambda m=machine: is_up(m), f"{machine.name} to start Ray")

    def _machine(self, name: str, ports: str) -> Machine:
        machine = self.network.machine(name, ports=ports)
        packages = [Path(ray.__file__).parents[1], *other_packages()]
        machine.install(self._wheel, packages)
        site_of(machine).joinpath("slow_decoder.py").write_text(DECODER)
        token = machine.folder / "home/.ray/auth_token"
        token.parent.mkdir()
        token.write_text(TOKEN)
        token.chmod(0o600)
        machine.variables = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "RAY_AUTH_MODE": "token",
        }
        return machine

    def new_worker(self, name: str) -> Machine:
        """A worker that is off."""
        return self._machine(name, NODE_PORTS)

    def start_head(self) -> None:
        """Start Ray on the head, which is on."""
        (line,) = re.findall(r"^ray start --head .*", PAGE, re.MULTILINE)
        self.head.keep(*shlex.split(line), *SMALL, log="ray")

    def start_worker(self, worker: Machine) -> None:
        """Switch a worker on, with one CPU."""
        (line,) = re.findall(r"^ray start --address .*", PAGE, re.MULTILINE)
        worker.switch_on()
        worker.keep(*shlex.split(line), *SMALL, "--num-cpus", "1", log="ray")

    def _fill(self) -> None:
        home = self.client.folder / "home"
        fill_lake(Lake(str(home / "images")), num_images=NUM_IMAGES)
        write_tiny_engine(home / "engine")
        wait_until(lambda: answers(self.client), "the S3 server")
        self.client.run("python", "-c", FILL)

    def score_command(self, store: str, **flags: str) -> list[str]:
        """`score` with its flags; those of the test replace those here."""
        values = {
            "images": "s3://lake/images",
            "store": f"s3://lake/{store}",
            "endpoint-url": S3,
            "key-pattern": PATTERN,
            "date": DATE,
            "engine": "s3://lake/engine",
            "decoder": "slow_decoder:slow",
            "shard-images": "4",
            "cpus-per-actor": "1",
        } | {name.replace("_", "-"): value for name, value in flags.items()}
        return ["score", *(word for name, value in values.items() for word in (f"--{name}", value))]

    def submit(self, *command: str) -> subprocess.Popen[str]:
        """Submit a command from the client."""
        line = self.client.command(
            "steel-batch", "submit", "--address", "http://head:8265", *command
        )
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def num_receipts(self, store: str) -> int:
        """How many shards are scored."""
        return int(self.s3.run("python", "-I", "-S", "-c", COUNT, store).stdout)

    def wait_for_receipts(self, store: str, number: int, job: subprocess.Popen[str]) -> None:
        """Wait until a number of shards is scored."""
        while self.num_receipts(store) < number:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.3)

    def rows(self, store: str) -> Rows:
        """The rows of the three tables, where nothing is wrong with the store."""
        told = json.loads(self.client.run("python", "-c", READ, store).stdout)
        assert told["problems"] == []
        rows: Rows = told["rows"]
        return rows


@contextlib.contextmanager
def site(scratch: Path) -> Iterator[Site]:
    """The machines; none is left."""
    with Network() as network:
        yield Site(network, scratch)


def end_of(job: subprocess.Popen[str], seconds: float = 400.0) -> tuple[int, str]:
    """The exit code and text of what was submitted."""
    text, _ = job.communicate(timeout=seconds)
    print(text)
    return job.returncode, text


def wait_until(condition: Any, what: str, seconds: float = 300.0) -> None:
    """Wait for something that takes a while."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"waiting for {what} took more than {seconds:g} s"
        time.sleep(0.3)


def is_up(machine: Machine) -> bool:
    """Whether Ray says that it has started there, since the machine was switched on."""
    return num_starts_of(machine) > 0


def num_starts_of(machine: Machine) -> int:
    """How often Ray has started there since the machine was switched on."""
    return machine.log("ray").count("Ray runtime started")


def answers(client: Machine) -> bool:
    """Whether the S3 server does."""
    look = f"import urllib.request; urllib.request.urlopen('{S3}', timeout=1)"
    with contextlib.suppress(AssertionError):
        client.run("python", "-I", "-S", "-c", look)
        return True
    return False


def site_of(machine: Machine) -> Path:
    """Where the project is installed on a machine."""
    (found,) = machine.venv.glob("lib/python*/site-packages")
    return found


def other_packages() -> list[Path]:
    """Where else this interpreter finds packages that it did not get with Ray's."""
    return [Path(path) for path in sys.path if path.endswith("site-packages")]


def build_wheel(scratch: Path) -> Path:
    """The project's wheel, made from a copy, as building leaves folders behind."""
    source = scratch / "source"
    for part in ("steel_batch", "training", "jobs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, source / part, ignore=ignored)
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source / part)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--wheel-dir", str(scratch), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = scratch.glob("*.whl")
    return wheel
