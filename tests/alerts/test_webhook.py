"""A web service is told of alerts in the form that it takes, and never fails a run."""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from steel_batch.alerts.webhook import check_url, send_alerts
from steel_batch.errors import ConfigError
from tests.alerts.service import Service
from tests.alerts.service import service as service

SECRET = "T0KEN"  # noqa: S105 - none
ALERTS = ["quarantined > 0.005: it is 0.01.", "drift: Line 1 moved."]


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


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        (f"user:{SECRET}", f"user:{SECRET}"),
        (f"us%40er:{SECRET}%3A%2f%C3%A4%ff", f"us@er:{SECRET}:/\u00e4\udcff"),
        (f"a:b:{SECRET}@c", f"a:b:{SECRET}@c"),
        (SECRET, f"{SECRET}:"),
        (f":{SECRET}", f":{SECRET}"),
    ],
)
def test_a_user_and_password_are_sent_as_basic_authentication(
    service: Service, login: str, sent: str
) -> None:
    url = service.url.replace("://", f"://{login}@") + "/hook?a=b"
    check_url(url)
    assert send_alerts(url, "a run", ALERTS) is None
    (header,) = service.logins
    scheme, _, credentials = str(header).partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(credentials) == sent.encode(errors="surrogateescape")
    assert [path for path, _ in service.got] == ["/hook?a=b"]
    service.status = 401
    assert send_alerts(url, "a run", ALERTS) == "127.0.0.1 answered 401 to the alerts."


@pytest.mark.parametrize("login", ["", "@", ":@"])
def test_without_a_user_and_password_none_are_sent(service: Service, login: str) -> None:
    assert send_alerts(service.url.replace("://", f"://{login}"), "a run", ALERTS) is None
    assert service.logins == [None]


@pytest.mark.parametrize("login", [f"us%3Aer:{SECRET}", f"user:{SECRET}%0a", f"us%00er:{SECRET}"])
def test_a_login_that_basic_authentication_cannot_send_is_refused(login: str) -> None:
    with pytest.raises(ConfigError, match="Basic authentication cannot send") as raised:
        check_url(f"http://{login}@127.0.0.1/hook")
    assert SECRET not in str(raised.value)


def test_nobody_there_or_no_answer_is_a_sentence(service: Service) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        said = send_alerts(f"http://127.0.0.1:{port}/{SECRET}", "r", ALERTS, timeout_seconds=0.2)
    assert said is not None
    assert "did not take the alerts" in said
    for url in (f"http://127.0.0.1:{port}/{SECRET}", f"http://user:{SECRET}@127.0.0.1:{port}/"):
        said = send_alerts(url, "r", ALERTS, timeout_seconds=5)
        assert said is not None
        assert SECRET not in said
        assert "did not take the alerts" in said


class Odd(socketserver.TCPServer):
    """A service that answers with what it was given: at once, or each byte after a while."""

    def __init__(self, answer: bytes, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _OddHandler)
        self.answer, self.seconds = answer, seconds
        self.is_over = threading.Event()


class _OddHandler(socketserver.BaseRequestHandler):
    server: Odd

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(65536)
            if not self.server.seconds:
                self.request.sendall(self.server.answer)
                return
            for byte in self.server.answer:
                self.request.sendall(bytes([byte]))
                if self.server.is_over.wait(self.server.seconds):
                    return


@contextlib.contextmanager
def odd(answer: bytes, seconds: float = 0.0) -> Iterator[str]:
    with Odd(answer, seconds) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}/{SECRET}"
        made.is_over.set()
        made.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"", b"HTTP/9 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, b"HTTP/1.1 200 " + b"x" * 70_000,
    ],
    ids=["ssh", "tls", "nothing", "no status", "many headers", "long line"],
)  # fmt: skip
def test_what_is_no_web_service_is_a_sentence(answer: bytes) -> None:
    with odd(answer) as url:
        said = send_alerts(url, "a run", ALERTS, timeout_seconds=20)
    assert said is not None
    assert said.startswith("127.0.0.1 did not ")
    assert SECRET not in said


def test_an_answer_that_never_ends_is_not_waited_for() -> None:
    with odd(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20, seconds=0.1) as url:
        started = time.monotonic()
        said = send_alerts(url, "a run", ALERTS, timeout_seconds=0.5)
        assert time.monotonic() - started < 5
    assert said == "127.0.0.1 did not take the alerts: timed out."


@pytest.mark.parametrize(
    "url", ["", "hooks.slack.com/T0KEN", "file:///etc/T0KEN", "http://", "http://a:b:c/T0KEN",
            "http://a/T0KEN b", "http://a/T0KEN\x01", "http://a/T0KEN\u00e4"]
)  # fmt: skip
def test_what_is_no_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="is no http") as raised:
        check_url(url)
    assert SECRET not in str(raised.value)
