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


FAINT: Final = """(() => {
  const parts = color => color.match(/[0-9.]+/g).map(Number);
  const over = (front, back) => {
    const [r, g, b, a = 1] = front;
    return [r, g, b].map((value, i) => a * value + (1 - a) * back[i]);
  };
  const light = color => color.map(value => value / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => element === null ? [255, 255, 255]
    : over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
    if (!text || ["SCRIPT", "STYLE"].includes(parent.tagName)) continue;
    const style = getComputedStyle(parent), back = behind(parent);
    const front = parts(parent instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [light(over(front, back)), light(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push(`${text}: ${ratio.toFixed(1)}`);
  }
  return {back: light(behind(document.body)), found};
})()"""
"""Texts that have less contrast to what is behind them than WCAG 2.2 asks for (level AA)."""


def faint_texts(text: str, folder: Path, *, is_dark: bool) -> list[str]:
    """The texts of a page that are hard to read, in a browser set to a dark or a light scheme."""
    seen = ask_page(text, folder, FAINT, is_dark=is_dark)
    assert (seen["back"] < 0.1) == is_dark, "the page follows the reader's scheme"
    return list(seen["found"])


def ask_page(
    text: str, folder: Path, expression: str, *, width: int = 1100, is_dark: bool = False
) -> Any:
    """The value of a JavaScript expression in a page, which its policy would not let run."""
    page = folder / "probed.html"
    page.write_text(POLICY.sub("", text) + PROBE.format(expression=expression), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"
    dom = _run(page, folder, width, 800, scheme, "--dump-dom")
    found = SEEN.search(dom)
    assert found is not None, dom
    return json.loads(html.unescape(found[1]))


def photograph(text: str, folder: Path, *, width: int = 1100, height: int = 4000) -> np.ndarray:
    """A page as it is painted, [height, width, 3] BGR."""
    page, picture = folder / "page.html", folder / "page.png"
    page.write_text(text, encoding="utf-8")
    _run(page, folder, width, height, f"--screenshot={picture}")
    return np.asarray(cv2.imread(str(picture)))


def num_near(painted_HWC: np.ndarray, color_BGR: tuple[int, int, int]) -> int:
    """How many pixels have a color, to within two of each channel's 255 levels."""
    color = np.array(color_BGR)
    low, high = np.clip(color - 2, 0, 255), np.clip(color + 2, 0, 255)
    return int(np.count_nonzero(cv2.inRange(painted_HWC, low, high)))


def _run(page: Path, folder: Path, width: int, height: int, *flags: str) -> str:
    """What the browser prints; it finds nothing of a user's and asks nobody for anything."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--disable-dev-shm-usage", "--no-sandbox",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},{height}", *flags, page.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
