"""A web service is told of alerts in the form that it takes, and never fails a run."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from steel_batch.alerts.webhook import check_url, send_alerts
from steel_batch.errors import ConfigError

SECRET = "T0KEN"  # noqa: S105 - none
ALERTS = ["quarantined > 0.005: it is 0.01.", "drift: Line 1 moved."]


class Service(HTTPServer):
    """A web service that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        self.server.got.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.got.append((self.path, None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_slack_and_teams_get_a_text(service: Service) -> None:
    assert send_alerts(f"{service.url}/hooks/{SECRET}", "a run", ALERTS) is None
    ((path, body),) = service.got
    assert path == f"/hooks/{SECRET}"
    assert body == {"text": "a run\n- " + "\n- ".join(ALERTS)}


def test_an_alertmanager_gets_a_list_of_which_each_has_labels(service: Service) -> None:
    assert send_alerts(f"{service.url}/api/v2/alerts", "a run", ALERTS) is None
    ((_, body),) = service.got
    assert [entry["annotations"]["summary"] for entry in body] == ALERTS
    assert len({tuple(sorted(entry["labels"].items())) for entry in body}) == 2
    assert all(entry["labels"]["alertname"] for entry in body)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_refusal_is_a_sentence_without_the_secret(service: Service, status: int) -> None:
    service.status = status
    said = send_alerts(f"{service.url}/hooks/{SECRET}", "a run", ALERTS)
    assert said == f"127.0.0.1 answered {status} to the alerts."
    assert len(service.got) == 1, "a redirect is not followed"


def test_nobody_there_or_no_answer_is_a_sentence(service: Service) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        said = send_alerts(f"http://127.0.0.1:{port}/{SECRET}", "r", ALERTS, timeout_seconds=0.2)
    assert said is not None
    assert "did not take the alerts" in said
    said = send_alerts(f"http://127.0.0.1:{port}/{SECRET}", "r", ALERTS, timeout_seconds=5)
    assert said is not None
    assert SECRET not in said


@pytest.mark.parametrize(
    "url", ["", "hooks.slack.com/T0KEN", "file:///etc/T0KEN", "http://", "http://a:b:c/T0KEN"]
)
def test_what_is_no_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="is no http") as raised:
        check_url(url)
    assert SECRET not in str(raised.value)
