"""Engines in a store: immutable versions, and how users name them.

A version is content-addressed and never changes. Its files are written if they are not there yet,
the card last, so a folder without a card is not a version yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steel_batch import layout
from steel_batch.errors import (
    ConfigError,
    EngineError,
    FormatError,
    LakeError,
    MissingObjectError,
)
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.registry import aliases
from steel_batch.registry.card import Card
from steel_batch.registry.self_contained import check_self_contained
from steel_batch.registry.signatures import check_signature, require_key

DEMO: Final = "demo"
DEMO_FOLDER: Final = Path(__file__).parent.parent / "demo_engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One version of a model, and where its files are. Ray ships it to the actors.

    A folder of this machine may not exist on another one, and the shipped engine is in each
    machine's own package: graphs in a folder travel with the engine.
    """

    card: Card
    home: Lake
    """The lake whose `folder` holds the card and the graphs."""
    folder: str
    """The version's folder under `home`; '' for the root."""
    plan_home: Lake
    """The lake whose `plan_folder` holds the compiled plans: the store, if there is one."""
    plan_folder: str
    where: str
    """The arguments that name this engine on the command line."""
    is_signed: bool = False
    """Whether its documents must be signed, including those of its compiled plans."""
    carried: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)
    """Graphs that came with it from another process, by file name."""

    @property
    def is_in_store(self) -> bool:
        """Whether its compiled plans are kept in a store's registry."""
        return self.plan_folder.startswith("registry/")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it with its graphs, unless they are in S3."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        if not self.home.is_s3:
            values["carried"] = {**self._graphs_in_folder(), **self.carried}
        return functools.partial(Engine, **values), ()

    def _graphs_in_folder(self) -> dict[str, bytes]:
        found = {}
        for graph in self.card.graphs:
            with contextlib.suppress(LakeError):  # reported by whatever needs the graph
                found[graph.file] = self.home.read(f"{self.folder}/{graph.file}".lstrip("/"))
        return found

    def read_graph(self, precision: str) -> bytes:
        """The ONNX bytes of one precision, after checking their digest.

        Raises:
            EngineError: The card has no such graph, or the file is missing, has changed, or takes
                values from another file.
        """
        graph = self.card.graph(precision)
        key = f"{self.folder}/{graph.file}".lstrip("/")
        try:
            data = self.carried.get(graph.file) or self.home.read(key)
        except MissingObjectError as error:
            raise EngineError(
                f"engine {self.card.name}: its card names {graph.file}, but {self.home.uri(key)} "
                "does not exist. Register the version again."
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != graph.sha256:
            raise EngineError(
                f"engine {self.card.name}: {self.home.uri(key)} has SHA-256 {found[:12]}…, but its "
                f"card states {graph.sha256[:12]}…: the file was changed and is not loaded. "
                "Restore it, or register the version again."
            )
        check_self_contained(data, name=self.home.uri(key))
        return data

    def read_report(self) -> str | None:
        """The training report stored next to the card; None if there is none."""
        try:
            return self.home.read(f"{self.folder}/{layout.TRAINING_REPORT}".lstrip("/")).decode()
        except MissingObjectError:
            return None


def load_engine(
    spec: str,
    *,
    store: Lake | None,
    endpoint_url: str | None = None,
    require_signed: bool = False,
) -> Engine:
    """Find the engine that a user names.

    Args:
        spec: ``demo``, ``<model>@<alias>``, ``<model>-<12 hex>``, or a version's folder. The
            shipped engine also has a name of the third form, which works with every store.
        store: Where models and aliases are looked up and compiled plans are kept. None: only the
            shipped engine and folders are known, and compiled plans are kept next to the card.
        endpoint_url: An S3 endpoint other than AWS's, for a version's folder in S3. With a store,
            the store's endpoint is used.
        require_signed: Refuse aliases, cards and compiled plans without a signature. The shipped
            engine needs none; a version's folder cannot have one.

    Raises:
        ConfigError: There is no such engine; the message lists those that exist.
        EngineError: Its card is damaged, was changed after it was registered, or lacks a required
            signature.
            it should be.
    """
    if require_signed:
        require_key()
    if spec == DEMO:
        return _load_shipped(spec, store, require_signed)
    if "/" in spec or spec.startswith("."):
        if require_signed:
            raise ConfigError(
                f"--require-signed accepts no engine from a folder ({spec}): register the version "
                "in the store, and give <model>@<alias> or <model>-<12 hex digits>."
            )
        endpoint_url = endpoint_url if store is None else store.endpoint_url
        # A folder that the operator names, such as one of a cache that is made of links.
        home = Lake(spec, endpoint_url=endpoint_url, follow_links=True)
        return _load(home, "", spec, store)
    is_shipped = spec == shipped_name()
    if store is None:
        if is_shipped:
            return _load_shipped(spec, store, require_signed)
        raise ConfigError(
            f"engine {spec!r} must be looked up in a store, and none was given: add --store, or "
            "give 'demo' or the path of a version's folder."
        )
    model, at, alias = spec.partition("@")
    problem = f"there is no engine {spec!r} in {store.url}"
    try:
        if at:
            version = resolve_alias(store, model, alias, require_signed=require_signed)
            problem = _without_card(store, spec, version)
        else:
            model, version = layout.split_engine_name(spec)
        folder = layout.version_dir(model, version)
        return _load(store, folder, spec, store, is_signed=require_signed)
    except ConfigError:
        if is_shipped:
            return _load_shipped(spec, store, require_signed)
        known = [name for name in _known_names(store) if name != spec]
        raise ConfigError(f"{problem}. There are: {', '.join(known)}.") from None


@functools.cache
def shipped_name() -> str:
    """The full name of the engine that ships with the package: ``demo-<12 hex>``."""
    return load_engine(DEMO, store=None).card.name


def resolve_alias(store: Lake, model: str, alias: str, *, require_signed: bool = False) -> str:
    """The version that an alias points to now.

    Raises:
        ConfigError: There is no such alias.
        EngineError: Its entry lacks a required signature.
    """
    layout.check_name(model, what="model")
    layout.check_name(alias, what="alias")
    entry = aliases.current(store, model, alias, require_signed=require_signed)
    if entry is None:
        raise unknown_alias(store, model, alias)
    return entry.version


def unknown_alias(store: Lake, model: str, alias: str) -> ConfigError:
    """The error for an alias without entries."""
    return ConfigError(
        f"there is no alias {model}@{alias} in {store.url}; list the aliases with "
        f"{command(store, 'engines', 'list')}, or create this one with `engines promote`."
    )


def list_models(store: Lake) -> list[str]:
    """Names of the models in a store."""
    return sorted(folder.split("/")[1] for folder in store.list_dirs("registry/"))


def list_versions(store: Lake, model: str) -> dict[str, Card | EngineError | FormatError]:
    """The card of each version of a model, oldest first.

    A card that is damaged or has a newer format is represented by its error, before the others.
    """
    found: dict[str, Card | EngineError | FormatError] = {}
    for version in _versions(store, model):
        folder = layout.version_dir(model, version)
        try:
            found[version] = _load(store, folder, folder, store).card
        except (EngineError, FormatError) as error:
            found[version] = error
    return dict(sorted(found.items(), key=lambda item: (getattr(item[1], "created", ""), item[0])))


def list_aliases(store: Lake, model: str) -> dict[str, str | EngineError | FormatError]:
    """The aliases of a model, and the versions that they point to.

    An alias is represented by an error if its newest entry cannot be used, or its version is gone.
    """
    found: dict[str, str | EngineError | FormatError] = {}
    for name in aliases.names(store, model):
        try:
            entry = aliases.current(store, model, name)
        except (EngineError, FormatError) as error:
            found[name] = error
            continue
        if entry is None:  # a folder without entries
            continue
        has_card = store.stat(layout.card_file(model, entry.version)) is not None
        problem = _without_card(store, f"{model}@{name}", entry.version)
        found[name] = entry.version if has_card else EngineError(f"{problem}.")
    return found


def _without_card(store: Lake, spec: str, version: str) -> str:
    """What is wrong with an alias whose version is gone, and what to do; without a full stop."""
    model = spec.partition("@")[0]
    return (
        f"{spec} points to {layout.engine_name(model, version)}, but its card "
        f"{store.uri(layout.card_file(model, version))} does not exist: restore it, or "
        "point the alias to another version with `engines promote` or `engines rollback`"
    )


def _load_shipped(spec: str, store: Lake | None, require_signed: bool) -> Engine:
    """The engine of the package; its compiled plans are kept in the store like any other's."""
    return dataclasses.replace(
        _load(Lake(str(DEMO_FOLDER), follow_links=True), "", spec, store), is_signed=require_signed
    )


def _load(
    home: Lake, folder: str, spec: str, store: Lake | None, *, is_signed: bool = False
) -> Engine:
    key = f"{folder}/card.json".lstrip("/")
    try:
        text = home.read(key)
    except MissingObjectError as error:
        raise ConfigError(
            f"there is no engine {spec!r}: {home.uri(key)} does not exist. Give 'demo', "
            "<model>@<alias>, <model>-<12 hex digits>, or the folder of a version."
        ) from error
    card = Card.from_json(text, source=home.uri(key))
    if home is store and folder != layout.version_dir(card.model, card.version):
        raise EngineError(
            f"{home.uri(key)} is the card of {card.name}, which belongs in "
            f"{home.uri(layout.version_dir(card.model, card.version))}: rows would be written "
            "under another model's name. Move the version's folder back, or register it as that "
            "model."
        )
    if home is store:
        check_signature(home, key, text, is_required=is_signed)
    if store is None:
        plan_home, plan_folder, where = home, f"{folder}/plans".lstrip("/"), spec
    else:
        plan_home, plan_folder = store, f"{layout.version_dir(card.model, card.version)}/plans"
        where = f"{spec} --store {store.url}"
    return Engine(
        card=card,
        home=home,
        folder=folder,
        plan_home=plan_home,
        plan_folder=plan_folder,
        where=where,
        is_signed=is_signed,
    )


def _known_names(store: Lake) -> list[str]:
    known = [DEMO]
    for model in list_models(store):
        known += [f"{model}@{alias}" for alias in aliases.names(store, model)]
        known += [f"{model}-{version}" for version in _versions(store, model)]
    return known


def _versions(store: Lake, model: str) -> list[str]:
    """Every folder of a model that contains a card, whatever the card states."""
    folders = (folder.split("/")[2] for folder in store.list_dirs(f"registry/{model}/"))
    return [name for name in folders if store.stat(layout.card_file(model, name)) is not None]
