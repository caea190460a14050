"""The example cluster is one that Ray's launcher takes, and says what to change in it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import ray
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()


def test_the_example_cluster_keeps_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load(TEXT)
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    # Shards that are in work on the head would be lost with the run.
    assert types[cluster["head_node_type"]]["resources"]["CPU"] == 0


def test_what_to_change_names_the_address_that_is_installed() -> None:
    comment, _, rest = TEXT.partition("cluster_name:")
    addresses = {word.rstrip("'") for word in rest.split() if word.startswith("git+")}
    assert len(addresses) == 1
    assert addresses.pop() in comment.partition("# Change these:")[2]


def test_every_node_of_the_example_cluster_trains_with_one_line_more() -> None:
    cluster = yaml.safe_load(TEXT.replace("  # - ~/", "  - ~/"))
    (line,) = set(cluster["setup_commands"]) - set(yaml.safe_load(TEXT)["setup_commands"])
    assert "pip install --quiet 'steel-batch[train] @ git+" in line


def test_every_node_has_the_token_and_asks_for_it() -> None:
    cluster = yaml.safe_load(TEXT)
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in cluster[commands] if "ray start" in line]
        assert start.startswith("RAY_AUTH_MODE=token ")


def test_the_dashboard_listens_on_the_head_alone() -> None:
    (start,) = [
        line for line in yaml.safe_load(TEXT)["head_start_ray_commands"] if "ray start" in line
    ]
    assert "--dashboard-host=127.0.0.1" in start.split()
