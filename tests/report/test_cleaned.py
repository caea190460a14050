"""What others wrote for a page is shown, and does nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.report.cleaned import cleaned

KEPT = {
    "b", "br", "div", "figcaption", "figure", "h1", "h2", "h3", "img", "line", "p", "polyline",
    "pre", "span", "svg", "table", "td", "text", "th", "tr",
}  # fmt: skip
PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ("<script>alert(1)</script>a", "a"),
        ("<SCRIPT\n>alert(1)</SCRIPT >a", "a"),
        ("<p onclick=alert(1)>a", "<p>a</p>"),
        ('<img src="https://elsewhere/a.png">', "<img>"),
        ('<img src="data:image/svg+xml;base64,AAAA">', "<img>"),
        (f'<img src="{PICTURE}" onerror="alert(1)">', f'<img src="{PICTURE}">'),
        ('<a href="javascript:alert(1)">a</a>', "a"),
        ('<meta http-equiv="refresh" content="0;url=https://elsewhere">a', "a"),
        ("<iframe src=x>inside</iframe>a", "a"),
        ('<form action=x><input name=token></form>a', "a"),
        ('<p style="background:url(https://elsewhere)">a', "<p>a</p>"),
        ('<p style="position:fixed;top:0">a', "<p>a</p>"),
        ("<style>p{background:url(x)}</style>a", "a"),
        ("<svg><script>alert(1)</script><line x1=0></svg>", '<svg><line x1="0"></line></svg>'),
        ("<svg><foreignObject>a", "<svg>a</svg>"),
        ("<p>a<!-- <script>b</script> --></p>", "<p>a</p>"),
        ("</p></div>a", "a"),
        ("a &lt;script&gt; b", "a &lt;script&gt; b"),
        ("a\x1b[31m\u202eb", "a\\x1b[31m\\u202eb"),
        ('<td style="background:rgba(21,101,192,0.10)">1',
         '<td style="background:rgba(21,101,192,0.10)">1</td>'),
    ],
)  # fmt: skip
def test_what_acts_or_loads_is_left_out_and_what_is_shown_stays(page: str, left: str) -> None:
    assert cleaned(page) == left


@given(st.text("<>/=\"'! abcdefghijklmnopqrstuvwxyz-:;&#(){}\n", max_size=200))
def test_of_any_text_only_known_tags_come_out_and_each_is_closed(page: str) -> None:
    found = re.findall(r"<(/?)([^\s>/]*)", cleaned(page))
    assert {tag for _, tag in found} <= KEPT
    opened = [tag for end, tag in found if not end and tag not in ("img", "br")]
    assert sorted(opened) == sorted(tag for end, tag in found if end)
