from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.errors import CommitConflictError, ConfigError, EngineError
from steel_batch.lake import Lake, LakeObject
from steel_batch.registry import aliases
from steel_batch.registry.card import Card
from steel_batch.registry.promotion import Move, Tolerance, compare, promote, rollback
from steel_batch.registry.registration import register
from steel_batch.registry.versions import load_engine
from tests.tiny_engine import changed, tiny_version

ALIAS = "tiny@production"
TOLERANCE = Tolerance(dice=0.005, per_class=0.02)


def figures(*, dice: float = 0.95, digest: str = "1a2b" * 16, **of_first: Any) -> dict[str, Any]:
    """Metrics of a card whose test part has 1,000 images, 100 of them with the first class."""
    usual = {"present_dice": 0.8, "recall": 0.9, "false_alarm_rate": 0.05, "num_present": 100}
    absent = {"present_dice": None, "recall": None, "false_alarm_rate": 0.0, "num_present": 0}
    return {
        "data_digest": digest,
        "num_images": 1000,
        "kaggle_dice": dice,
        "classes": [{**usual, **of_first}, usual, absent, usual],
    }


class Registry:
    """A store with versions that differ in what their cards say."""

    def __init__(self, store: Lake) -> None:
        self.store = store
        self._number = 0

    def add(self, metrics: dict[str, Any] | None = None, **changes: Any) -> Card:
        self._number += 1
        card, graphs = tiny_version(min_area_px=self._number, metrics=metrics or figures())
        card = changed(card, **changes) if changes else card
        register(self.store, card, graphs)
        return card

    def promote(self, card: Card, **options: Any) -> Move:
        options.setdefault("tolerance", TOLERANCE)
        return promote(self.store, card.name, "production", **options)

    @property
    def meant(self) -> str:
        return load_engine(ALIAS, store=self.store).card.name


@pytest.fixture
def registry(lake: Lake) -> Registry:
    return Registry(lake)


@pytest.fixture
def local(tmp_path: Path) -> Registry:
    return Registry(Lake(str(tmp_path / "store")))


def test_the_first_promotion_has_nothing_to_compare_with(registry: Registry) -> None:
    first = registry.add()
    move = registry.promote(first, why="it is the first")
    assert (move.engine, move.previous, move.changed) == (first.name, None, True)
    assert move.comparison is None
    assert registry.meant == first.name
    (entry,) = aliases.history(registry.store, "tiny", "production")
    assert (entry.why, entry.forced) == ("it is the first", False)


def test_an_engine_that_is_no_worse_takes_the_others_place(registry: Registry) -> None:
    first, second = registry.add(), registry.add(figures(dice=0.946, recall=0.885))
    registry.promote(first)
    move = registry.promote(second)
    assert (move.engine, move.previous) == (second.name, first.name)
    assert registry.meant == second.name
    entry = aliases.current(registry.store, "tiny", "production")
    assert entry is not None
    assert entry.checks["figures"][0] == {
        "name": "Kaggle Dice",
        "current": 0.95,
        "candidate": 0.946,
        "loss": pytest.approx(0.004),
        "tolerance": 0.005,
    }
    assert entry.checks["tolerance"] == {"dice": 0.005, "per_class": 0.02}
    assert entry.checks["refusals"] == []


def test_promoting_what_stands_changes_nothing(registry: Registry) -> None:
    first, second = registry.add(), registry.add()
    registry.promote(first)
    registry.promote(second)
    again = registry.promote(second, force=True, why="to be sure")
    assert (again.changed, again.engine, again.previous) == (False, second.name, second.name)
    assert len(aliases.history(registry.store, "tiny", "production")) == 2


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (figures(dice=0.94), "Kaggle Dice is 0.9400 against 0.9500, worse by more than 0.005"),
        (figures(present_dice=0.77), "Dice where present of band_1 is 0.7700 against 0.8000"),
        (figures(recall=0.87), "recall of band_1 is 0.8700 against 0.9000"),
        (figures(false_alarm_rate=0.08), "false-alarm rate of band_1 is 0.0800 against 0.0500"),
        (figures(dice=float("nan")), "Kaggle Dice is nan against 0.9500"),
    ],
)
def test_an_engine_that_is_worse_is_refused_unless_forced(
    local: Registry, metrics: dict[str, Any], expected: str
) -> None:
    first, worse = local.add(), local.add(metrics)
    local.promote(first)
    with pytest.raises(ConfigError) as refused:
        local.promote(worse)
    text = str(refused.value)
    assert text.startswith(f"{worse.name} is not promoted; {ALIAS} still points to {first.name}: ")
    assert expected in text
    assert "worse by more than 0.0" in text
    assert '--force --why "…"' in text
    assert local.meant == first.name
    move = local.promote(worse, force=True, why="the old one misses a new defect")
    assert local.meant == worse.name
    assert move.entry.forced
    assert expected in move.entry.checks["refusals"][0]


def test_tolerances_are_those_that_were_given() -> None:
    card, _ = tiny_version(metrics=figures())
    worse, _ = tiny_version(metrics=figures(dice=0.9, recall=0.8))
    assert len(compare(card, worse, TOLERANCE).refusals) == 2
    assert len(compare(card, worse, Tolerance(dice=0.06, per_class=0.02)).refusals) == 1
    assert compare(card, worse, Tolerance(dice=0.06, per_class=0.1)).refusals == ()
    assert compare(worse, card, Tolerance(dice=0.0, per_class=0.0)).refusals == ()


def test_one_image_more_that_is_missed_is_tolerated_however_few_there_are() -> None:
    few: dict[str, Any] = {"num_present": 7, "present_dice": 0.8}
    card, _ = tiny_version(metrics=figures(recall=6 / 7, **few))
    one_less, _ = tiny_version(metrics=figures(recall=5 / 7, **few))
    two_less, _ = tiny_version(metrics=figures(recall=4 / 7, **few))
    assert compare(card, one_less, TOLERANCE).refusals == ()
    assert len(compare(card, two_less, TOLERANCE).refusals) == 1


def test_figures_of_other_images_are_not_compared(local: Registry) -> None:
    first, other = local.add(), local.add(figures(dice=0.99, digest="ffff" * 16))
    local.promote(first)
    with pytest.raises(ConfigError) as refused:
        local.promote(other)
    assert "evaluated on other images (1000 of digest ffffffffffff)" in str(refused.value)
    assert "with the same --split-seed, --validation-share and --test-share" in str(refused.value)
    assert local.promote(other, force=True, why="more images").entry.forced


@pytest.mark.parametrize(
    "metrics",
    [{"mean_iou": 0.9}, {**figures(), "classes": []}, {**figures(), "data_digest": None}],
)
def test_a_card_without_figures_is_not_compared(local: Registry, metrics: dict[str, Any]) -> None:
    first, bare = local.add(), local.add(metrics)
    local.promote(first)
    with pytest.raises(ConfigError, match=f"the card of {bare.name} has no figures"):
        local.promote(bare)
    local.promote(bare, force=True, why="it was measured elsewhere")
    with pytest.raises(ConfigError, match=f"the card of {bare.name} has no figures"):
        local.promote(first)


@pytest.mark.parametrize(
    "classes",
    [("band_2", "band_1", "band_3", "band_4"), ("band_1", "band_2", "band_3", "other")],
    ids=["another order", "another name"],
)
def test_other_classes_are_refused_unless_forced(local: Registry, classes: tuple[str, ...]) -> None:
    first, renamed = local.add(), local.add(classes=classes)
    local.promote(first)
    with pytest.raises(ConfigError, match=f"its classes 1, 2, … are {', '.join(classes)}"):
        local.promote(renamed)
    assert local.promote(renamed, force=True, why="renamed by the mill").changed


def test_an_engine_that_was_rolled_back_from_is_not_promoted_again_by_itself(
    local: Registry,
) -> None:
    first, second = local.add(), local.add(figures(dice=0.97))
    local.promote(first)
    local.promote(second)
    rollback(local.store, ALIAS, why="alarms all night")
    with pytest.raises(ConfigError, match=r"was rolled back from it on .* \(alarms all night\)"):
        local.promote(second)
    local.promote(second, force=True, why="it was the lamp")
    assert local.meant == second.name


def test_rolling_back_goes_one_further_back_each_time(registry: Registry) -> None:
    cards = [registry.add() for _ in range(3)]
    for card in cards:
        registry.promote(card)
    move = rollback(registry.store, ALIAS, why="too many alarms")
    assert (move.engine, move.previous, move.changed) == (cards[1].name, cards[2].name, True)
    assert (move.entry.action, move.entry.why) == ("rollback", "too many alarms")
    assert rollback(registry.store, ALIAS).engine == cards[0].name
    assert registry.meant == cards[0].name
    with pytest.raises(ConfigError, match="there is no earlier version to go back to"):
        rollback(registry.store, ALIAS)
    assert registry.meant == cards[0].name


class Contended(Lake):
    """Somebody else promotes another version just before one of the requests about an alias."""

    def __init__(self, local: Registry, another: Card, request: int) -> None:
        super().__init__(local.store.url)
        self.left = request
        self._promote = lambda: local.promote(another)

    def _count(self) -> None:
        self.left -= 1
        if not self.left:
            self._promote()

    def list_objects(self, prefix: str = "") -> Iterator[LakeObject]:
        self._count()
        return super().list_objects(prefix)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count()
        return super().put_if_absent(key, data)


@pytest.mark.parametrize("request_", range(1, 4))
def test_a_rollback_takes_back_the_promotion_that_it_reports(
    local: Registry, request_: int
) -> None:
    first, second, third = (local.add() for _ in range(3))
    local.promote(first)
    local.promote(second)
    store = Contended(local, third, request_)
    try:
        move = rollback(store, ALIAS)
    except CommitConflictError:
        assert local.meant == third.name
    else:
        assert move.previous == f"tiny-{move.entry.previous}"
        assert move.engine == local.meant
        assert move.previous == (second.name if store.left > 0 else third.name)


def test_no_rollback_goes_back_to_what_was_rolled_back_from(local: Registry) -> None:
    first, second = local.add(), local.add()
    for card in (first, second, first):
        local.promote(card)
    assert rollback(local.store, ALIAS).engine == second.name
    with pytest.raises(ConfigError, match="there is no earlier version to go back to"):
        rollback(local.store, ALIAS)
    assert local.meant == second.name


def test_what_cannot_be_loaded_is_never_what_an_alias_comes_to_mean(local: Registry) -> None:
    first, second, third = (local.add() for _ in range(3))
    local.promote(first)
    local.promote(second)
    for card in (first, third):
        local.store.write(f"{layout.version_dir('tiny', card.version)}/model.onnx", b"damaged")
    with pytest.raises(EngineError, match="was changed and is not loaded"):
        local.promote(third, force=True, why="never mind")
    with pytest.raises(EngineError, match="was changed and is not loaded"):
        rollback(local.store, ALIAS)
    assert local.meant == second.name


def test_an_alias_leaves_a_version_whose_card_is_gone(local: Registry) -> None:
    first, second, third = (local.add() for _ in range(3))
    local.promote(first)
    local.promote(second)
    local.store.delete([layout.card_file("tiny", second.version)])
    with pytest.raises(ConfigError, match=f"there is no engine '{second.name}'"):
        local.promote(third)
    assert rollback(local.store, ALIAS).engine == first.name


def test_one_alias_is_promoted_to_what_another_means(local: Registry) -> None:
    first = local.add()
    promote(local.store, first.name, "staging", tolerance=TOLERANCE)
    move = promote(local.store, "tiny@staging", "production", tolerance=TOLERANCE)
    assert (move.alias, move.engine) == (ALIAS, first.name)


def test_what_is_no_version_of_the_store_is_refused(local: Registry, tiny_engine: Path) -> None:
    first = local.add()
    for spec in ("demo", str(tiny_engine)):
        with pytest.raises(ConfigError, match="an alias points to a version of the registry"):
            promote(local.store, spec, "production", tolerance=TOLERANCE)
    with pytest.raises(ConfigError, match=f"There are: demo, {first.name}"):
        promote(local.store, "tiny-0123456789ab", "production", tolerance=TOLERANCE)
    with pytest.raises(ConfigError, match="alias 'Not a name' cannot be used"):
        promote(local.store, first.name, "Not a name", tolerance=TOLERANCE)
    with pytest.raises(ConfigError, match="expected <model>@<alias>"):
        rollback(local.store, first.name)
    with pytest.raises(ConfigError, match="there is no alias tiny@production"):
        rollback(local.store, ALIAS)
    with pytest.raises(ConfigError, match="alias 'Not a name' cannot be used"):
        rollback(local.store, "tiny@Not a name")
    assert aliases.names(local.store, "tiny") == []
