"""A node that is installed or mounted otherwise than the command's machine does no work."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from pathlib import Path

import pytest

from steel_batch.cluster.agreement import Agreement
from steel_batch.errors import ConfigError, MachineError, TransientLakeError
from steel_batch.lake import Lake


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for line in ("line=1", "line=2"):
        (folder / line).mkdir(parents=True)
    return folder


def test_the_machine_of_the_command_agrees_with_itself(images: Path, tmp_path: Path) -> None:
    Agreement.of_this_machine(Lake(str(images)), Lake(str(tmp_path / "new store"))).check()


def test_another_install_is_refused(images: Path) -> None:
    told = Agreement.of_this_machine(Lake(str(images)))
    other = dataclasses.replace(told, install="0.1.0 (code 00000000)", host="head")
    with pytest.raises(MachineError, match=r"but 0\.1\.0 \(code 00000000\) on head, where the"):
        other.check()


@pytest.mark.parametrize("state", ["not there", "empty", "another one"])
def test_a_folder_that_is_not_mounted_is_no_folder_whose_images_are_gone(
    images: Path, state: str
) -> None:
    told = Agreement.of_this_machine(Lake(str(images)))
    shutil.rmtree(images)
    if state != "not there":
        images.mkdir()
    if state == "another one":
        (images / "lost+found").mkdir()
    with pytest.raises(
        MachineError, match=f"the folder {images} lacks here what it has on {platform.node()}"
    ):
        told.check()


def test_images_that_are_gone_from_a_mounted_folder_are_no_reason(images: Path) -> None:
    told = Agreement.of_this_machine(Lake(str(images)))
    shutil.rmtree(images / "line=1")
    told.check()


def test_what_lies_in_s3_is_the_same_for_all() -> None:
    told = Agreement.of_this_machine(Lake("s3://lake/images"))
    assert told.folders == {}
    told.check()


def test_an_error_names_the_node_only_where_it_is_another_one() -> None:
    told, error = Agreement.of_this_machine(), TransientLakeError("the store is away.")
    assert told.blame(error) is error
    blamed = dataclasses.replace(told, host="head").blame(error)
    assert isinstance(blamed, TransientLakeError)
    assert blamed.message == f"on node {platform.node()}: the store is away."


def test_what_another_node_lacks_is_no_wrong_flag() -> None:
    """--decoder may be right and only that node without the module: exit 1, not 2."""
    told = dataclasses.replace(Agreement.of_this_machine(), host="head")
    assert type(told.blame(ConfigError("--decoder x:y: there is no x."))) is MachineError
