"""An S3 server that decides between two writers of one object, or does not, as some do not.

    python -m tests.s3_server KIND [LOG] PORT

It is moto's server behind a few lines for puts with the condition ``If-None-Match``:

- ``decides``: one after the other, as moto by itself lets two of eight concurrent ones succeed.
- ``ignores``: conditions have no effect, ``If-Match`` of reads included.
- ``refuses``: 501 to every conditional put.
- ``late``: a writer that comes later gets 412, and of concurrent ones all succeed: whether there is
  an object is looked up first, and what is put stands when all that looked together have put.

A page of a listing has 1,000 keys, and only `SMALL_PAGE` in a bucket named `SMALL_PAGES`.

With LOG, a line ``METHOD /path?query`` per request is appended to that file.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

KINDS = ("decides", "ignores", "refuses", "late")
WINDOW_SECONDS = 0.5
"""Puts of one key that begin within it are concurrent."""
SMALL_PAGES = "small-pages"
"""Such a bucket shows with a few objects what another one shows with a thousand."""
SMALL_PAGE = 10
REFUSAL = (
    b"<Error><Code>NotImplemented</Code><Message>A header that you provided implies a function "
    b"that is not implemented.</Message></Error>"
)
App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Server:
    """The server as a WSGI application.

    Args:
        app: moto's.
        kind: One of `KINDS`.
        log: File of the requests.
    """

    def __init__(self, app: App, kind: str, log: TextIO | None = None) -> None:
        self._app = app
        self._kind = kind
        self._log = log
        self._lock = threading.Lock()
        self._opened: dict[str, float] = {}

    def __call__(self, request: dict[str, Any], start: Any) -> Iterable[bytes]:
        """Answer one request."""
        if self._log is not None:
            path, query = request["PATH_INFO"], request["QUERY_STRING"]
            self._log.write(f"{request['REQUEST_METHOD']} {path}{'?' if query else ''}{query}\n")
        if request["PATH_INFO"].strip("/") == SMALL_PAGES:
            request["QUERY_STRING"] += f"&max-keys={SMALL_PAGE}"
        if self._kind == "ignores":
            request.pop("HTTP_IF_MATCH", None)
        is_write = request["REQUEST_METHOD"] in ("PUT", "POST")
        if not is_write or "HTTP_IF_NONE_MATCH" not in request:
            return self._app(request, start)
        if self._kind == "decides":
            with self._lock:
                return self._app(request, start)
        if self._kind == "refuses":
            start("501 Not Implemented", [("Content-Type", "application/xml")])
            return [REFUSAL]
        if self._kind == "ignores" or self._is_concurrent(request["PATH_INFO"]):
            del request["HTTP_IF_NONE_MATCH"]
        return self._app(request, start)

    def _is_concurrent(self, key: str) -> bool:
        """Whether this is one of several puts that began together, of which none is refused."""
        with self._lock:
            first = self._opened.setdefault(key, time.monotonic())
        if time.monotonic() - first > WINDOW_SECONDS:
            return False
        time.sleep(WINDOW_SECONDS)
        return True


if __name__ == "__main__":
    from moto.moto_server.werkzeug_app import create_backend_app  # most of a second
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    kind, *log, port = sys.argv[1:]
    opened = Path(log[0]).open("a", buffering=1, encoding="utf-8") if log else None  # noqa: SIM115
    # Not moto's dispatcher, which looks for all of its modules on disk at every request.
    wrapped = Server(create_backend_app("s3"), kind, opened)
    run_simple("127.0.0.1", int(port), wrapped, threaded=True)
