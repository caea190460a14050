"""A page that others wrote, made of nothing but text, tables, figures and plots.

A registry's pages are read by people who trust this program, and may be written by whoever may
write the registry. What a page of ours is made of is kept; scripts, links, forms, frames, styles
and anything that is loaded from elsewhere are left out.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser
from typing import Final

from steel_batch.errors import printable

_VOID: Final = frozenset({"br", "img"})
_PLOT: Final = frozenset({"svg", "line", "polyline", "text", "circle"})
_KEPT: Final = _PLOT | _VOID | {
    "b", "div", "figcaption", "figure", "h1", "h2", "h3", "p", "pre", "span", "table", "td", "th",
    "tr",
}  # fmt: skip
_UNSHOWN: Final = frozenset({"script", "style", "title", "template", "noscript", "iframe"})
_ATTRIBUTES: Final = frozenset({
    "alt", "class", "cx", "cy", "dy", "fill", "font-size", "points", "r", "role", "src", "stroke",
    "stroke-width", "style", "text-anchor", "viewbox", "x", "x1", "x2", "y", "y1", "y2",
})  # fmt: skip
_PICTURE: Final = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]*")
_STYLE: Final = re.compile(r"(?:(?:color|background|padding):[\w#(), .]+;?\s*)*")


def cleaned(page: str) -> str:
    """The content of a page, as HTML that is safe to put into one of ours.

    Args:
        page: HTML of anybody.
    """
    reader = _Cleaner()
    reader.feed(page)
    reader.close()
    return "".join([*reader.parts, *(f"</{tag}>" for tag in reversed(reader.open))])


class _Cleaner(HTMLParser):
    """Writes what it reads again, from what it knows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self._unshown: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        if self._unshown is None and tag in _UNSHOWN:
            self._unshown = tag
        if self._unshown is not None or tag not in _KEPT:
            return
        said = "".join(
            f' {"viewBox" if name == "viewbox" else name}="{escape(printable(value or ""))}"'
            for name, value in attrs
            if _is_kept(name, value or "")
        )
        self.parts.append(f"<{tag}{said}>")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        if self._unshown is not None:
            if tag == self._unshown:
                self._unshown = None
        elif tag in self.open:
            while (last := self.open.pop()) != tag:
                self.parts.append(f"</{last}>")
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        if self._unshown is None:
            self.parts.append(escape(printable(data)))


def _is_kept(name: str, value: str) -> bool:
    if name not in _ATTRIBUTES:
        return False
    if name == "src":
        return _PICTURE.fullmatch(value) is not None
    return name != "style" or _STYLE.fullmatch(value) is not None
