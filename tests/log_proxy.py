"""A proxy before the S3 server that decides what becomes of writes to Delta logs.

Everything else passes untouched, so what is seen is delta-rs's and our own handling of one fault.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LOG_ENTRY = re.compile(r"/_delta_log/\d{20}\.json$")
PASS, LOSE_ANSWER, LOSE_REQUEST, CONFLICT = (
    "pass",
    "lose the answer",
    "lose the request",
    "conflict",
)


class LogProxy:
    """What is to become of the next writes of log entries.

    Args:
        upstream: The server's URL.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults: list[str] = []
        """One for each next write; the last one stands."""
        self.num_writes = 0
        self.ignored_headers: set[str] = set()
        """Of every request, as of a server that does not know them; in lower case."""
        self._lock = threading.Lock()

    def next_fault(self) -> str:
        with self._lock:
            self.num_writes += 1
            if not self.faults:
                return PASS
            return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]


@contextmanager
def log_proxy(upstream: str) -> Iterator[tuple[LogProxy, str]]:
    """The proxy and its URL."""
    proxy = LogProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_entry = self.command == "PUT" and LOG_ENTRY.search(urlsplit(self.path).path)
            fault = proxy.next_fault() if is_entry else PASS
            if fault == LOSE_REQUEST:
                self.close_connection = True
                return
            if fault == CONFLICT:
                self.answer(412, [], b"")
                return
            upstream = http.client.HTTPConnection(proxy.upstream, timeout=30)
            try:
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in proxy.ignored_headers
                }
                upstream.request(self.command, self.path, body, headers)
                found = upstream.getresponse()
                content = found.read()
            finally:
                upstream.close()
            if fault == LOSE_ANSWER:
                self.close_connection = True
                return
            self.answer(found.status, found.getheaders(), content)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            is_head = self.command == "HEAD"
            for name, value in headers:
                if name.lower() in ("connection", "transfer-encoding"):
                    continue
                if name.lower() == "content-length" and not is_head:
                    continue
                self.send_header(name, value)
            if not is_head:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
