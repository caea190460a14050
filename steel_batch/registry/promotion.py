"""Which version an alias may come to mean, and how it goes back to an earlier one.

A version is compared with the one that it replaces by the figures in their cards, and only where
both were judged on the same held-out images, which the cards' `data_digest` tells. What is refused
changes nothing, and can be overruled with a reason that stays in the alias's history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from steel_batch import layout
from steel_batch.errors import ConfigError, EngineError
from steel_batch.lake import Lake
from steel_batch.registry import aliases
from steel_batch.registry.aliases import AliasEntry
from steel_batch.registry.card import Card
from steel_batch.registry.evidence import too_few
from steel_batch.registry.versions import Engine, load_engine, shipped_name, unknown_alias

ROUNDING: Final = 1e-9
"""Of figures that are means: one image of many is exactly one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How much worse than the version in force another may be."""

    dice: float = 0.005
    """Kaggle Dice, over all images and classes."""
    per_class: float = 0.02
    """Of each class: its Dice where present, its recall and its false alarms. Of the last two, one
    image is always tolerated, however few images there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of two versions."""

    name: str
    """Such as ``recall of scabs``."""
    current: float
    candidate: float
    loss: float
    """By how much the candidate is worse; below 0 it is better."""
    tolerance: float

    @property
    def is_too_bad(self) -> bool:
        """Whether it is worse by more than is tolerated."""
        return not self.loss <= self.tolerance + ROUNDING


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A version beside the one that an alias means."""

    figures: tuple[Figure, ...]
    """Empty where the two cannot be compared."""
    refusals: tuple[str, ...]
    """Why the version is not to be promoted: each a clause."""
    too_few: str | None = None
    """What the images lack that both were judged on; see `steel_batch.registry.evidence`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What `promote` or `rollback` did."""

    alias: str
    """``<model>@<alias>``."""
    engine: str
    """What it means now."""
    previous: str | None
    """What it meant before the move; None where there was no alias."""
    changed: bool
    """False where it meant this version already."""
    entry: AliasEntry
    """The entry in force."""
    comparison: Comparison | None = None
    """None where there was nothing to compare with."""


def promote(
    store: Lake,
    spec: str,
    alias: str,
    *,
    tolerance: Tolerance,
    force: bool = False,
    why: str = "",
) -> Move:
    """Make an alias mean a version that is no worse than the one it means now.

    Args:
        store: Where version and alias lie.
        spec: The version: ``<model>-<12 hex>``, or another alias of the model.
        alias: The alias's name, without the model.
        tolerance: How much worse it may be.
        force: Promote it whatever is found.
        why: For the history.

    Returns:
        What was done; `changed` is false where the alias means this version already.

    Raises:
        ConfigError: There is no such version, or it is refused.
        EngineError: The version's files are missing or damaged.
        CommitConflictError: Somebody else moved the alias meanwhile; nothing was changed.
    """
    layout.check_name(alias, what="alias")
    engine = _registered(store, spec)
    card = engine.card
    name = f"{card.model}@{alias}"
    entries = aliases.history(store, card.model, alias)
    seen = entries[-1] if entries else None
    previous = None if seen is None else layout.engine_name(card.model, seen.version)
    if seen is not None and previous == card.name:
        return Move(alias=name, engine=card.name, previous=previous, changed=False, entry=seen)
    _check_files(engine)
    comparison = None if previous is None else _against(store, previous, card, tolerance)
    refusals = [] if comparison is None else list(comparison.refusals)
    fled = aliases.rolled_back_from(entries, card.version)
    if fled is not None:
        reason = f" ({fled.why})" if fled.why else ""
        refusals.append(f"{name} was rolled back from it on {fled.at[:10]} by {fled.by}{reason}")
    if refusals and not force:
        raise ConfigError(
            f"{card.name} is not promoted, {name} still means {previous}: {'; '.join(refusals)}. "
            f'To promote it all the same, give --force --why "…"; `engines diff {previous} '
            f"{card.name} --store {store.url}` shows both."
        )
    entry = aliases.move(
        store,
        card.model,
        alias,
        seen,
        version=card.version,
        action="promote",
        why=why,
        forced=bool(refusals),
        checks={
            "tolerance": dataclasses.asdict(tolerance),
            "data_digest": card.metrics.get("data_digest"),
            "figures": [
                dataclasses.asdict(figure) for figure in (comparison.figures if comparison else ())
            ],
            "refusals": refusals,
        },
    )
    return Move(
        alias=name,
        engine=card.name,
        previous=previous,
        changed=True,
        entry=entry,
        comparison=comparison,
    )


def rollback(store: Lake, spec: str, *, why: str = "") -> Move:
    """Make an alias mean what it meant before its last promotion that still stands.

    Rolled back again, it goes one further back, and never to a version that it was rolled back
    from. Rows that were scored stay under the engine that scored them.

    Args:
        store: Where the alias lies.
        spec: ``<model>@<alias>``.
        why: For the history.

    Raises:
        ConfigError: There is no such alias, or nothing before it.
        EngineError: The files of the earlier version are missing or damaged.
        CommitConflictError: Somebody else moved the alias meanwhile; nothing was changed.
    """
    model, at, alias = spec.partition("@")
    if not at:
        raise ConfigError(f"{spec!r} is not an alias: expected <model>@<alias>.")
    layout.check_name(model, what="model")
    layout.check_name(alias, what="alias")
    entries = aliases.history(store, model, alias)
    if not entries:
        raise unknown_alias(store, model, alias)
    left = layout.engine_name(model, entries[-1].version)
    version = aliases.before(entries)
    if version is None:
        raise ConfigError(
            f"{spec} means {left}, and there is no earlier version to go back to; `engines show "
            f"{spec} --store {store.url}` shows its history. Promote another version."
        )
    engine = _registered(store, layout.engine_name(model, version))
    _check_files(engine)
    entry = aliases.move(
        store, model, alias, entries[-1], version=version, action="rollback", why=why
    )
    return Move(alias=spec, engine=engine.card.name, previous=left, changed=True, entry=entry)


def compare(current: Card, candidate: Card, tolerance: Tolerance) -> Comparison:
    """Put a version beside the one that it would replace.

    Args:
        current: What the alias means.
        candidate: What it would mean.
        tolerance: How much worse it may be.
    """
    refusals = []
    if candidate.classes != current.classes:
        refusals.append(
            f"its classes 1, 2, … are {', '.join(candidate.classes)}, and those of {current.name} "
            f"are {', '.join(current.classes)}: who reads the tables would take one for another"
        )
    silent = [card.name for card in (current, candidate) if not _has_figures(card)]
    if silent:
        refusals.append(
            f"the card of {' and '.join(silent)} has no figures of held-out images, so nothing can "
            "be compared: register versions with `steel-batch train`"
        )
    elif current.metrics["data_digest"] != candidate.metrics["data_digest"]:
        refusals.append(
            f"it was judged on other images ({_judged_on(candidate)}) than {current.name} "
            f"({_judged_on(current)}), so nothing can be compared: train both on the same images, "
            "labels and groups with the same --split-seed, --validation-share and --test-share"
        )
    figures: tuple[Figure, ...] = ()
    if not refusals:
        figures = tuple(_figures(current, candidate, tolerance))
        refusals += [
            f"{figure.name} is {figure.candidate:.4f} against {figure.current:.4f}, worse by more "
            f"than {figure.tolerance:.4g}"
            for figure in figures
            if figure.is_too_bad
        ]
    lack = too_few(candidate.metrics, candidate.classes) if figures else None
    return Comparison(figures=figures, refusals=tuple(refusals), too_few=lack)


def _against(store: Lake, name: str, card: Card, tolerance: Tolerance) -> Comparison:
    """Compare with the version in force, which may be beyond reading."""
    try:
        current = load_engine(name, store=store).card
    except (ConfigError, EngineError) as error:
        text = str(error).rstrip(".")
        return Comparison(figures=(), refusals=(f"nothing can be compared: {text}",))
    return compare(current, card, tolerance)


def _registered(store: Lake, spec: str) -> Engine:
    """A version of this store, and no other kind of engine."""
    engine = load_engine(spec, store=store)
    card = engine.card
    is_of_store = engine.home is store
    if card.name == shipped_name() and not is_of_store:
        raise ConfigError(
            f"{card.name} is the shipped engine and cannot be promoted: an alias means a version "
            f"of the registry in {store.url}. Name the shipped one itself: --engine demo."
        )
    if not is_of_store or engine.folder != layout.version_dir(card.model, card.version):
        raise ConfigError(
            f"{spec} is {card.name} in {engine.home.uri(engine.folder)}, and an alias means a "
            f"version of the registry in {store.url}; `engines list` shows them."
        )
    return engine


def _check_files(engine: Engine) -> None:
    for graph in engine.card.graphs:
        engine.read_graph(graph.precision)


def _has_figures(card: Card) -> bool:
    figures = card.metrics
    classes = figures.get("classes", ())
    return (
        isinstance(figures.get("data_digest"), str)
        and isinstance(figures.get("kaggle_dice"), float)
        and len(classes) == len(card.classes)
        and all(isinstance(entry, Mapping) for entry in classes)
    )


def _judged_on(card: Card) -> str:
    return f"{card.metrics.get('num_images')} of digest {card.metrics['data_digest'][:12]}"


def _figures(current: Card, candidate: Card, tolerance: Tolerance) -> Iterator[Figure]:
    """Every figure that both have, of the same images and classes."""
    now, then = current.metrics, candidate.metrics
    yield Figure(
        name="Kaggle Dice",
        current=now["kaggle_dice"],
        candidate=then["kaggle_dice"],
        loss=now["kaggle_dice"] - then["kaggle_dice"],
        tolerance=tolerance.dice,
    )
    for title, a, b in zip(candidate.classes, now["classes"], then["classes"], strict=True):
        num_present = int(a.get("num_present", 0))
        num_absent = int(now.get("num_images", 0)) - num_present
        for key, words, sign, num_cases in (
            ("present_dice", "Dice where present", 1, 0),
            ("recall", "recall", 1, num_present),
            ("false_alarm_rate", "false-alarm rate", -1, num_absent),
        ):
            if a.get(key) is None or b.get(key) is None:  # the class has no such images
                continue
            yield Figure(
                name=f"{words} of {title}",
                current=a[key],
                candidate=b[key],
                loss=sign * (a[key] - b[key]),
                tolerance=max(tolerance.per_class, 1 / num_cases if num_cases else 0.0),
            )
