"""No version of a library that is admitted, or installed here, has a known fault that bites."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ADVISORIES = tomllib.loads((ROOT / "advisories.toml").read_text())["advisory"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lower_bounds() -> dict[str, list[Version]]:
    """Each package's lower bounds, in the base install and in every extra."""
    found: dict[str, list[Version]] = {}
    extras = PROJECT["optional-dependencies"].values()
    for text in itertools.chain(PROJECT["dependencies"], *extras):
        requirement = Requirement(text)
        bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
        found.setdefault(requirement.name, []).extend(bounds)
    return found


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda advisory: advisory["id"])
def test_no_version_with_a_known_fault_is_admitted_or_installed(advisory: dict[str, str]) -> None:
    fixed = Version(advisory["fixed"])
    bounds = lower_bounds()[advisory["package"]]
    assert bounds
    assert all(bound >= fixed for bound in bounds)
    assert Version(version(advisory["package"])) >= fixed


def test_every_advisory_says_what_it_is_about() -> None:
    for advisory in ADVISORIES:
        assert set(advisory) == {"id", "package", "fixed", "what"}
    assert len({advisory["id"] for advisory in ADVISORIES}) == len(ADVISORIES)


@contextmanager
def advisories_of(package: str) -> Iterator[str]:
    """A server of advisories, in the form of osv.dev, that knows one fault of one package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            fault = {"vulns": [{"id": "X-1", "modified": "2026-01-01T00:00:00Z"}]}
            self._answer(
                {"results": [fault if q["package"]["name"] == package else {} for q in asked]}
            )

        def do_GET(self) -> None:
            self._answer({"id": "X-1", "modified": "2026-01-01T00:00:00Z", "affected": []})

        def _answer(self, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "audit", f"ADVISORIES_URL={url}"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


needs_uv = pytest.mark.skipif(
    not (ROOT / ".venv/bin/uv").exists(), reason="make audit runs .venv/bin/uv: make test has it"
)


@needs_uv
def test_audit_names_a_locked_version_with_a_published_fault() -> None:
    with advisories_of("ray") as url:
        done = audit(url)
    assert done.returncode != 0
    assert "ray 2." in done.stdout + done.stderr
    assert "X-1" in done.stdout + done.stderr


@needs_uv
def test_audit_passes_where_no_fault_is_published_or_no_server_answers() -> None:
    with advisories_of("no-package-of-ours") as url:
        done = audit(url)
    assert (done.returncode, "did not answer" in done.stdout) == (0, False), done
    gone = audit(url)
    assert gone.returncode == 0
    assert f"{url} did not answer: versions were not audited" in gone.stdout
