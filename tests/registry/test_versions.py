from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.errors import ConfigError, EngineError, FormatError
from steel_batch.lake import Lake
from steel_batch.registry import aliases
from steel_batch.registry.registration import register
from steel_batch.registry.versions import (
    DEMO_FOLDER,
    list_aliases,
    list_models,
    list_versions,
    load_engine,
)
from tests.conftest import KINDS_OF_LAKE, folder_daily
from tests.tiny_engine import changed, tiny_version, write_tiny_engine

lake = folder_daily

CARD, GRAPHS = tiny_version()
OTHER, OTHER_GRAPHS = tiny_version(min_area_px=9, created="2026-02-01T00:00:00+00:00")


def promoted(lake: Lake) -> Lake:
    register(lake, CARD, GRAPHS)
    register(lake, OTHER, OTHER_GRAPHS)
    aliases.move(lake, "tiny", "production", None, version=CARD.version, action="promote")
    return lake


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_a_version_is_found_by_name_alias_and_folder(lake: Lake) -> None:
    promoted(lake)
    for spec in (CARD.name, "tiny@production"):
        engine = load_engine(spec, store=lake)
        assert engine.card == CARD
        assert engine.read_graph("fp32") == GRAPHS["fp32"]
        assert engine.where == f"{spec} --store {lake.url}"
    assert list_models(lake) == ["tiny"]
    assert list_aliases(lake, "tiny") == {"production": CARD.version}
    assert list(list_versions(lake, "tiny").items()) == [
        (CARD.version, CARD),
        (OTHER.version, OTHER),
    ]


def test_a_versions_folder_is_an_engine_without_a_store(tiny_engine: Path) -> None:
    engine = load_engine(str(tiny_engine), store=None)
    assert engine.card == CARD
    assert engine.read_graph("fp32") == GRAPHS["fp32"]
    assert (engine.plan_home.url, engine.plan_folder) == (str(tiny_engine), "plans")


def test_plans_of_any_engine_lie_in_the_store(tiny_engine: Path, lake: Lake) -> None:
    engine = load_engine(str(tiny_engine), store=lake)
    assert engine.plan_home is lake
    assert engine.plan_folder == f"registry/tiny/{CARD.version}/plans"


def test_an_engine_travels_to_other_processes(tiny_engine: Path) -> None:
    engine = load_engine(str(tiny_engine), store=None)
    again = pickle.loads(pickle.dumps(engine))  # noqa: S301 - our own object, as Ray ships it
    assert again.card == engine.card
    assert again.read_graph("fp32") == GRAPHS["fp32"]


@pytest.mark.parametrize("spec", ["a folder", "the shipped one"])
def test_an_engine_in_a_folder_travels_to_machines_without_the_folder(
    spec: str, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    if spec == "the shipped one":
        shutil.copytree(DEMO_FOLDER, folder)
    else:
        write_tiny_engine(folder)
    engine = load_engine(str(folder), store=None)
    graph = engine.read_graph("fp32")
    shipped = pickle.dumps(engine)
    shutil.rmtree(folder)
    again = pickle.loads(shipped)  # noqa: S301 - our own object, as Ray ships it
    assert again.read_graph("fp32") == graph
    further = pickle.loads(pickle.dumps(again))  # noqa: S301 - as above
    assert further.read_graph("fp32") == graph
    assert further.card == engine.card


def test_a_graph_that_changed_on_the_way_is_not_loaded(tiny_engine: Path) -> None:
    engine = load_engine(str(tiny_engine), store=None)
    changed = dataclasses.replace(engine, carried={"model.onnx": b"another"})
    with pytest.raises(EngineError, match="the file was changed and is not loaded"):
        changed.read_graph("fp32")


def test_an_engine_in_s3_travels_without_its_graphs(bucket: str, s3_endpoint: str) -> None:
    lake = Lake(bucket, endpoint_url=s3_endpoint)
    register(lake, CARD, GRAPHS)
    engine = load_engine(CARD.name, store=lake)
    assert len(pickle.dumps(engine)) < 10_000


@pytest.mark.parametrize(
    "spec",
    ["tiny@staging", "other@production", "tiny-000000000000", "nothing", "tiny@", "Tiny@x", "@"],
)
def test_an_unknown_engine_lists_those_that_exist(lake: Lake, spec: str) -> None:
    promoted(lake)
    with pytest.raises(ConfigError) as caught:
        load_engine(spec, store=lake)
    for part in (repr(spec), "demo", "tiny@production", CARD.name, OTHER.name):
        assert part in str(caught.value)


def test_an_alias_of_a_version_that_is_gone_says_so(lake: Lake) -> None:
    promoted(lake)
    key = layout.card_file("tiny", CARD.version)
    lake.delete([key])
    with pytest.raises(ConfigError) as caught:
        load_engine("tiny@production", store=lake)
    text = str(caught.value)
    assert text.startswith(f"tiny@production points to {CARD.name}, but its card {lake.uri(key)} ")
    assert text.endswith(f" `engines rollback`. There are: demo, {OTHER.name}.")


def test_an_unknown_engine_is_unknown_whatever_other_cards_say(lake: Lake) -> None:
    promoted(lake)
    lake.write(layout.card_file("tiny", CARD.version), b"{}")
    with pytest.raises(ConfigError, match=f"There are: demo, tiny@production, .*{OTHER.name}"):
        load_engine("tiny-000000000000", store=lake)


def test_a_damaged_card_hides_no_other_version(lake: Lake) -> None:
    promoted(lake)
    lake.write(layout.card_file("tiny", CARD.version), b"{}")
    damaged, other = list_versions(lake, "tiny").items()
    assert damaged[0] == CARD.version
    assert isinstance(damaged[1], EngineError)
    assert other == (OTHER.version, OTHER)


def test_a_version_under_another_models_name_is_refused(lake: Lake) -> None:
    promoted(lake)
    for name in ("card.json", "model.onnx"):
        data = lake.read(f"{layout.version_dir('tiny', CARD.version)}/{name}")
        lake.write(f"{layout.version_dir('other', CARD.version)}/{name}", data)
    with pytest.raises(EngineError, match=f"is the card of {CARD.name}, which belongs in .*/tiny/"):
        load_engine(f"other-{CARD.version}", store=lake)
    assert isinstance(list_versions(lake, "other")[CARD.version], EngineError)
    assert load_engine(CARD.name, store=lake).card == CARD


@pytest.mark.s3
def test_a_versions_folder_in_s3_is_read_from_the_endpoint(bucket: str, s3_endpoint: str) -> None:
    lake = Lake(bucket, endpoint_url=s3_endpoint)
    register(lake, CARD, GRAPHS)
    folder = lake.uri(layout.version_dir("tiny", CARD.version))
    for engine in (
        load_engine(folder, store=lake),
        load_engine(folder, store=None, endpoint_url=s3_endpoint),
    ):
        assert engine.card == CARD
        assert engine.read_graph("fp32") == GRAPHS["fp32"]


def test_an_empty_store_offers_the_demo_engine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There are: demo\."):
        load_engine("steel@production", store=Lake(str(tmp_path / "store")))
    with pytest.raises(ConfigError, match="none was given"):
        load_engine("steel@production", store=None)
    with pytest.raises(ConfigError, match=r"card\.json does not exist"):
        load_engine(str(tmp_path), store=None)


def test_registering_the_same_again_changes_nothing(lake: Lake) -> None:
    assert register(lake, CARD, GRAPHS) == CARD.version
    later = dataclasses.replace(CARD, created="2027-01-01T00:00:00+00:00", notes=("again",))
    assert register(lake, later, GRAPHS) == CARD.version
    assert list_versions(lake, "tiny") == {CARD.version: CARD}


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_many_registering_at_once_make_one_version(lake: Lake) -> None:
    cards = [dataclasses.replace(CARD, notes=(f"writer {i}",)) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        versions = set(threads.map(lambda card: register(lake, card, GRAPHS), cards))
    assert versions == {CARD.version}
    (standing,) = list_versions(lake, "tiny").values()
    assert standing in cards


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_a_registered_version_is_never_changed(lake: Lake) -> None:
    card = changed(CARD, format=1)
    register(lake, card, GRAPHS)
    renamed = dataclasses.replace(card, classes=("a", "b", "c", "d"))
    with pytest.raises(EngineError) as refused:
        register(lake, renamed, GRAPHS)
    assert str(refused.value) == (
        f"{card.name} is already registered in {lake.url} with classes ('band_1', 'band_2', "
        "'band_3', 'band_4'), not ('a', 'b', 'c', 'd'): a version never changes, so nothing was "
        "replaced. Register it under another model name, or with the registered settings."
    )
    assert list_versions(lake, "tiny") == {card.version: card}


def test_the_same_graph_with_other_classes_size_or_thresholds_is_another_version() -> None:
    others = [
        changed(CARD, model="other"),
        changed(CARD, classes=("a", "b", "c", "d")),
        changed(CARD, height=32),
        changed(CARD, width=32),
        changed(CARD, thresholds=(0.5, 0.5, 0.5, 0.4)),
        changed(CARD, format=1),
    ]
    assert len({CARD.version, *(card.version for card in others)}) == 7
    assert changed(CARD, notes=("x",), metrics={"dice": 1.0}).version == CARD.version


def test_a_card_of_the_first_format_keeps_its_version(lake: Lake) -> None:
    card = changed(CARD, format=1)
    register(lake, card, GRAPHS)
    key = layout.card_file("tiny", card.version)
    raw = json.loads(lake.read(key))
    del raw["format"]  # as it was written until November 2026
    lake.write(key, json.dumps(raw).encode())
    assert load_engine(card.name, store=lake).card == card
    assert load_engine("demo", store=None).card.name == "demo-b68b94c6c92f"


def test_a_card_of_a_newer_format_is_refused_by_name(lake: Lake) -> None:
    promoted(lake)
    key = layout.card_file("tiny", CARD.version)
    lake.write(key, lake.read(key).replace(b'"format": 2', b'"format": 3'))
    with pytest.raises(
        FormatError, match=f"{key} is an engine card of format 3; .* formats 1 to 2"
    ):
        load_engine(CARD.name, store=lake)


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_a_file_changed_by_hand_is_not_replaced(lake: Lake) -> None:
    key = f"{layout.version_dir('tiny', CARD.version)}/model.onnx"
    lake.write(key, b"something else")
    with pytest.raises(EngineError, match="changed by hand"):
        register(lake, CARD, GRAPHS)
    assert lake.read(key) == b"something else"
    assert list_versions(lake, "tiny") == {}


def test_a_version_without_its_card_is_not_listed(lake: Lake) -> None:
    register(lake, CARD, GRAPHS)
    lake.write(f"{layout.version_dir('tiny', '0123456789ab')}/model.onnx", b"half registered")
    assert list_versions(lake, "tiny") == {CARD.version: CARD}


def test_a_changed_graph_is_not_loaded(lake: Lake) -> None:
    register(lake, CARD, GRAPHS)
    engine = load_engine(CARD.name, store=lake)
    key = f"{layout.version_dir('tiny', CARD.version)}/model.onnx"
    lake.write(key, GRAPHS["fp32"] + b"\0")
    with pytest.raises(EngineError, match="was changed and is not loaded"):
        engine.read_graph("fp32")
    lake.delete([key])
    with pytest.raises(EngineError, match="Register the version again"):
        engine.read_graph("fp32")
    with pytest.raises(EngineError, match="has no int8 graph; it has: fp32"):
        engine.read_graph("int8")


@pytest.mark.parametrize(
    ("changes", "graphs", "message"),
    [
        ({"version": "0123456789ab"}, GRAPHS, "the content has version"),
        ({}, {}, "the graphs given are"),
        ({}, {"fp32": b"x"}, "does not have the SHA-256"),
    ],
)
def test_a_card_that_is_not_its_graphs_is_refused(
    lake: Lake, changes: dict[str, Any], graphs: dict[str, bytes], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        register(lake, dataclasses.replace(CARD, **changes), graphs)
    assert list(lake.list_objects()) == []


def test_a_graph_outside_the_contract_is_not_registered(lake: Lake) -> None:
    card, graphs = tiny_version(height=32)
    wrong = changed(card, height=64)
    with pytest.raises(EngineError, match="does not fulfil the engine's contract"):
        register(lake, wrong, graphs)
    assert list(lake.list_objects()) == []


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"min_area_px": [\n   0,', '"min_area_px": [\n   200,'),
        ('"never"', '"fit"'),
        ('"band_1"', '"scratches"'),
        ('"thresholds": [\n  0.5,', '"thresholds": [\n  0.4,'),
    ],
)
def test_a_card_that_was_edited_by_hand_is_refused(lake: Lake, written: str, instead: str) -> None:
    promoted(lake)
    key = layout.card_file("tiny", CARD.version)
    text = lake.read(key).decode()
    assert text.count(written) == 1
    lake.write(key, text.replace(written, instead).encode())
    with pytest.raises(EngineError) as refused:
        load_engine("tiny@production", store=lake)
    assert f"{lake.uri(key)} was changed after it was registered" in str(refused.value)
    assert f"but it states {CARD.version}. Restore the card" in str(refused.value)
    assert load_engine(OTHER.name, store=lake).card == OTHER


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{}", "it has no 'model'. Restore the card"),
        (b"no json", "Expecting value: line 1"),
        (b'{"model": "m", "classes": []}', "it has no 'version'"),
        (b'{"model": 3}', "'model' is 3, expected text"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_damaged_card_is_named(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "card.json").write_bytes(text)
    with pytest.raises(EngineError) as refused:
        load_engine(str(tmp_path), store=None)
    assert f"{tmp_path}/card.json is not a valid engine card: {reason}" in str(refused.value)
