"""The tests' S3 server behind a proxy that delays each request and counts what it was asked.

A store in a region far away answers a small request after 20 to 50 ms, while a server on the same
machine takes one or two. The proxy is a process of its own and forwards requests as they are, many
at once: it limits nothing, and a command pays for each request that it waits for.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.conftest import s3_server, use_test_credentials

CONTROL: Final = "/__proxy__"
START_SECONDS: Final = 60.0
HEAD_BYTES: Final = 1 << 20
_NO_BODY: Final = (204, 304)


@dataclass(frozen=True, slots=True)
class DelayedS3:
    """A running server and its proxy."""

    direct: str
    """The server's own URL, for filling a bucket."""
    url: str
    """The proxy's URL, for what is measured."""
    log: Path | None = None
    """The server's own log, if it writes one: a line ``METHOD /path?query`` per request."""

    def requests(self) -> list[str]:
        """The requests so far, by the server's own log."""
        assert self.log is not None
        return self.log.read_text(encoding="utf-8").splitlines()

    def take_counts(self) -> dict[str, int]:
        """The requests since the last call, by kind."""
        return {str(kind): int(num) for kind, num in self._ask("counts").items()}

    def set_delay(self, seconds: float) -> None:
        """Delay each request from now on."""
        self._ask(f"delay/{seconds!r}")

    def _ask(self, what: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("GET", f"{CONTROL}/{what}")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found


@contextlib.contextmanager
def delayed_s3(seconds: float) -> Iterator[DelayedS3]:
    """Start a server and a proxy before it.

    Args:
        seconds: How long each request is held back.
    """
    use_test_credentials()
    give_up = time.monotonic() + START_SECONDS
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(give_up, "tests.s3_server", "decides", f"{folder}/requests.log") as direct,
    ):
        if direct is None:
            raise TimeoutError(f"no S3 server answered within {START_SECONDS:g} s")
        command = [sys.executable, "-m", "benchmarks.delayed_s3", direct, str(seconds)]
        proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert proxy.stdout is not None
            url = f"http://127.0.0.1:{int(proxy.stdout.readline())}"
            yield DelayedS3(direct, url, Path(folder) / "requests.log")
        finally:
            proxy.kill()
            proxy.wait()


class _Proxy:
    def __init__(self, upstream: str, seconds: float) -> None:
        self._host, _, port = urlsplit(upstream).netloc.partition(":")
        self._port = int(port)
        self._seconds = seconds
        self._counts: collections.Counter[str] = collections.Counter()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        """Of the connections: the event loop itself would let them be collected."""

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=HEAD_BYTES)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connected(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """Forward the requests of one connection, in order, over one to the server."""
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                if path.startswith(CONTROL):
                    answer.write(self._control(path))
                    continue
                if b"\r\nexpect:" in head.lower():
                    answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
                body = await _body(client, head)
                self._counts[kind_of(method, path)] += 1
                await asyncio.sleep(self._seconds)
                if server is None:
                    server = await asyncio.open_connection(self._host, self._port, limit=HEAD_BYTES)
                server[1].write(head + body)
                found = await server[0].readuntil(b"\r\n\r\n")
                status = int(found.split(b" ", 2)[1])
                is_bare = method == "HEAD" or status in _NO_BODY
                answer.write(found + (b"" if is_bare else await _body(server[0], found)))
                await answer.drain()
                if b"\r\nconnection: close" in found.lower():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._tasks.discard(task)
            for writer in (answer, *(server or ())[1:]):
                writer.close()

    def _control(self, path: str) -> bytes:
        what, _, value = path.removeprefix(f"{CONTROL}/").partition("/")
        text = b"{}"
        if what == "delay":
            self._seconds = float(value)
        else:
            text = json.dumps(self._counts).encode()
            self._counts.clear()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


def kind_of(method: str, path: str) -> str:
    """What a request is counted as: ``list`` for listings, else its method."""
    query = urlsplit(path).query
    return "list" if method == "GET" and ("list-type=" in query or "uploads" in query) else method


async def _body(stream: asyncio.StreamReader, head: bytes) -> bytes:
    """The bytes that follow the head of a request or an answer."""
    length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
    if length is not None:
        return await stream.readexactly(int(length[1]))
    if re.search(rb"(?i)\r\ntransfer-encoding:\s*chunked", head) is None:
        return b""
    body = b""
    while True:
        size = await stream.readuntil(b"\r\n")
        chunk = await stream.readexactly(int(size.partition(b";")[0], 16) + 2)
        body += size + chunk
        if chunk == b"\r\n":
            return body


if __name__ == "__main__":
    asyncio.run(_Proxy(sys.argv[1], float(sys.argv[2])).serve())
