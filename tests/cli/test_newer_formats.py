"""Whatever a newer build wrote into a store is refused by name, and never replaced or deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steel_batch import layout
from steel_batch.engine.compiled_plans import PlanRecord, list_plans, put_plan
from steel_batch.errors import FormatError
from steel_batch.lake import Lake, series
from steel_batch.registry import aliases
from steel_batch.registry.registration import register
from steel_batch.registry.signatures import KEY_VARIABLE, sign
from steel_batch.registry.versions import load_engine
from tests.cli.command_line import Command
from tests.golden.make_store import DATES, INTERRUPTED, PATTERN, draw_interrupted
from tests.golden_store import GOLDEN_ENGINE, GoldenPlaces, copy_golden_store
from tests.made_up_run import begin, commit_run, image_keys, score_shards
from tests.tiny_engine import tiny_version

NEWER = 99
RUN = layout.run_id(GOLDEN_ENGINE, INTERRUPTED, 1)
DONE = layout.run_id(GOLDEN_ENGINE, DATES[0], 1)


@pytest.fixture
def golden(tmp_path: Path) -> GoldenPlaces:
    places = copy_golden_store(tmp_path)
    draw_interrupted(places.images)
    return places


def make_newer(store: Lake, key: str) -> None:
    """State a newer format, as a build would that also has other fields."""
    data = store.read(key)
    if key.endswith(".parquet"):
        make_plan_newer(Path(store.uri(key)))
    elif key.endswith(".jsonl"):
        lines = data.decode().splitlines()
        store.write(key, "\n".join([f'{{"format": {NEWER}}}', *lines, ""]).encode())
    else:
        found = json.loads(data)
        fields = found if isinstance(found, dict) else {"entries": found}
        store.write(key, json.dumps({**fields, "format": NEWER, "mood": "good"}).encode())


def make_plan_newer(path: Path) -> None:
    table = pq.read_table(path)
    metadata = dict(pq.read_metadata(path).metadata)
    info = json.loads(metadata[b"steel_batch.plan"])
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        footer = json.dumps({**info, "format": NEWER, "mood": "good"}).encode()
        writer.add_key_value_metadata({b"steel_batch.plan": footer})


def content(store: Lake) -> dict[str, bytes]:
    """Every file, without locks, what is told of an attempt, and the upgrade of tables' logs."""
    return {
        item.key: store.read(item.key)
        for item in store.list_objects("")
        if not item.key.startswith("locks/")
        and not item.key.endswith("events.jsonl")
        and "/_delta_log/" not in item.key
    }


def check_refused(steel_batch: Command, store: Lake, key: str, arguments: list[object]) -> None:
    """The command ends with one sentence that names the file, and the store is as it was."""
    before = content(store)
    done = steel_batch(*arguments)
    assert done.code == 1, done
    assert f"{store.uri(key)} is " in done.err
    assert f"of format {NEWER}; this steel-batch reads format" in done.err
    assert "upgrade steel-batch on this machine" in done.err
    assert content(store) == before


def score(golden: GoldenPlaces, command: str = "score", date: str = INTERRUPTED) -> list[object]:
    dates: dict[str, list[object]] = {
        "score": ["--date", date],
        "plan": ["--date", date],
        "backfill": ["--from", date, "--to", date],
    }
    limits = ["--max-bad", "0.5", "--shard-images", "1"]
    return [
        command, "--images", golden.images, "--key-pattern", PATTERN, "--engine", golden.engine,
        "--store", golden.store.url, *limits, *dates[command],
    ]  # fmt: skip


FILES_OF_A_RUN = ["run.json", "result.json"]


@pytest.mark.parametrize("name", FILES_OF_A_RUN)
@pytest.mark.parametrize(
    "command", [["verify"], ["gc"], ["gc", "--dry-run"], ["runs", "show", DONE]], ids=str
)
def test_a_run_of_a_newer_build_stops_what_reads_all_of_it(
    steel_batch: Command, golden: GoldenPlaces, name: str, command: list[str]
) -> None:
    key = layout.run_file(DONE, name)
    make_newer(golden.store, key)
    check_refused(steel_batch, golden.store, key, [*command, "--store", golden.store.url])


def test_another_run_of_the_same_date_is_shown(steel_batch: Command, golden: GoldenPlaces) -> None:
    make_newer(golden.store, layout.run_file(DONE, "run.json"))
    later = layout.run_id(GOLDEN_ENGINE, DATES[0], 2)
    done = steel_batch("runs", "show", later, "--store", golden.store.url)
    assert (done.code, done.out.splitlines()[0]) == (0, f"{later}: committed")


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("name", [*FILES_OF_A_RUN, "events.jsonl"])
def test_a_list_of_runs_shows_the_others_and_names_the_newer_one(
    steel_batch: Command, golden: GoldenPlaces, name: str, output: str
) -> None:
    num_runs = len(list(golden.store.list_dirs("runs/")))
    run_id = RUN if name == "events.jsonl" else DONE
    key = layout.run_file(run_id, name)
    make_newer(golden.store, key)
    done = steel_batch("runs", "list", "--store", golden.store.url, "--output", output)
    assert done.code == 1
    assert f"{golden.store.uri(key)} is " in done.err
    assert f"of format {NEWER}" in done.err
    if output == "json":
        states = {run["run_id"]: run["state"] for run in done.json}
        assert len(states) == num_runs
        assert [run for run, state in states.items() if state == "unreadable"] == [run_id]
    else:
        assert len(done.out.strip().splitlines()) == 1 + num_runs
        assert f"{run_id}  unreadable: " in done.out


@pytest.mark.parametrize("command", ["score", "backfill"])
@pytest.mark.parametrize("name", ["run.json", "plan.parquet", "events.jsonl", "receipt"])
def test_a_run_that_a_newer_build_went_on_with_is_not_resumed(
    steel_batch: Command, golden: GoldenPlaces, name: str, command: str
) -> None:
    key = layout.run_file(RUN, name)
    if name == "receipt":
        key = next(item.key for item in golden.store.list_objects(layout.receipts_dir(RUN)))
    make_newer(golden.store, key)
    check_refused(steel_batch, golden.store, key, score(golden, command))


def test_a_list_of_files_of_a_newer_build_is_not_replaced(
    steel_batch: Command, golden: GoldenPlaces
) -> None:
    key = layout.files_list(RUN, layout.MERGED)
    golden.store.write(key, json.dumps({"format": NEWER, "parts": []}).encode())
    check_refused(steel_batch, golden.store, key, score(golden))


def test_the_lock_of_a_newer_build_is_not_taken_over(
    steel_batch: Command, golden: GoldenPlaces
) -> None:
    name = layout.lock_series(GOLDEN_ENGINE, INTERRUPTED)
    number, _ = series.latest(golden.store, name) or (0, b"")
    key = series.entry_key(name, number)
    make_newer(golden.store, key)
    before = golden.store.read(key)
    check_refused(steel_batch, golden.store, key, score(golden))
    assert series.latest(golden.store, name) == (number, before)


def test_what_a_newer_build_set_aside_is_not_listed_in_part(
    steel_batch: Command, tmp_path: Path
) -> None:
    store = Lake(str(tmp_path))
    record = begin(store, image_keys(8))
    score_shards(store, record, bad=image_keys(8))
    key = layout.receipt_file(record.run_id, 1)
    make_newer(store, key)
    command = ["quarantine", "list", "--run", record.run_id, "--store", store.url]
    check_refused(steel_batch, store, key, [*command])


def test_receipts_of_a_newer_build_are_no_garbage(steel_batch: Command, tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    abandoned = begin(store, image_keys(8))
    score_shards(store, abandoned)
    begin(store, image_keys(8))
    key = layout.receipt_file(abandoned.run_id, 1)
    make_newer(store, key)
    check_refused(steel_batch, store, key, ["gc", "--store", store.url])


@pytest.mark.parametrize("command", [["verify"], ["query", "SELECT count(*) FROM predictions"]])
def test_a_list_of_files_of_a_newer_build_stops_verify_and_no_query(
    steel_batch: Command, tmp_path: Path, command: list[str]
) -> None:
    store = Lake(str(tmp_path))
    result = commit_run(store, image_keys(8))
    key = layout.files_list(str(result.run_id), layout.PREDICTIONS)
    make_newer(store, key)
    arguments = [*command, "--store", store.url]
    if command == ["verify"]:
        check_refused(steel_batch, store, key, [*arguments])
    else:
        assert steel_batch(*arguments).code == 0


def test_the_ledger_of_a_newer_build_is_neither_read_nor_replaced(
    steel_batch: Command, golden: GoldenPlaces
) -> None:
    noted = steel_batch(*score(golden, "backfill", DATES[0]))
    assert noted.code == 0, noted.err
    (key,) = (item.key for item in golden.store.list_objects("backfills/"))
    assert json.loads(golden.store.read(key))["format"] == 1
    make_newer(golden.store, key)
    for more in ([], ["--recheck"]):
        command = [*score(golden, "backfill", DATES[0]), *more]
        check_refused(steel_batch, golden.store, key, command)


CARD, GRAPHS = tiny_version()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A signed registry: a version, what an alias means, and a compiled plan."""
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    store = Lake(str(tmp_path / "registry"))
    register(store, CARD, GRAPHS)
    aliases.move(store, "tiny", "night", None, version=CARD.version, action="promote")
    record = PlanRecord(
        file="a.plan", sha256="", size_bytes=4, engine=CARD.name, graph_sha256="",
        runtime="tensorrt", runtime_version="10.0", compute_capability="9.0", device_name="GPU",
        precision="fp32", batch_size=8, strongly_typed=True, build_seconds=1.0, host="h",
        created="2026-11-28T00:00:00+00:00",
    )  # fmt: skip
    put_plan(load_engine(CARD.name, store=store), record, b"plan")
    return store


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("card.json", ["engines", "show", CARD.name]),
        ("card.json", ["engines", "show", "tiny@night"]),
        ("aliases/", ["engines", "show", "tiny@night"]),
        ("aliases/", ["engines", "list"]),
        ("aliases/", ["engines", "rollback", "tiny@night"]),
        ("signatures/", ["engines", "show", "tiny@night"]),
        ("signatures/", ["engines", "sign", "tiny"]),
    ],
    ids=str,
)
def test_what_a_newer_build_put_into_the_registry_is_named(
    steel_batch: Command, registry: Lake, place: str, command: list[str]
) -> None:
    keys = [item.key for item in registry.list_objects("") if place in item.key]
    for key in keys:
        make_newer(registry, key)
        if place != "signatures/":
            sign(registry, key, registry.read(key))
    before = content(registry)
    done = steel_batch(*command, "--store", registry.url)
    assert done.code == 1, done
    assert any(f"{registry.uri(key)} is " in done.err for key in keys), done.err
    assert f"of format {NEWER}; this steel-batch reads format" in done.err
    assert content(registry) == before


def test_a_compiled_plan_of_a_newer_build_is_neither_loaded_nor_replaced(registry: Lake) -> None:
    engine = load_engine(CARD.name, store=registry)
    (record,) = list_plans(engine)
    key = f"{engine.plan_folder}/{record.name}.json"
    registry.delete(item.key for item in registry.list_objects("registry/tiny/signatures/"))
    make_newer(registry, key)
    before = registry.read(key)
    for use in (lambda: list_plans(engine), lambda: put_plan(engine, record, b"plan")):
        with pytest.raises(FormatError, match=f"record of a compiled plan of format {NEWER}"):
            use()
    assert registry.read(key) == before


def test_a_list_of_engines_shows_the_others_and_names_the_newer_one(
    steel_batch: Command, registry: Lake
) -> None:
    other, graphs = tiny_version(min_area_px=9)
    register(registry, other, graphs)
    key = layout.card_file("tiny", other.version)
    make_newer(registry, key)
    done = steel_batch("engines", "list", "--store", registry.url)
    assert done.code == 1
    assert f"{registry.uri(key)} is an engine card of format {NEWER}" in done.err
    assert f"{CARD.name}" in done.out
    assert f"{other.name}  card is of a newer format" in done.out


def test_an_index_of_a_newer_build_is_neither_read_nor_replaced(
    steel_batch: Command, golden: GoldenPlaces, tmp_path: Path
) -> None:
    out = Lake(str(tmp_path / "packed"))
    command = ["pack", "--images", golden.images, "--key-pattern", PATTERN, "--out", out.url]
    assert steel_batch(*command).code == 0
    key = next(item.key for item in out.list_objects("") if item.key.endswith(".idx"))
    head, *entries = out.read(key).decode().splitlines()
    newer = json.dumps({**json.loads(head), "version": NEWER, "mood": "good"})
    out.write(key, "\n".join([newer, *entries, ""]).encode())
    before = content(out)
    plan = [
        "plan", "--images", out.url,
        "--key-pattern", f"line={{line}}/date={{date}}/*.tar#{PATTERN}",
        "--store", golden.store.url, "--engine", golden.engine, "--date", DATES[0],
    ]  # fmt: skip
    for arguments in (command, plan):
        done = steel_batch(*arguments)
        assert done.code == 1, done
        assert f"{key} is the index of a shard of format {NEWER}" in done.err
        assert "upgrade steel-batch" in done.err
    assert content(out) == before
