"""The page around a report: one HTML file that runs nothing, loads nothing, and prints.

Text is escaped by whoever puts it into HTML; control characters and direction marks become escapes
here.
"""

from __future__ import annotations

from html import escape
from typing import Final

from steel_batch.errors import printable
from steel_batch.report.engine_page import POLICY

NUM_COLORS: Final = 8
"""Series of a chart that have a colour of their own."""
STYLE: Final = """
:root{color-scheme:light dark;--back:#fff;--text:#1b1b1b;--weak:#5c5c5c;--rule:#d4d4d4;
--warn:#fff3d6;--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#b8568f;--s4:#a87600;--s5:#2b8cbe;
--s6:#6b6b6b;--s7:#7d55b5}
@media screen and (prefers-color-scheme:dark){:root{--back:#141414;--text:#e8e8e8;--weak:#a6a6a6;
--rule:#3d3d3d;--warn:#3a2e10;--s0:#56b4e9;--s1:#ff8a3d;--s2:#3cc79a;--s3:#e39ac4;--s4:#e8b53a;
--s5:#8ec9f0;--s6:#b4b4b4;--s7:#b79ae6}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:0 auto;padding:1em;
background:var(--back);color:var(--text)}
h1,h2,h3,p,li,.long,figcaption{overflow-wrap:anywhere}
h1{font-size:1.5em;margin:.3em 0}h2{margin:1.8em 0 .4em;font-size:1.25em;
border-bottom:1px solid var(--rule)}h3{margin:1em 0 .2em;font-size:1em}
p{max-width:75ch}
.wide{overflow-x:auto;background:
linear-gradient(90deg,var(--back) 60%,transparent) 0/2.5em 100% no-repeat local,
linear-gradient(270deg,var(--back) 60%,transparent) 100%/2.5em 100% no-repeat local,
linear-gradient(90deg,#7777,transparent) 0/1em 100% no-repeat scroll,
linear-gradient(270deg,#7777,transparent) 100%/1em 100% no-repeat scroll}
table{border-collapse:collapse;margin:.6em 0;font-variant-numeric:tabular-nums}
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid var(--rule)}
th{font-weight:600}th:first-child,td:first-child,td.text,th.text{text-align:left}
.long{min-width:9em}td:not(.long){white-space:nowrap}
.grid{display:flex;flex-wrap:wrap;gap:.4em 1.6em}
figure{margin:.6em 0;max-width:min(100%,570px)}
.chart{width:360px}
figcaption{color:var(--weak);font-size:.93em}.chart figcaption{color:var(--text)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--text);font-size:12px}
.axis{stroke:var(--rule)}.weak{fill:var(--weak)}
img{display:block;max-width:100%;height:auto}
.warnings{padding:.1em 1em .1em 2em;background:var(--warn);border-radius:4px}
.key{display:inline-block;width:1.6em;height:0;border-top:3px solid;vertical-align:middle;
margin:0 .3em 0 .8em}
@media(max-width:600px){td,th{padding:.15em .3em;font-size:12px;line-height:1.35}}
@media print{body{font-size:11px;max-width:none}h2,h3,h2+p{break-after:avoid}
figure,tr,li{break-inside:avoid}.wide{overflow:visible;background:none}
.grid{display:block}figure,.chart{display:inline-block;vertical-align:top;width:47%;
margin:.4em 2% .4em 0}}
""" + "".join(
    f".s{n}{{stroke:var(--s{n});border-color:var(--s{n})}}.f{n}{{fill:var(--s{n})}}\n"
    for n in range(NUM_COLORS)
)


def document(title: str, content: str) -> str:
    """A page around HTML that is safe."""
    return printable(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{content}</body></html>\n"
    )
