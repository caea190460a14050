"""How a version comes into a registry: its files are put where there are none, the card last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from steel_batch import layout
from steel_batch.errors import EngineError
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.registry.graph import open_session
from steel_batch.registry.signatures import sign


def register(store: Lake, card: Card, graphs: Mapping[str, bytes]) -> str:
    """Make a version. The same content again changes nothing.

    Args:
        store: Where the registry lies.
        card: Its card. If the version exists, the card that stands is kept, with the figures and
            the date that it was registered with.
        graphs: ONNX bytes by precision, as the card names them.

    Returns:
        The version.

    Raises:
        EngineError: Card and graphs contradict each other, a graph does not keep the contract, or
            something else is registered under this version; nothing was changed that was there.
    """
    layout.engine_name(card.model, card.version)
    _check_consistent(card, graphs)
    for precision, data in graphs.items():
        open_session(data, card, precision=precision)
    folder = layout.version_dir(card.model, card.version)
    card_key = layout.card_file(card.model, card.version)
    for graph in card.graphs:
        key = f"{folder}/{graph.file}"
        data = graphs[graph.precision]
        if not store.put_if_absent(key, data) and store.read(key) != data:
            raise EngineError(
                f"{store.uri(key)} is there with other content than {card.name} has: the registry "
                "was changed by hand. Nothing was replaced; move that file away and register again."
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
            f"{card.name} is registered in {store.url} with {'; '.join(differing)}: a version "
            "never changes, and nothing was replaced. Register it under another model name, or "
            "with what stands there."
        )
    return card.version


def _check_consistent(card: Card, graphs: Mapping[str, bytes]) -> None:
    wrong = []
    precisions = [graph.precision for graph in card.graphs]
    if sorted(precisions) != sorted(graphs):
        wrong.append(f"the card names {precisions} and the graphs given are {sorted(graphs)}")
    for graph in card.graphs:
        data = graphs.get(graph.precision)
        if data is not None and hashlib.sha256(data).hexdigest() != graph.sha256:
            wrong.append(f"{graph.file} is not the file whose SHA-256 the card states")
    expected = card.content_version()
    if card.version != expected:
        wrong.append(f"the content is version {expected}, the card says {card.version}")
    if wrong:
        raise EngineError(f"{card.name} is not registered: {'; '.join(wrong)}.")
