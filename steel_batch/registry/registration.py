"""Registers versions: writes their files if they are not there yet, the card last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from steel_batch import layout
from steel_batch.errors import EngineError
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.registry.graph import check_on_patterns, open_session
from steel_batch.registry.signatures import sign


def register(store: Lake, card: Card, graphs: Mapping[str, bytes]) -> str:
    """Register a version. Registering the same content again changes nothing.

    Args:
        store: Store of the registry.
        card: Its card. If the version exists, the existing card is kept, with its figures and its
            date of registration.
        graphs: ONNX bytes by precision, as named in the card.

    Returns:
        The version.

    Raises:
        EngineError: Card and graphs contradict each other, a graph does not fulfil the contract, or
            different content is registered under this version; nothing existing was changed.
    """
    layout.engine_name(card.model, card.version)
    _check_consistent(card, graphs)
    for precision, data in graphs.items():
        session = open_session(data, card, precision=precision)
        check_on_patterns(session, card, precision=precision)
    folder = layout.version_dir(card.model, card.version)
    card_key = layout.card_file(card.model, card.version)
    for graph in card.graphs:
        key = f"{folder}/{graph.file}"
        data = graphs[graph.precision]
        if not store.put_if_absent(key, data) and store.read(key) != data:
            raise EngineError(
                f"{store.uri(key)} exists, but its content is not that of {card.name}: the "
                "registry was changed by hand. Nothing was replaced; move that file away and "
                "register again."
            )
    text = card.to_json().encode()
    sign(store, card_key, text)
    if store.put_if_absent(card_key, text):
        return card.version
    standing = Card.from_json(store.read(card_key), source=store.uri(card_key))
    differing = [
        f"{name} {there}, not {given}"
        for name in ("model", "version", "classes", "height", "width", "thresholds",
                     "post_process", "graphs")
        if (there := getattr(standing, name)) != (given := getattr(card, name))
    ]  # fmt: skip
    if differing:
        raise EngineError(
            f"{card.name} is already registered in {store.url} with {'; '.join(differing)}: a "
            "version never changes, so nothing was replaced. Register it under another model name, "
            "or with the registered settings."
        )
    return card.version


def _check_consistent(card: Card, graphs: Mapping[str, bytes]) -> None:
    wrong = []
    precisions = [graph.precision for graph in card.graphs]
    if sorted(precisions) != sorted(graphs):
        wrong.append(f"the card names {precisions}, but the graphs given are {sorted(graphs)}")
    for graph in card.graphs:
        data = graphs.get(graph.precision)
        if data is not None and hashlib.sha256(data).hexdigest() != graph.sha256:
            wrong.append(f"{graph.file} does not have the SHA-256 that the card states")
    expected = card.content_version()
    if card.version != expected:
        wrong.append(f"the content has version {expected}, but the card states {card.version}")
    if wrong:
        raise EngineError(f"{card.name} is not registered: {'; '.join(wrong)}.")
