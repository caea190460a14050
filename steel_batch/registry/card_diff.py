"""Compares the cards of two engines; shows only what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steel_batch.registry.card import Card

LONG: Final = ("confusion", "calibration")
"""Tables in the metrics that differ whenever a figure does."""
ORDER: Final = (
    "created", "classes", "input", "resize", "thresholds", "min_area_px", "min_component_px",
    "graphs", "metrics", "recipe", "environment", "notes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One field that differs between two cards; None if a card lacks it."""

    name: str
    """Such as ``thresholds.scabs`` or ``recipe.model.encoder``."""
    a: Any
    b: Any


def differences(a: Card, b: Card) -> list[Difference]:
    """List what differs between two cards, in the order of a card.

    Per-class values are compared by the class's name, so renumbered classes are still compared with
    themselves; the field `classes` shows that the numbers differ.
    """
    of_a, of_b = dict(_facts(a)), dict(_facts(b))
    return [
        Difference(name=name, a=of_a.get(name), b=of_b.get(name))
        for name in sorted({**of_a, **of_b}, key=lambda name: ORDER.index(name.partition(".")[0]))
        if of_a.get(name) != of_b.get(name)
    ]


def judged_on_the_same(a: Card, b: Card) -> bool:
    """Whether the figures of two cards come from the same held-out images."""
    digest = a.metrics.get("data_digest")
    return digest is not None and digest == b.metrics.get("data_digest")


def _facts(card: Card) -> Iterator[tuple[str, Any]]:
    """Yield everything in a card, flattened and by name."""
    post = card.post_process
    yield "created", card.created
    yield "classes", list(card.classes)
    yield "input", f"{card.height}×{card.width}"
    yield "resize", post.resize
    for name in ("thresholds", "min_area_px", "min_component_px"):
        values = card.thresholds if name == "thresholds" else getattr(post, name)
        yield from _flat(name, _by_class(card.classes, values))
    for graph in card.graphs:
        yield f"graphs.{graph.precision}", f"{graph.file} {graph.sha256[:12]}"
    for name in ("metrics", "recipe", "environment"):
        yield from _flat(name, getattr(card, name), card.classes)
    yield "notes", list(card.notes)


def _flat(name: str, value: Any, classes: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, those of one level before deeper ones."""
    if not isinstance(value, Mapping):
        yield name, list(value) if isinstance(value, tuple) else value
        return
    for key in sorted(value, key=lambda key: isinstance(value[key], (Mapping, list, tuple))):
        part = value[key]
        if key == "classes" and isinstance(part, (list, tuple)) and len(part) == len(classes):
            yield from _flat(name, _by_class(classes, part))
        elif key not in LONG:
            yield from _flat(f"{name}.{key}", part, classes)


def _by_class(classes: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Values by class name; a number is added if two classes share a name."""
    return {
        name if classes.count(name) == 1 else f"{name} ({number})": value
        for number, (name, value) in enumerate(zip(classes, values, strict=True), start=1)
    }
