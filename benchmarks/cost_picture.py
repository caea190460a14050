"""Draws what planning, listing, committing and a late image cost, by the number of images.

Measures nothing: it takes the newest lines of `benchmarks.night` (plan of a manifest, commit;
stores in a folder), of `benchmarks.plan` (listings; manifests of 28 November) and of
`benchmarks.late_image`.

    python -m benchmarks.cost_picture      # docs/images/cost_by_images.svg from the results
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.machine import RESULTS
from benchmarks.picture import draw

TARGET: Final = RESULTS.parents[1] / "docs/images/cost_by_images.svg"
STAGES: Final = {
    "plan": "plan of a manifest",
    "commit": "commit",
}
LISTINGS: Final = ("listing", "simulated")
MILLION: Final = 1e6

Curves = dict[tuple[str, str], dict[float, float]]


def lines(name: str) -> Iterator[dict[str, Any]]:
    """The measured lines of a benchmark, oldest first."""
    for text in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        yield json.loads(text)


def curves_of_nights() -> Curves:
    """CPU seconds by stage and number of images, of stores in a folder."""
    curves: Curves = {}
    for line in lines("night"):
        stages = line.get("stages", {})
        if line.get("latency_seconds") or not all(
            "cpu_seconds_per_million" in s for s in stages.values()
        ):
            continue
        for stage, name in STAGES.items():
            per_million = stages[stage]["cpu_seconds_per_million"]
            curve = curves.setdefault((name, "now"), {})
            curve[line["images"]] = per_million * line["images"] / MILLION
    return curves


def curves_of_plans() -> Curves:
    """CPU seconds of plans by number of images: listings, and what the earlier build took."""
    curves: Curves = {}
    for line in lines("plan"):
        for case in ("manifest", *LISTINGS):
            name = "plan of a listing" if case in LISTINGS else "plan of a manifest"
            for build, figures in line.get(case, {}).items():
                is_of_a_night = name == "plan of a manifest" and build == "this"
                if is_of_a_night or not isinstance(figures, dict):
                    continue
                variant = "now" if build == "this" else "28 November"
                curve = curves.setdefault((name, variant), {})
                curve[figures["num_images"]] = figures["cpu_seconds"]
    return curves


def curves_of_late_images() -> Curves:
    """CPU seconds of a plan with one late image, by number of images that have a row."""
    seconds = {
        line["images"]: line["now"]["cpu_seconds_per_million"] * line["images"] / MILLION
        for line in lines("late_image")
    }
    return {("late image", "now"): seconds}


def main() -> None:
    curves = curves_of_nights() | curves_of_plans() | curves_of_late_images()
    draw(dict(sorted(curves.items())), x="images", y="CPU seconds", target=TARGET)


if __name__ == "__main__":
    main()
