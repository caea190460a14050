"""The example cluster is one that Ray's launcher takes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import ray
import yaml

ROOT = Path(__file__).parents[1]


def test_the_example_cluster_keeps_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    # Shards that are in work on the head would be lost with the run.
    assert types[cluster["head_node_type"]]["resources"]["CPU"] == 0
