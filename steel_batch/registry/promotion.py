"""Which version an alias may be pointed to, and how it is pointed back to an earlier one.

A version is compared with the one that it replaces by the figures in their cards, and only if both
were evaluated on the same held-out images, according to the cards' `data_digest`. A refusal changes
nothing, and can be overridden with a reason that stays in the alias's history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steel_batch import layout
from steel_batch.errors import ConfigError, EngineError
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.registry import aliases
from steel_batch.registry.aliases import AliasEntry
from steel_batch.registry.card import Card
from steel_batch.registry.evidence import too_few
from steel_batch.registry.figures import known_figures
from steel_batch.registry.versions import Engine, load_engine, shipped_name, unknown_alias

ROUNDING: Final = 1e-9
"""Tolerance for rounding in figures that are means, so that one image counts as exactly one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How much worse than the current version a new one may be."""

    dice: float = 0.005
    """Kaggle Dice, over all images and classes."""
    per_class: float = 0.02
    """For each class: its Dice where present, its recall and its false alarms. For the last two,
    one image is always tolerated, however few images there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of two versions."""

    name: str
    """Such as ``recall of scabs``."""
    current: float
    candidate: float
    loss: float
    """By how much the candidate is worse; negative if it is better."""
    tolerance: float

    @property
    def is_too_bad(self) -> bool:
        """Whether it is worse by more than the tolerance."""
        return not self.loss <= self.tolerance + ROUNDING


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A version compared with the one that an alias points to."""

    figures: tuple[Figure, ...]
    """Empty if the two cannot be compared."""
    refusals: tuple[str, ...]
    """Reasons not to promote the version, each a clause."""
    too_few: str | None = None
    """What the images that both were evaluated on lack; see `steel_batch.registry.evidence`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Result of `promote` or `rollback`."""

    alias: str
    """``<model>@<alias>``."""
    engine: str
    """The engine that it points to now."""
    previous: str | None
    """The engine that it pointed to before; None if there was no alias."""
    changed: bool
    """False if it already pointed to this version."""
    entry: AliasEntry
    """The newest entry."""
    comparison: Comparison | None = None
    """None if there was nothing to compare with."""


def promote(
    store: Lake,
    spec: str,
    alias: str,
    *,
    tolerance: Tolerance,
    force: bool = False,
    why: str = "",
) -> Move:
    """Point an alias to a version that is no worse than the current one.

    Args:
        store: Store of version and alias.
        spec: The version: ``<model>-<12 hex>``, or another alias of the model.
        alias: Name of the alias, without the model.
        tolerance: How much worse the version may be.
        force: Promote it even if a check refuses it.
        why: Reason, for the history.

    Returns:
        What was done; `changed` is false if the alias already points to this version.

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
            f"{card.name} is not promoted; {name} still points to {previous}: "
            f'{"; ".join(refusals)}. To promote it anyway, give --force --why "…". Compare the '
            f"two with {command(store, 'engines', 'diff', str(previous), card.name)}."
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
    """Point an alias back to the version before its newest promotion that is still in effect.

    Another rollback goes one further back, and never to a version that was rolled back from. Rows
    that were scored stay under the engine that scored them.

    Args:
        store: Store of the alias.
        spec: ``<model>@<alias>``.
        why: Reason, for the history.

    Raises:
        ConfigError: There is no such alias, or no earlier version.
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
            f"{spec} points to {left}, and there is no earlier version to go back to; see its "
            f"history with {command(store, 'engines', 'show', spec)}. Promote another version."
        )
    engine = _registered(store, layout.engine_name(model, version))
    _check_files(engine)
    entry = aliases.move(
        store, model, alias, entries[-1], version=version, action="rollback", why=why
    )
    return Move(alias=spec, engine=engine.card.name, previous=left, changed=True, entry=entry)


def compare(current: Card, candidate: Card, tolerance: Tolerance) -> Comparison:
    """Compare a version with the one that it would replace.

    Args:
        current: The version that the alias points to.
        candidate: The version that it would point to.
        tolerance: How much worse the candidate may be.
    """
    refusals = []
    if candidate.classes != current.classes:
        refusals.append(
            f"its classes 1, 2, … are {', '.join(candidate.classes)}, but those of {current.name} "
            f"are {', '.join(current.classes)}: readers of the tables would mix them up"
        )
    silent = [card.name for card in (current, candidate) if not _has_figures(card)]
    if silent:
        refusals.append(
            f"the card of {' and '.join(silent)} has no figures of held-out images, so nothing can "
            "be compared: register versions with `steel-batch train`"
        )
    elif current.metrics["data_digest"] != candidate.metrics["data_digest"]:
        refusals.append(
            f"it was evaluated on other images ({_judged_on(candidate)}) than {current.name} "
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
    """Compare with the current version, which may be unreadable."""
    try:
        current = load_engine(name, store=store).card
    except (ConfigError, EngineError) as error:
        text = str(error).rstrip(".")
        return Comparison(figures=(), refusals=(f"nothing can be compared: {text}",))
    return compare(current, card, tolerance)


def _registered(store: Lake, spec: str) -> Engine:
    """Load a version, and refuse any that is not registered in this store."""
    engine = load_engine(spec, store=store)
    card = engine.card
    is_of_store = engine.home is store
    if card.name == shipped_name() and not is_of_store:
        raise ConfigError(
            f"{card.name} is the shipped engine and cannot be promoted: an alias points to a "
            f"version of the registry in {store.url}. Use the shipped engine as --engine demo."
        )
    if not is_of_store or engine.folder != layout.version_dir(card.model, card.version):
        raise ConfigError(
            f"{spec} is {card.name} in {engine.home.uri(engine.folder)}, but an alias points to a "
            f"version of the registry in {store.url}; list them with "
            f"{command(store, 'engines', 'list')}."
        )
    return engine


def _check_files(engine: Engine) -> None:
    for graph in engine.card.graphs:
        engine.read_graph(graph.precision)


def _has_figures(card: Card) -> bool:
    return {"data_digest", "kaggle_dice", "classes"} <= set(
        known_figures(card.metrics, card.classes)
    )


def _judged_on(card: Card) -> str:
    return f"{card.metrics.get('num_images')} of digest {card.metrics['data_digest'][:12]}"


def _figures(current: Card, candidate: Card, tolerance: Tolerance) -> Iterator[Figure]:
    """Yield every figure that both cards have for the same images and classes."""
    now, then = (known_figures(card.metrics, card.classes) for card in (current, candidate))
    yield Figure(
        name="Kaggle Dice",
        current=now["kaggle_dice"],
        candidate=then["kaggle_dice"],
        loss=now["kaggle_dice"] - then["kaggle_dice"],
        tolerance=tolerance.dice,
    )
    for title, a, b in zip(candidate.classes, now["classes"], then["classes"], strict=True):
        num_present = a.get("num_present", 0)
        num_absent = now.get("num_images", 0) - num_present
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
