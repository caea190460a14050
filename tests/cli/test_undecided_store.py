"""Every command that writes to a store refuses one that does not decide between two writers."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from steel_batch.cli import cli
from steel_batch.errors import UndecidedStoreError
from steel_batch.lake import Lake
from tests.conftest import DATE, PATTERN, fill_lake, new_bucket
from tests.made_up_run import commit_run, image_keys

pytestmark = pytest.mark.s3

LAKE = ["--images", "{images}", "--key-pattern", PATTERN]
WRITING = {
    "score": ["score", *LAKE, "--date", DATE],
    "backfill": ["backfill", *LAKE, "--from", DATE, "--to", DATE],
    "quarantine retry": ["quarantine", "retry", *LAKE, "--date", DATE],
    "gc": ["gc"],
    "upgrade": ["upgrade"],
    "engines promote": ["engines", "promote", "mine-0123456789ab"],
    "engines rollback": ["engines", "rollback", "mine@production", "--why", "false alarms"],
    "engines sign": ["engines", "sign", "mine"],
    "build-engine": ["build-engine", "demo"],
}
READING = {
    "plan": ["plan", *LAKE, "--date", DATE],
    "query": ["query", "SELECT count(*) FROM predictions"],
    "verify": ["verify"],
    "runs list": ["runs", "list"],
    "quarantine list": ["quarantine", "list"],
    "engines list": ["engines", "list"],
    "gc --dry-run": ["gc", "--dry-run"],
}


@pytest.fixture(scope="module")
def places(ignoring_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A lake and a store with one committed run, on a server that ignores conditions."""
    bucket = new_bucket(ignoring_endpoint)
    images = Lake(str(tmp_path_factory.mktemp("images")))
    fill_lake(images, num_images=2)
    store = Lake(f"{bucket}/store", endpoint_url=ignoring_endpoint)
    commit_run(store, image_keys(4))
    return {"images": images.url, "store": store.url, "endpoint": ignoring_endpoint}


def command(words: list[str], places: dict[str, str]) -> list[str]:
    given = [word.format(**places) if word == "{images}" else word for word in words]
    return [*given, "--store", places["store"], "--endpoint-url", places["endpoint"]]


@pytest.mark.parametrize("name", WRITING)
def test_a_command_that_writes_stops_and_writes_nothing(name: str, places: dict[str, str]) -> None:
    store = Lake(places["store"], endpoint_url=places["endpoint"])
    before = {item.key: item.etag for item in store.list_objects()}
    done = CliRunner().invoke(cli, command(WRITING[name], places))
    assert done.exit_code == 1
    assert isinstance(done.exception, UndecidedStoreError), done.output
    assert "--unsafe-single-writer" in str(done.exception)
    assert {item.key: item.etag for item in store.list_objects()} == before


@pytest.mark.parametrize("name", READING)
def test_a_command_that_only_reads_does_not_ask(name: str, places: dict[str, str]) -> None:
    done = CliRunner().invoke(cli, command(READING[name], places), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_each_command_that_takes_the_flag_is_tried_here_and_the_others_are_not() -> None:
    """`train` is a package of its own; `submit` hands its flags on."""

    def takers(group: click.Group, path: str = "") -> set[str]:
        found = set()
        for name, sub in group.commands.items():
            if isinstance(sub, click.Group):
                found |= takers(sub, f"{path}{name} ")
            elif any("--unsafe-single-writer" in param.opts for param in sub.params):
                found.add(f"{path}{name}")
        return found

    assert takers(cli) == set(WRITING)
