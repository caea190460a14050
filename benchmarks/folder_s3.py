"""Files of a folder as objects of S3, read-only, each answer after a stated time, all counted.

moto's server reads an object whole for each range of it, which for tars of gigabytes takes longer
than any network. This one reads ranges from files, which may be sparse, so that a benchmark needs
neither the disk nor the memory of what it lists. It is a process of its own.

    python -m benchmarks.folder_s3 FOLDER SECONDS     # prints its port

The folders in FOLDER are the buckets.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

CONTROL: Final = "/__counts__"
PAGE: Final = 1000
KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
}  # fmt: skip
"""Environment of a client; signatures are not looked at."""


@dataclass(frozen=True, slots=True)
class FolderS3:
    """A running server."""

    url: str

    def take_counts(self) -> dict[str, int]:
        """Requests and bytes since the last call, and the most requests at once."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", CONTROL)
            found: dict[str, int] = json.loads(connection.getresponse().read())
        return found


@contextlib.contextmanager
def folder_s3(folder: Path, seconds: float) -> Iterator[FolderS3]:
    """Serve a folder whose folders are buckets.

    Args:
        folder: Only files that do not change.
        seconds: How long each answer takes at least.
    """
    command = [sys.executable, "-m", "benchmarks.folder_s3", str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield FolderS3(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


class _Server:
    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._counts: Counter[str] = Counter()
        self._num_active = 0
        self._listings: dict[str, list[tuple[str, int]]] = {}

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connected(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await client.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = lines[0].split(" ")
                fields = (line.partition(":") for line in lines[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in fields}
                if target == CONTROL:
                    self._send(answer, "200 OK", json.dumps(self._counts).encode())
                    self._counts.clear()
                    continue
                self._num_active += 1
                self._counts["requests"] += 1
                self._counts["most_at_once"] = max(self._counts["most_at_once"], self._num_active)
                await asyncio.sleep(self._seconds)
                self._answer(answer, method, target, headers)
                self._num_active -= 1
                await answer.drain()
        answer.close()

    def _answer(
        self, answer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str]
    ) -> None:
        parts = urlsplit(target)
        path, query = unquote(parts.path).strip("/"), parse_qs(parts.query)
        if "list-type" in query:
            self._send(answer, "200 OK", self._page(path, query))
            return
        file = self._folder / path
        if not file.is_file():
            body = b"<Error><Code>NoSuchKey</Code><Message>There is none.</Message></Error>"
            self._send(answer, "404 Not Found", b"" if method == "HEAD" else body)
            return
        size = file.stat().st_size
        first, last, status = 0, size - 1, "200 OK"
        stated = [f'ETag: "{size}"', "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT"]
        if "range" in headers:
            begin, _, end = headers["range"].removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
            status = "206 Partial Content"
            stated.append(f"Content-Range: bytes {first}-{last}/{size}")
        if method == "HEAD":
            self._send(answer, status, b"", [*stated, f"Content-Length: {size}"])
            return
        with file.open("rb", buffering=0) as stream:
            body = os.pread(stream.fileno(), last - first + 1, first)
        self._counts["bytes"] += len(body)
        self._send(answer, status, body, stated)

    def _page(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        listing = f"{bucket}/{prefix}"
        if listing not in self._listings:
            root = self._folder / bucket
            self._listings[listing] = sorted(
                (key, path.stat().st_size)
                for path in root.rglob("*")
                if path.is_file() and (key := str(path.relative_to(root))).startswith(prefix)
            )
        start = int(query.get("continuation-token", ["0"])[0])
        found = self._listings[listing]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{size}&quot;</ETag>"
            "<LastModified>2026-11-25T00:00:00.000Z</LastModified></Contents>"
            for key, size in found[start : start + PAGE]
        )
        is_last = start + PAGE >= len(found)
        token = "" if is_last else f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>"
        return (
            f"<ListBucketResult><IsTruncated>{str(not is_last).lower()}</IsTruncated>{token}"
            f"{entries}</ListBucketResult>"
        ).encode()

    def _send(
        self,
        answer: asyncio.StreamWriter,
        status: str,
        body: bytes,
        stated: Sequence[str] = (),
    ) -> None:
        lines = [f"HTTP/1.1 {status}", *stated]
        if not any(line.startswith("Content-Length") for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        answer.write("\r\n".join([*lines, "", ""]).encode())
        answer.write(body)


if __name__ == "__main__":
    asyncio.run(_Server(Path(sys.argv[1]), float(sys.argv[2])).serve())
