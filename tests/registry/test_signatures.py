"""What is not signed, or signed for something else, is not used where signatures are required."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.engine.compiled_plans import PlanRecord, list_plans, put_plan
from steel_batch.errors import ConfigError, EngineError
from steel_batch.lake import Lake, series
from steel_batch.lake.commands import command
from steel_batch.registry import aliases
from steel_batch.registry.promotion import Tolerance, promote, rollback
from steel_batch.registry.registration import register
from steel_batch.registry.signatures import KEY_VARIABLE, sign_model
from steel_batch.registry.versions import Engine, load_engine
from tests.conftest import KINDS_OF_LAKE, folder_daily
from tests.tiny_engine import changed, tiny_version

lake = folder_daily

CARD, GRAPHS = tiny_version()
OTHER = changed(CARD, thresholds=(0.4,) * 4)
KEY, OTHER_KEY = "k" * 32, "o" * 40
ALIAS = "tiny@production"


@pytest.fixture
def signed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A registry whose version and alias were made with a key, which is still set."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    fill(lake)
    return lake


def fill(lake: Lake) -> None:
    register(lake, CARD, GRAPHS)
    aliases.move(lake, "tiny", "production", None, version=CARD.version, action="promote")


def load(lake: Lake, spec: str = ALIAS) -> Engine:
    return load_engine(spec, store=lake, require_signed=True)


def record_of(engine: Engine) -> PlanRecord:
    return PlanRecord(
        file="a.plan", sha256="", size_bytes=4, engine=engine.card.name, graph_sha256="",
        runtime="tensorrt", runtime_version="10.0", compute_capability="9.0", device_name="GPU",
        precision="fp32", batch_size=8, strongly_typed=True, build_seconds=1.0, host="h",
        created="2026-11-28T00:00:00+00:00",
    )  # fmt: skip


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_what_was_registered_promoted_and_built_with_the_key_is_used(signed: Lake) -> None:
    engine = load(signed)
    put_plan(engine, record_of(engine), b"plan")
    assert engine.card == CARD
    assert [plan.engine for plan in list_plans(load(signed, CARD.name))] == [CARD.name]


def test_what_has_no_signature_is_refused_and_can_be_signed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lake)
    engine = load_engine(ALIAS, store=lake)
    put_plan(engine, record_of(engine), b"plan")
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert load_engine(ALIAS, store=lake).card == CARD, "what is unsigned is used unless refused"
    for spec in (ALIAS, CARD.name):
        with pytest.raises(EngineError, match="has no signature") as refused:
            load(lake, spec)
        assert command(lake, "engines", "sign", "tiny") in str(refused.value)
    with pytest.raises(EngineError, match="has no signature"):
        list_plans(dataclasses.replace(engine, is_signed=True))
    assert len(sign_model(lake, "tiny")) == 3
    assert len(list_plans(load(lake))) == 1


def test_another_key_is_noticed_even_where_no_signature_is_required(
    signed: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, OTHER_KEY)
    for spec in (ALIAS, CARD.name):
        with pytest.raises(EngineError, match="does not match the key"):
            load_engine(spec, store=signed)


def test_a_card_that_is_replaced_by_a_valid_one_is_refused(signed: Lake) -> None:
    """The digest of a forged version is right; only its signature is missing."""
    forged = dataclasses.replace(CARD, notes=("forged",), metrics={"dice": 1.0})
    signed.write(layout.card_file("tiny", CARD.version), forged.to_json().encode())
    for spec in (ALIAS, CARD.name):
        with pytest.raises(EngineError, match="has no signature, but other documents of model"):
            load_engine(spec, store=signed)
    with pytest.raises(EngineError, match="has no signature"):
        promote(signed, CARD.name, "staging", tolerance=Tolerance())


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_an_entry_that_was_edited_is_refused_by_all_that_read_the_alias(signed: Lake) -> None:
    register(signed, OTHER, GRAPHS)
    key = series.entry_key(layout.alias_series("tiny", "production"), 1)
    edited = signed.read(key).replace(CARD.version.encode(), OTHER.version.encode())
    assert edited != signed.read(key)
    signed.write(key, edited)
    for use in (
        lambda: load_engine(ALIAS, store=signed),
        lambda: aliases.history(signed, "tiny", "production"),
        lambda: promote(signed, OTHER.name, "production", tolerance=Tolerance(), force=True),
        lambda: rollback(signed, ALIAS),
    ):
        with pytest.raises(EngineError, match="changed, or written without the key"):
            use()
    assert sign_model(signed, "tiny")
    assert load_engine(ALIAS, store=signed).card == OTHER


def test_an_older_entry_that_was_edited_is_no_history_to_go_back_by(signed: Lake) -> None:
    register(signed, OTHER, GRAPHS)
    promote(signed, OTHER.name, "production", tolerance=Tolerance(), force=True, why="test")
    key = series.entry_key(layout.alias_series("tiny", "production"), 1)
    signed.write(key, signed.read(key).replace(b'"promote"', b'"rollback"'))
    assert load_engine(ALIAS, store=signed).card == OTHER, "the newest entry is signed"
    for use in (
        lambda: rollback(signed, ALIAS),
        lambda: promote(signed, CARD.name, "production", tolerance=Tolerance(), force=True),
    ):
        with pytest.raises(EngineError, match="has no signature"):
            use()


def test_a_signature_does_not_hold_for_the_same_bytes_in_another_place(signed: Lake) -> None:
    entry = series.entry_key(layout.alias_series("tiny", "production"), 1)
    staging = series.entry_key(layout.alias_series("tiny", "staging"), 1)
    signed.write(staging, signed.read(entry))
    with pytest.raises(EngineError, match=r"staging.* has no signature"):
        load(signed, "tiny@staging")


def test_an_alias_that_is_moved_without_the_key_is_refused(
    signed: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = aliases.current(signed, "tiny", "production")
    monkeypatch.delenv(KEY_VARIABLE)
    register(signed, OTHER, GRAPHS)
    aliases.move(signed, "tiny", "production", seen, version=OTHER.version, action="promote")
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pytest.raises(EngineError, match="has no signature"):
        load_engine(ALIAS, store=signed)


def test_without_a_key_nothing_can_be_required(
    signed: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    assert load_engine(ALIAS, store=signed).card == CARD
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} is not set"):
        load(signed)
    with pytest.raises(ConfigError, match="signing needs a key"):
        sign_model(signed, "tiny")


def test_a_short_key_is_refused_and_not_shown(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "hunter2")
    with pytest.raises(ConfigError) as refused:
        register(lake, CARD, GRAPHS)
    assert "has 7 characters, expected 32 or more" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_folder_has_no_signature_and_the_shipped_engine_needs_none(
    lake: Lake, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pytest.raises(ConfigError, match="accepts no engine from a folder"):
        load(lake, str(tiny_engine))
    assert load(lake, "demo").card.model == "demo"


def test_a_model_that_does_not_exist_is_not_signed(signed: Lake) -> None:
    with pytest.raises(ConfigError, match="there is no model 'tini'"):
        sign_model(signed, "tini")
