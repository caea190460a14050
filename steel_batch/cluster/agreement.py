"""What every node that works for a run must have in common with the machine of the command.

A node may join at any time, installed and mounted by other people. So each process checks its own
node when it starts to work, instead of the driver checking all nodes beforehand.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steel_batch.engine.installed import installed
from steel_batch.errors import ConfigError, MachineError, SteelBatchError
from steel_batch.lake import Lake

MAX_ENTRIES: Final = 64
"""Names of a folder that are recorded; finding one of them is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was found on the machine of the command. Ray ships it to the nodes."""

    install: str
    """See `installed`."""
    host: str
    folders: Mapping[str, tuple[str, ...]]
    """Per folder that is not in an object store, some names of its entries."""

    @classmethod
    def of_this_machine(cls, *lakes: Lake) -> Agreement:
        """Record what this machine has.

        Args:
            lakes: Where a run reads and writes. Those in S3 are the same for every machine.
        """
        folders = {Path(lake.url) for lake in lakes if not lake.is_s3}
        return cls(
            install=installed(),
            host=platform.node(),
            folders={str(folder): _names_in(folder) for folder in folders},
        )

    def check(self) -> None:
        """Make sure that this machine has the same.

        Raises:
            MachineError: It has another steel-batch, or lacks a folder: an unmounted folder looks
                empty, and its images look missing.
        """
        if self.install != installed():
            raise MachineError(
                f"steel-batch {installed()} is installed here, but {self.install} on {self.host}, "
                "where the command runs. Install the same one on every node and restart Ray."
            )
        for folder, names in self.folders.items():
            if names and not any((Path(folder) / name).exists() for name in names):
                raise MachineError(
                    f"the folder {folder} lacks here what it has on {self.host}, where the command "
                    f"runs, such as {names[0]!r}. Mount it at the same path on every node, or keep "
                    "images and store in S3."
                )

    def blame(self, error: SteelBatchError) -> SteelBatchError:
        """The same error, with this node's name if it is not the command's machine.

        What a flag requests may be available there, and only missing on this node.
        """
        here = platform.node()
        if here == self.host:
            return error
        kind = MachineError if type(error) is ConfigError else type(error)
        return kind(f"on node {here}: {error.message}")


def _names_in(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():  # a manifest's file, or a store that does not exist yet
        return ()
    return tuple(path.name for path in itertools.islice(folder.iterdir(), MAX_ENTRIES))
