"""Commands in messages can be pasted into a shell."""

from __future__ import annotations

import shlex

from steel_batch.lake import Lake
from steel_batch.lake.commands import command


def test_a_suggested_command_is_quoted_and_names_the_store_and_its_endpoint() -> None:
    store = Lake("/data/o'neil's store")
    said = command(store, "query", "FROM current")
    assert said.startswith("`steel-batch query 'FROM current' --store ")
    assert shlex.split(said.strip("`"))[-1] == store.url
    ceph = Lake("s3://lake/steel", endpoint_url="http://ceph:7480")
    assert command(ceph, "verify") == (
        "`steel-batch verify --store s3://lake/steel --endpoint-url http://ceph:7480`"
    )
