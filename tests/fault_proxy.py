"""A proxy before an S3 server that fails in the ways in which stores and networks do.

It is a process of its own, so that it answers whatever the tested process is busy with. What it
does is changed while it runs; which requests are hit follows from a seed and the requests' order.

    python -m tests.fault_proxy http://127.0.0.1:5000     # prints its own port
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CONTROL = "/__faults__"
REFUSALS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal_error": (500, "InternalError", "We encountered an internal error."),
    "access_denied": (403, "AccessDenied", "Access Denied"),
    "expired_token": (400, "ExpiredToken", "The provided token has expired."),
    "no_md5": (400, "InvalidRequest", "Missing required header for this request: Content-MD5"),
    "copy_too_large": (400, "InvalidRequest", "The specified copy source is larger than allowed."),
    "not_implemented": (501, "NotImplemented", "A header implies what is not implemented."),
}
"""Answers in the place of the server's."""
PASSING = (
    "slow_down", "internal_error", "reset_before", "reset_after", "short_body", "delay",
    "access_denied", "expired_token",
)  # fmt: skip
"""What a request that is made again gets over."""
LISTINGS = ("listing_repeats", "listing_forgets", "listing_invents")
"""Changes of a listing's answer: an entry twice, one missing, one that names no object."""
CHANGED_BYTE = "changed_byte"
"""An answer as long as the server's, of which one byte is another."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is done to requests."""

    share: float = 0.0
    """Number of matching requests that get the fault."""
    kinds: tuple[str, ...] = PASSING
    """One of these each, as likely as the others."""
    seed: int = 1
    only: str = ""
    """Regular expression over "METHOD path?query"; other requests pass."""
    delay_seconds: float = 3.0
    """How long ``delay`` holds an answer."""
    slow_above: int = 0
    """If not 0: the number of concurrent requests above which the answer is SlowDown."""
    expired_key: str = ""
    """Where not empty: requests that are signed with this access key are answered ExpiredToken."""
    work_seconds: float = 0.0
    """How long every answer takes at least."""
    refuses_others: bool = False
    """Whether requests that botocore has not made are answered AccessDenied."""
    wants_md5: bool = False
    """Whether deleting many objects needs the MD5 of the request, in addition to its checksum."""


class FaultProxy:
    """Starts a proxy, tells it what to do, and stops it; a `with` block.

    Args:
        upstream: The URL of the S3 server.
    """

    def __init__(self, upstream: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_proxy", upstream],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def set(self, faults: Faults) -> None:
        """Inject these faults from now on, and reset the counts."""
        self._control("PUT", json.dumps(asdict(faults)))

    def counts(self) -> Counter[str]:
        """Requests, hits by kind, and the most requests at once, since the last `set`."""
        return Counter(json.loads(self._control("GET")))

    @contextlib.contextmanager
    def doing(self, faults: Faults, seconds: float) -> Iterator[None]:
        """Do this for some seconds and then nothing, while the block runs."""
        self.set(faults)
        timer = threading.Timer(seconds, lambda: self.set(Faults()))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _control(self, method: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, CONTROL, body)
            return connection.getresponse().read().decode()


class _State:
    """What all connections share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_active = 0
        self.set(Faults())

    def set(self, faults: Faults) -> None:
        with self._lock:
            self.faults = faults
            self._random = random.Random(faults.seed)
            self._only = re.compile(faults.only)
            self.counts: Counter[str] = Counter()

    def begin(self, request: str, signature: str, agent: str) -> str | None:
        """Count a request; the fault that hits it, if one does."""
        with self._lock:
            faults = self.faults
            self._num_active += 1
            self.counts["requests"] += 1
            self.counts["most_at_once"] = max(self.counts["most_at_once"], self._num_active)
            if not self._only.search(request):
                return None
            if faults.expired_key and f"Credential={faults.expired_key}/" in signature:
                kind = "expired_token"
            elif faults.refuses_others and "boto" not in agent.lower():
                kind = "access_denied"
            elif faults.slow_above and self._num_active > faults.slow_above:
                kind = "slow_down"
            elif self._random.random() < faults.share:
                kind = self._random.choice(faults.kinds)
            else:
                return None
            self.counts[kind] += 1
            return kind

    def end(self) -> None:
        with self._lock:
            self._num_active -= 1

    def with_a_changed_byte(self, body: bytes) -> bytes:
        with self._lock:
            at = self._random.randrange(len(body)) if body else 0
            flipped = self._random.randrange(1, 256)
        return body[:at] + bytes(byte ^ flipped for byte in body[at : at + 1]) + body[at + 1 :]


class _Answer:
    """A server's answer, read whole."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class _Connection(BaseHTTPRequestHandler):
    """One client's connection: its requests, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    state: _State
    upstream: str
    _server: http.client.HTTPConnection | None = None

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client is gone
            self.close_connection = True

    def do_GET(self) -> None:
        if self.path == CONTROL:
            self._control()
            return
        signature = self.headers.get("Authorization", "")
        agent = self.headers.get("User-Agent", "")
        kind = self.state.begin(f"{self.command} {self.path}", signature, agent)
        try:
            self._serve(kind)
        finally:
            self.state.end()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def finish(self) -> None:
        super().finish()
        if self._server is not None:
            self._server.close()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _control(self) -> None:
        if self.command == "PUT":
            raw = json.loads(self._body())
            self.state.set(Faults(**{**raw, "kinds": tuple(raw["kinds"])}))
        body = json.dumps(self.state.counts).encode()
        self._send(_Answer(200, [], body))

    def _serve(self, kind: str | None) -> None:
        if kind == "reset_before":
            self._reset()
            return
        body = self._body()
        if self.state.faults.wants_md5 and self.command == "POST" and "delete" in self.path:
            digest = base64.b64encode(hashlib.md5(body).digest()).decode()  # noqa: S324
            names = {name.lower() for name in self.headers}
            has_other = any(name.startswith("x-amz-checksum-") for name in names)
            if self.headers.get("Content-MD5") != digest or not has_other:
                kind = "no_md5"
        if kind in REFUSALS:
            self._send(_refusal(kind))
            return
        time.sleep(self.state.faults.work_seconds)
        answer = self._forward(body)
        if kind == "reset_after":
            self._reset()
            return
        if kind == "delay":
            time.sleep(self.state.faults.delay_seconds)
        if kind in LISTINGS:
            answer.body = _changed(answer.body, kind)
        if kind == CHANGED_BYTE:
            answer.body = self.state.with_a_changed_byte(answer.body)
        self._send(answer, short=kind == "short_body")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> _Answer:
        """Forward to the server; a kept connection that it closed is opened again."""
        hop = ("connection", "expect", "transfer-encoding", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        if body or self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(body))
        for is_last in (False, True):
            if self._server is None:
                self._server = http.client.HTTPConnection(urlsplit(self.upstream).netloc)
            try:
                self._server.request(self.command, self.path, body or None, headers)
                answer = self._server.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self._server.close()
                self._server = None
                if is_last:
                    raise
            else:
                return _Answer(answer.status, answer.getheaders(), content)
        raise AssertionError

    def _send(self, answer: _Answer, *, short: bool = False) -> None:
        self.send_response_only(answer.status)
        is_head = self.command == "HEAD"
        for name, value in answer.headers:
            lower = name.lower()
            if lower in ("connection", "transfer-encoding") or (
                lower == "content-length" and not is_head
            ):
                continue
            self.send_header(name, value)
        if not is_head and answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if short and not is_head and answer.body:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.wfile.flush()
            self._reset() if len(answer.body) % 2 else self._close()
        elif not is_head:
            self.wfile.write(answer.body)

    def _reset(self) -> None:
        """End the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _close(self) -> None:
        self.close_connection = True


def _refusal(kind: str) -> _Answer:
    status, code, message = REFUSALS[kind]
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{message}</Message><RequestId>0</RequestId></Error>"
    )
    return _Answer(status, [("Content-Type", "application/xml")], text.encode())


def _changed(listing: bytes, kind: str) -> bytes:
    """A listing with its last entry twice, without it, or with one that is not there."""
    entries = re.findall(rb"<Contents>.*?</Contents>", listing, re.DOTALL)
    if not entries:
        return listing
    last = entries[-1]
    return listing.replace(
        last,
        {
            "listing_repeats": last + last,
            "listing_forgets": b"",
            "listing_invents": last + re.sub(rb"(\.\w+</Key>)", rb"-gone\1", last),
        }[kind],
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def shutdown_request(self, request: object) -> None:
        """Close at once: a shutdown would send FIN where RST is meant."""
        assert isinstance(request, socket.socket)
        self.close_request(request)


def main() -> None:
    handler = type("Connection", (_Connection,), {"state": _State(), "upstream": sys.argv[1]})
    with _Server(("127.0.0.1", 0), handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
