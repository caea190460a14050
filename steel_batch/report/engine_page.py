"""An engine's card as a page: one HTML file without scripts or external resources.

Text from users is escaped. Training adds its curves and images to the same page.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from steel_batch.errors import printable
from steel_batch.registry.card import Card
from steel_batch.registry.evidence import class_figures, too_few
from steel_batch.registry.figures import UNKNOWN, as_text, known_figures
from steel_batch.registry.versions import Engine
from steel_batch.report.cleaned import cleaned

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
"""What a page may do, whatever is in it: have styles of its own and pictures that it holds."""
LONG_WORD: Final = 24
"""Characters of a word in a table that may be broken anywhere: digests and keys."""
LONG_TEXT: Final = 32
"""Characters of a cell that may be broken: sentences. Shorter ones, as numbers with a unit, are
kept in one line where the page's style says so."""
STYLE: Final = """
:root{color-scheme:light dark;--back:#fff;--text:#222;--weak:#555;--rule:#ddd;--code:#f5f5f5;
--curve:#1565c0}
@media screen and (prefers-color-scheme:dark){:root{--back:#141414;--text:#e8e8e8;--weak:#a6a6a6;
--rule:#3d3d3d;--code:#222;--curve:#56b4e9}}
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;
background:var(--back);color:var(--text)}
h1{overflow-wrap:anywhere}h2{margin-top:2em}
.wide{overflow-x:auto;background:
linear-gradient(90deg,var(--back) 60%,transparent) 0/2.5em 100% no-repeat local,
linear-gradient(270deg,var(--back) 60%,transparent) 100%/2.5em 100% no-repeat local,
linear-gradient(90deg,#7777,transparent) 0/1em 100% no-repeat scroll,
linear-gradient(270deg,#7777,transparent) 100%/1em 100% no-repeat scroll}
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}
td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child,.facts td{text-align:left}
.facts td:last-child{overflow-wrap:anywhere}
figure{margin:1em 0}figcaption{color:var(--weak);overflow-wrap:anywhere}
.images{display:flex;flex-wrap:wrap;gap:0 1em}.images figure{max-width:100%}
.plot{width:440px}
img,svg{max-width:100%;height:auto;display:block}
svg text{fill:var(--weak)}svg line{stroke:var(--rule)}
svg polyline{stroke:var(--curve)}svg circle{fill:var(--curve)}
pre{background:var(--code);padding:1em;overflow:auto}
.long{overflow-wrap:anywhere;min-width:9em}
@media(max-width:600px){td,th{padding:.2em .25em;font-size:11px;line-height:1.3}
.wide{margin-right:-1em}}
@media print{body{font-size:11px;max-width:none;margin:0;padding:0}h2,h3,h2+p{break-after:avoid}
td,th{padding:.2em .5em}figure,tr{break-inside:avoid}.wide{overflow:visible;background:none}
.images{display:block}.images .plot{display:inline-block;width:47%;margin:.4em 2% .4em 0}}
"""
"""Colours of a curve are set here, over those that pages of earlier builds have in their SVG."""


def page_of(engine: Engine) -> str:
    """The page stored next to an engine's card; if there is none, a page made from the card.

    Whoever can write a registry can write any page there: its text, tables and pictures are kept,
    and nothing that runs or loads anything.
    """
    found = engine.read_report()
    return render_page(engine.card) if found is None else _document(engine.card, cleaned(found))


def render_page(card: Card, *, training: str = "", images: str = "") -> str:
    """Render an engine's page.

    Args:
        card: Card of the engine that the page describes.
        training: HTML about the training.
        images: HTML with example images and the defects that the engine found on them.
    """
    figures = known_figures(card.metrics, card.classes)
    parts = [
        f"<h1>{escape(card.name)}</h1>",
        _facts(card),
        *(f"<p>{escape(note)}</p>" for note in card.notes),
        "<h2>Classes</h2>",
        _classes(card),
    ]
    if "confusion" in figures:
        parts += [
            "<h2>Confusion</h2>",
            "<p>Each row: the share of its true pixels that were predicted as each column.</p>",
            _confusion(("background", *card.classes), figures["confusion"]),
        ]
    if figures.get("calibration"):
        parts += [
            "<h2>Calibration</h2>",
            "<p>Images and classes grouped by peak probability, in tenths: the share that really "
            "has the class. If it is near the mean peak, the peak is a usable probability.</p>",
            _calibration(figures["calibration"]),
        ]
    if training:
        parts += ["<h2>Training</h2>", training]
    if images:
        parts += ["<h2>Images</h2>", images]
    parts += ["<h2>Files</h2>", _files(card)]
    for title, content in (("Recipe", card.recipe), ("Environment", card.environment)):
        if content:
            text = json.dumps(dict(content), indent=1, sort_keys=True, ensure_ascii=False)
            parts.append(f"<h2>{title}</h2><pre>{escape(text)}</pre>")
    return _document(card, printable("".join(parts)))


def _document(card: Card, content: str) -> str:
    """A page of our own around HTML that is safe, which may load nothing and run nothing."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(printable(card.name))}</title><style>{STYLE}</style>{content}</html>\n"
    )


def table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Any]],
    shades: Sequence[Sequence[float]] = (),
    *,
    texts: Collection[str] = (),
) -> str:
    """An HTML table.

    Args:
        titles: Titles of its columns; "" for none.
        rows: Its cells, which are escaped.
        shades: How strongly each cell is shaded, 0 to 1, except the first of a row.
        texts: Titles of the columns besides the first whose cells are words, not numbers.
    """
    kinds = [["text"] if title in texts else [] for title in titles]
    head = "".join(
        f'<th class="text">{escape(title)}</th>' if kind else f"<th>{escape(title)}</th>"
        for title, kind in zip(titles, kinds, strict=True)
    )
    body = ""
    for y, row in enumerate(rows):
        body += "<tr>"
        for x, value in enumerate(row):
            shade = shades[y][x - 1] if shades and 0 < x <= len(shades[y]) else 0.0
            style = f' style="background:rgba(21,101,192,{shade / 2:.2f})"' if shade >= 0.01 else ""
            text = str(value)
            is_long = len(text) > LONG_TEXT or max(map(len, text.split()), default=0) > LONG_WORD
            names = " ".join([*kinds[x], *(["long"] if is_long else [])])
            kind = f' class="{names}"' if names else ""
            body += f"<td{kind}{style}>{escape(text)}</td>"
        body += "</tr>"
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _facts(card: Card) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{text}</td></tr>" for name, text in _fact_rows(card)
    )
    return f'<table class="facts">{rows}</table>'


def _fact_rows(card: Card) -> Iterator[tuple[str, str]]:
    """Yield names with their values as HTML."""
    figures, network = known_figures(card.metrics, card.classes), card.recipe.get("model")
    yield "made", escape(card.created)
    sizes = "scaled" if card.post_process.resize == "fit" else "quarantined"
    yield "input", f"{card.height}×{card.width} pixels of gray; images of other sizes are {sizes}"
    if isinstance(network, Mapping) and {"mean", "std"} <= set(network):
        scale = f"(gray / 255 − {network['mean']}) / {network['std']}, inside the graph"
        yield "normalised", escape(scale)
    for name, part in (("evaluated on", figures), ("validation", figures.get("validation", {}))):
        if "kaggle_dice" in part:
            yield (
                name,
                f"{_count(part.get('num_images'))} {'held-out ' if part is figures else ''}images: "
                f"{_headline(part, card.classes)}<br>"
                f"data {escape(str(part.get('data_digest')))}",
            )


def _headline(figures: Mapping[str, Any], classes: Sequence[str]) -> str:
    lack = too_few(figures, classes)
    if lack is not None:
        return f"<b>too few to compare</b> ({escape(lack)})"
    dice, iou = (as_text(figures.get(name), 4) for name in ("kaggle_dice", "mean_iou"))
    return f"Kaggle Dice <b>{dice}</b>, mIoU <b>{iou}</b>"


def _classes(card: Card) -> str:
    rows = []
    for c, row in enumerate(class_figures(card.metrics, card.classes)):
        shares = (row.present_dice, row.iou, row.recall, row.false_alarm_rate)
        post = card.post_process
        areas = (f"{post.min_area_px[c]:,}", f"{post.min_component_px[c]:,}")
        threshold = f"{card.thresholds[c]:.4g}"
        rows.append([row.name, row.images, *shares, threshold, *areas])
    titles = ("class", "images", "Dice where present", "IoU", "recall", "false alarms",
              "threshold", "min. area px", "min. component px")  # fmt: skip
    return table(titles, rows)


def _confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    rows, shades = [], []
    for name, row in zip(names, counts, strict=True):
        total = sum(row)
        shares = [count / total if total else None for count in row]
        rows.append([name, *map(as_text, shares), f"{total:,}"])
        shades.append([share or 0.0 for share in shares])
    return table(("truth", *names, "pixels"), rows, shades)


def _calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [as_text(b.get("mean_peak")), as_text(b.get("share_present")), _count(b.get("num_cases"))]
        for b in bins
    ]
    return table(("mean peak", "share with the class", "images × classes"), rows)


def _files(card: Card) -> str:
    agreement = known_figures(card.metrics, card.classes).get("agreement", {})
    rows = []
    for graph in card.graphs:
        checked = agreement.get(graph.precision, {})
        num_differing, num_pixels = (
            _count(checked.get(name)) for name in ("num_differing", "num_pixels")
        )
        differing = f"{num_differing} of {num_pixels}" if checked else UNKNOWN
        rows.append([graph.file, graph.precision, differing, graph.sha256])
    return table(("file", "precision", "pixels that differ from PyTorch", "SHA-256"), rows)


def _count(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"
