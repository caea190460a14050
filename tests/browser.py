"""A real browser for the pages that we make: Debian's chromium, without a window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pytest

CHROMIUM: Final = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="there is no chromium, and `make test` could not install Debian's package",
)
PROBE: Final = """<script>addEventListener("load", () => {{
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify({expression});
  document.body.replaceChildren(seen);
}})</script>"""
POLICY: Final = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
SEEN: Final = re.compile(r'<pre id="seen">(.*?)</pre>', re.DOTALL)


def ask_page(text: str, folder: Path, expression: str, *, width: int = 1100) -> Any:
    """The value of a JavaScript expression in a page, which its policy would not let run."""
    page = folder / "probed.html"
    page.write_text(POLICY.sub("", text) + PROBE.format(expression=expression), encoding="utf-8")
    dom = _run(page, folder, width, 800, "--dump-dom")
    found = SEEN.search(dom)
    assert found is not None, dom
    return json.loads(html.unescape(found[1]))


def photograph(text: str, folder: Path, *, width: int = 1100, height: int = 4000) -> np.ndarray:
    """A page as it is painted, [height, width, 3] BGR."""
    page, picture = folder / "page.html", folder / "page.png"
    page.write_text(text, encoding="utf-8")
    _run(page, folder, width, height, f"--screenshot={picture}")
    return np.asarray(cv2.imread(str(picture)))


def _run(page: Path, folder: Path, width: int, height: int, task: str) -> str:
    """What the browser prints; it finds nothing of a user's and asks nobody for anything."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--disable-dev-shm-usage", "--no-sandbox",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},{height}", task, page.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
