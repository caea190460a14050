"""A way to run commands, as the tests of the command line have it."""

from tests.cli.conftest import steel_batch as steel_batch
