"""Draw how accurate and how fast each shape of network is, from the measured lines of an H200.

    python -m benchmarks.gpu.shapes_picture [--out docs/images/shapes.svg]

Dice is the mean of all trainings of as many steps without a teacher; the line goes from the lowest
to the highest. Speed is the fastest measurement of the engine alone, at any
batch size.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any, Final

ROOT = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results" / "h200.jsonl"
COMPILED: Final = {"r10_s4_narrow": 10_904, "r10_c16_48": 14_926, "r10_c16_32": 17_613}
"""Images per second under ``torch.compile``, FP16, batches of 64, CUDA graphs, 28 November 2026."""
SHOWN: Final = ("r18", "r10_s4_narrow", "r10_c16_48", "r10_c16_32")
COLORS: Final = {1500: "#b9770e", 3000: "#1b6ca8"}
WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 760, 440, 70, 24, 500, 350
MOST_RATE, LEAST_DICE, MOST_DICE = 20_000, 0.930, 0.960


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "shapes.svg")
    args = parser.parse_args()
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    dice, rates = dice_of(rows), rates_of(rows)
    args.out.write_text(picture(dice, rates), encoding="utf-8")
    for (shape, steps), trainings in sorted(dice.items()):
        rate = {kind: rates[shape, kind] for kind in ("fp16", "int8") if (shape, kind) in rates}
        print(shape, steps, "steps:", len(trainings), "trainings,", round(mean(trainings), 4), rate)


def dice_of(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[float]]:
    """Present-only Dice of each training, by shape and steps."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        is_plain = row.get("benchmark") == "gpu_shapes" and not row.get("teachers")
        if is_plain and row.get("shape") in SHOWN and row.get("steps") in COLORS:
            found[row["shape"], row["steps"]].append(row["mean_present_dice"])
    return found


def rates_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """The fastest engine of each shape and precision, in images per second."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        shape = row.get("shape") or row.get("engine", "").partition("-")[0].replace(".", "_")
        precision = "int8" if ", int8" in row.get("runtime", "") else "fp16"
        rate = max(_rates(row), default=0.0)
        if rate and shape in SHOWN:
            found[shape, precision] = max(found[shape, precision], rate)
    return found


def _rates(row: dict[str, Any]) -> Iterator[float]:
    if row.get("benchmark") == "gpu_score":
        yield row.get("engine_images_per_second") or 0.0
    elif row.get("benchmark") == "gpu_engine":
        yield from row["images_per_second"]
    elif row.get("masks") == "from squares" and "images_per_second" in row:
        yield from row["images_per_second"].values()


def picture(dice: dict[tuple[str, int], list[float]], rates: dict[tuple[str, str], float]) -> str:
    """The SVG file's text."""

    def x_of(rate: float) -> float:
        return LEFT + PLOT_WIDTH * rate / MOST_RATE

    def y_of(value: float) -> float:
        return TOP + PLOT_HEIGHT * (MOST_DICE - value) / (MOST_DICE - LEAST_DICE)

    bottom, parts = TOP + PLOT_HEIGHT, []
    for rate in range(0, MOST_RATE + 1, 5000):
        parts.append(_line(x_of(rate), TOP, x_of(rate), bottom))
        parts.append(_text(x_of(rate), bottom + 18, f"{rate:,}", "middle"))
    for step in range(7):
        value = LEAST_DICE + step * 0.005
        parts.append(_line(LEFT, y_of(value), LEFT + PLOT_WIDTH, y_of(value)))
        parts.append(_text(LEFT - 8, y_of(value) + 4, f"{value:.3f}", "end"))
    parts.append(_text(LEFT + PLOT_WIDTH / 2, bottom + 40, "engine alone, images/s", "middle"))
    parts.append(_text(LEFT - 40, TOP - 8, "mean present-only Dice", "start"))
    for (shape, steps), trainings in sorted(dice.items()):
        y, color = y_of(mean(trainings)), COLORS[steps]
        speeds = {
            "fp16": rates.get((shape, "fp16")),
            "int8": rates.get((shape, "int8")),
            "compiled": COMPILED.get(shape),
        }
        parts += [_mark(kind, x_of(speed), y, color) for kind, speed in speeds.items() if speed]
        x = x_of(speeds["fp16"] or 0)
        parts.append(_line(x, y_of(min(trainings)), x, y_of(max(trainings)), color))
        parts.append(_text(x, y_of(min(trainings)) + 18, shape, "middle"))
    key = LEFT + PLOT_WIDTH + 20
    names = {"fp16": "TensorRT 8.5.3, FP16", "int8": "TensorRT, INT8", "compiled": "torch.compile"}
    for row, (kind, name) in enumerate(names.items()):
        parts.append(_mark(kind, key + 6, TOP + 10 + 22 * row, "#333"))
        parts.append(_text(key + 20, TOP + 14 + 22 * row, name, "start"))
    for row, (steps, color) in enumerate(COLORS.items(), len(names)):
        parts.append(_line(key, TOP + 10 + 22 * row, key + 12, TOP + 10 + 22 * row, color))
        parts.append(_text(key + 20, TOP + 14 + 22 * row, f"{steps:,} steps", "start"))
    content = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{content}\n</svg>\n'
    )


def _mark(kind: str, x: float, y: float, color: str) -> str:
    if kind == "compiled":
        points = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
    fill = color if kind == "fp16" else "none"
    style = f'fill="{fill}" stroke="{color}" stroke-width="2"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}/>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str = "#ddd") -> str:
    width = 1 if color == "#ddd" else 2
    path = f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"
    return f'<path d="{path}" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    main()
