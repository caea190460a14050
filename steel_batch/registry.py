"""Engines in a store: immutable versions, and aliases that say which one is meant.

A version is content-addressed and never changed; an alias is a numbered series of entries, so
moving it is a compare-and-swap and its history stays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steel_batch import layout, series
from steel_batch.engine.contract import Card
from steel_batch.errors import ConfigError, EngineError, MissingObjectError
from steel_batch.lake import Lake

DEMO: Final = "demo"
DEMO_FOLDER: Final = Path(__file__).parent / "demo_engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One version of a model and where its files lie. Ray ships it to the actors."""

    card: Card
    home: Lake
    """The lake whose `folder` holds the files."""
    folder: str
    """The version's folder below `home`; '' for the root."""

    def read_graph(self, precision: str) -> bytes:
        """The ONNX bytes of one precision, whose digest is checked.

        Raises:
            EngineError: The card has no such graph, or the file is missing or another one.
        """
        graph = self.card.graph(precision)
        key = f"{self.folder}/{graph.file}".lstrip("/")
        try:
            data = self.home.read(key)
        except MissingObjectError as error:
            raise EngineError(
                f"engine {self.card.name}: its card names {graph.file}, but {self.home.uri(key)} "
                "is not there; register the version again."
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != graph.sha256:
            raise EngineError(
                f"engine {self.card.name}: {self.home.uri(key)} has SHA-256 {found[:12]}…, its "
                f"card says {graph.sha256[:12]}…: the file was changed and is not loaded."
            )
        return data


def load_engine(spec: str, *, store: Lake | None) -> Engine:
    """Find the engine that a user names.

    Args:
        spec: ``demo``, ``<model>@<alias>``, ``<model>-<12 hex>``, or a version's folder.
        store: Where models and aliases are looked up; None knows only ``demo`` and folders.

    Raises:
        ConfigError: There is none; the message lists those that exist.
        EngineError: Its card is damaged.
    """
    if spec == DEMO:
        return _load(Lake(str(DEMO_FOLDER)), "", spec)
    if "/" in spec or spec.startswith("."):
        return _load(Lake(spec), "", spec)
    if store is None:
        raise ConfigError(
            f"engine {spec!r} is looked up in a store, and none was given; expected 'demo' or the "
            "path of a version's folder."
        )
    model, at, alias = spec.partition("@")
    if at:
        version = resolve_alias(store, model, alias)
    else:
        try:
            model, version = layout.split_engine_name(spec)
        except ConfigError:
            raise _unknown(store, spec) from None
    try:
        return _load(store, layout.version_dir(model, version), spec)
    except ConfigError:
        raise _unknown(store, spec) from None


def resolve_alias(store: Lake, model: str, alias: str) -> str:
    """The version that an alias means now.

    Raises:
        ConfigError: There is no such alias; the message lists those that exist.
    """
    layout.check_name(model, what="model")
    layout.check_name(alias, what="alias")
    found = series.latest(store, layout.alias_series(model, alias))
    if found is None:
        raise _unknown(store, f"{model}@{alias}")
    return str(json.loads(found[1])["version"])


def list_models(store: Lake) -> list[str]:
    """The models of a store."""
    return [folder.split("/")[1] for folder in store.list_dirs("registry/")]


def list_versions(store: Lake, model: str) -> list[Card]:
    """The versions of a model, oldest first."""
    cards = []
    for folder in store.list_dirs(f"registry/{model}/"):
        if folder.split("/")[2] != "aliases":
            cards.append(_load(store, folder.rstrip("/"), folder).card)
    return sorted(cards, key=lambda card: (card.created, card.version))


def list_aliases(store: Lake, model: str) -> dict[str, str]:
    """The aliases of a model and the versions that they mean."""
    names = [folder.split("/")[3] for folder in store.list_dirs(f"registry/{model}/aliases/")]
    return {name: resolve_alias(store, model, name) for name in names}


def _load(home: Lake, folder: str, spec: str) -> Engine:
    key = f"{folder}/card.json".lstrip("/")
    try:
        text = home.read(key)
    except MissingObjectError as error:
        raise ConfigError(
            f"there is no engine {spec!r}: {home.uri(key)} is not there. Give 'demo', "
            "<model>@<alias>, <model>-<12 hex digits>, or the folder of a version."
        ) from error
    return Engine(card=Card.from_json(text, source=home.uri(key)), home=home, folder=folder)


def _unknown(store: Lake, spec: str) -> ConfigError:
    known = ["demo"]
    for model in list_models(store):
        known += [f"{model}@{alias}" for alias in list_aliases(store, model)]
        known += [card.name for card in list_versions(store, model)]
    return ConfigError(
        f"there is no engine {spec!r} in {store.url}. There are: {', '.join(known)}."
    )
