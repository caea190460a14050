"""The view `engines`: every engine that has a card or rows in a store."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.errors import ConfigError, EngineError, FormatError
from steel_batch.lake import Lake
from steel_batch.registry import aliases
from steel_batch.registry.aliases import AliasEntry
from steel_batch.registry.card import Card
from steel_batch.registry.versions import DEMO, list_models, list_versions, load_engine
from steel_batch.tables.committed import read_file
from steel_batch.tables.table_log import LiveFile

FIELDS: Final = pa.schema(
    [
        pa.field("engine", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("created", schema.INSTANT),
        pa.field("aliases", pa.list_(pa.string()), nullable=False),
        pa.field("classes", pa.list_(pa.string())),
        pa.field("thresholds", pa.list_(pa.float64())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("precisions", pa.list_(pa.string())),
        pa.field("figures", pa.map_(pa.string(), pa.float64())),
        pa.field("problem", pa.string()),
    ]
)
CLASSES: Final = pa.schema(
    [
        pa.field("engine", pa.string(), nullable=False),
        pa.field("class_id", pa.int8(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("threshold", pa.float64()),
    ]
)
"""The classes of each engine; other views take names and thresholds from here."""
_NAMES: Final = pa.schema(
    [schema.CLASS_SUMMARIES.field(name) for name in ("class_id", "class_name")]
)
NO_CARD: Final = "its card is not in this store"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The engines of a store: cards by name, or the error that reading one gave."""

    cards: Mapping[str, Card | EngineError | FormatError]
    moves: Mapping[str, Mapping[str, Sequence[AliasEntry]]]
    """The history of each alias, by model and alias."""

    def card(self, engine: str) -> Card | None:
        """Return an engine's card if it has an intact one."""
        found = self.cards.get(engine)
        return found if isinstance(found, Card) else None


def read_known(store: Lake, *, until: datetime.datetime | None = None) -> Known:
    """Read every card and alias of a store, and the card of the shipped engine.

    Args:
        store: The store.
        until: Ignore what was written later.
    """
    shipped = load_engine(DEMO, store=None).card
    cards: dict[str, Card | EngineError | FormatError] = {shipped.name: shipped}
    moves: dict[str, dict[str, list[AliasEntry]]] = {}
    for model in list_models(store):
        for version, card in list_versions(store, model).items():
            if until is None or not isinstance(card, Card) or _instant(card.created) <= until:
                cards[f"{model}-{version}"] = card
        moves[model] = {}
        for name in aliases.names(store, model):
            history = aliases.history(store, model, name)
            moves[model][name] = [
                move for move in history if until is None or _instant(move.at) <= until
            ]
    return Known(cards=cards, moves=moves)


def table_of_engines(known: Known, scored: Sequence[str]) -> pa.Table:
    """Return rows of `FIELDS`, by model and age.

    Args:
        known: The engines of the store.
        scored: Engines that have rows, including those whose card is elsewhere.
    """
    rows = [_row(known, name) for name in sorted({*known.cards, *scored})]
    rows.sort(key=lambda row: (row["model"], row["created"] or _instant(""), row["engine"]))
    return pa.Table.from_pylist(rows, schema=FIELDS)


def _row(known: Known, engine: str) -> dict[str, Any]:
    model, version = _split(engine)
    meant = {name: moves[-1].version for name, moves in known.moves.get(model, {}).items() if moves}
    row: dict[str, Any] = {
        "engine": engine, "model": model,
        "aliases": sorted(name for name, version_of in meant.items() if version_of == version),
    }  # fmt: skip
    card = known.cards.get(engine)
    if not isinstance(card, Card):
        return {**row, "created": None, "problem": NO_CARD if card is None else str(card)}
    return row | {
        "created": _instant(card.created),
        "classes": list(card.classes),
        "thresholds": list(card.thresholds),
        "width": card.width,
        "height": card.height,
        "precisions": [graph.precision for graph in card.graphs],
        "figures": dict(_figures(card.metrics, card.classes)),
        "problem": None,
    }


def _figures(metrics: Mapping[str, Any], classes: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield every number of a card's metrics with its name; for classes, with the class's name."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{rest}", each) for rest, each in _figures(value, classes))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, float(value)
        elif name == "classes" and isinstance(value, Sequence) and len(value) == len(classes):
            for class_name, entry in zip(classes, value, strict=True):
                if isinstance(entry, Mapping):
                    found = _figures(entry, classes)
                    yield from ((f"{class_name}.{rest}", each) for rest, each in found)


def table_of_classes(store: Lake, known: Known, summaries: Sequence[LiveFile]) -> pa.Table:
    """Return rows of `CLASSES`.

    Args:
        store: The store.
        known: The engines of the store.
        summaries: The files of the class summaries, which name the classes of engines without card.
    """
    rows: list[dict[str, Any]] = []
    newest = {file.engine: file for file in sorted(summaries, key=lambda file: file.date)}
    for engine in sorted({*known.cards, *newest}):
        card = known.card(engine)
        if card is not None:
            rows += [
                {"engine": engine, "class_id": i, "class_name": name, "threshold": threshold}
                for i, (name, threshold) in enumerate(
                    zip(card.classes, card.thresholds, strict=True), 1
                )
            ]
        elif engine in newest:
            names: dict[int, str] = {}
            for batch in read_file(store, newest[engine].key, _NAMES, kept=newest[engine].kept):
                names |= {row["class_id"]: row["class_name"] for row in batch.to_pylist()}
            rows += [
                {"engine": engine, "class_id": i, "class_name": name}
                for i, name in sorted(names.items())
            ]
    return pa.Table.from_pylist(rows, schema=CLASSES)


def _instant(text: str) -> datetime.datetime:
    """Parse a time of a card or an alias, by default in UTC; the earliest time if it is none."""
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        found = datetime.datetime.min
    return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)


def instant_of(entry: AliasEntry) -> datetime.datetime:
    """Return when an alias was moved (UTC)."""
    return _instant(entry.at)


def _split(engine: str) -> tuple[str, str]:
    try:
        return layout.split_engine_name(engine)
    except ConfigError:  # a partition that this program did not write
        return engine, ""
