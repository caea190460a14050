"""A pretend bucket of any number of objects: answers ListObjectsV2 and HEAD, and nothing else.

No object exists; pages are made as they are asked for. Keys are
``part=P/line=L/date=D/NNNNNNNNNNNN.jpg`` with `PARTS` parts, so that many pages are asked for at
once. Run as a process of its own: ``python -m benchmarks.pretend_s3 NUM_KEYS LATENCY_MS``; it
prints its port, and its counts of requests when it is asked for ``/counts``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PARTS = 64
PAGE = 1000
DATE = "2026-11-21"
ETAG = "0123456789abcdef"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    "<MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>"
)


class Bucket(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    num_keys = 0
    latency_seconds = 0.0
    num_requests = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/counts":
            self._answer(json.dumps({"requests": self.num_requests}).encode())
            return
        with self.lock:
            type(self).num_requests += 1
        time.sleep(self.latency_seconds)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        if delimiter:
            self._answer(self._folders(prefix))
        else:
            self._answer(self._page(prefix, int(query.get("continuation-token", 0))))

    def do_HEAD(self) -> None:
        with self.lock:
            type(self).num_requests += 1
        time.sleep(self.latency_seconds)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _folders(self, prefix: str) -> bytes:
        depth = prefix.count("/")
        if depth == 0:
            found = [f"part={part}/" for part in range(PARTS)]
        elif depth == 1:
            found = [f"{prefix.partition('/')[0]}/line=1/"]
        else:
            found = [f"{'/'.join(prefix.split('/')[:2])}/date={DATE}/"]
        items = "".join(f"<CommonPrefixes><Prefix>{p}</Prefix></CommonPrefixes>" for p in found)
        return f"{_HEAD}<IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    def _page(self, prefix: str, start: int) -> bytes:
        part = prefix.partition("/")[0]
        if not part.startswith("part=") or prefix.count("/") < 3:
            return f"{_HEAD}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
        number = int(part.removeprefix("part="))
        num_keys = self.num_keys // PARTS + (number < self.num_keys % PARTS)
        stop = min(start + PAGE, num_keys)
        folder = "/".join(prefix.split("/")[:3])
        items = [
            f"<Contents><Key>{folder}/{i:012d}.jpg</Key>"
            "<LastModified>2026-11-21T03:00:00.000Z</LastModified>"
            f"<ETag>&quot;{ETAG}{i:016x}&quot;</ETag><Size>{20_000 + i % 9973}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for i in range(start, stop)
        ]
        more = stop < num_keys
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if more else ""
        head = f"{_HEAD}<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return f"{head}{''.join(items)}</ListBucketResult>".encode()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    Bucket.num_keys, Bucket.latency_seconds = int(sys.argv[1]), float(sys.argv[2]) / 1000
    with Server(("127.0.0.1", 0), Bucket) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
