"""No version of a library that is admitted, or installed here, has a known fault that bites."""

from __future__ import annotations

import itertools
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ADVISORIES = tomllib.loads((ROOT / "advisories.toml").read_text())["advisory"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lower_bounds() -> dict[str, list[Version]]:
    """Each package's lower bounds, in the base install and in every extra."""
    found: dict[str, list[Version]] = {}
    extras = PROJECT["optional-dependencies"].values()
    for text in itertools.chain(PROJECT["dependencies"], *extras):
        requirement = Requirement(text)
        bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
        found.setdefault(requirement.name, []).extend(bounds)
    return found


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda advisory: advisory["id"])
def test_no_version_with_a_known_fault_is_admitted_or_installed(advisory: dict[str, str]) -> None:
    fixed = Version(advisory["fixed"])
    bounds = lower_bounds()[advisory["package"]]
    assert bounds
    assert all(bound >= fixed for bound in bounds)
    assert Version(version(advisory["package"])) >= fixed


def test_every_advisory_says_what_it_is_about() -> None:
    for advisory in ADVISORIES:
        assert set(advisory) == {"id", "package", "fixed", "what"}
    assert len({advisory["id"] for advisory in ADVISORIES}) == len(ADVISORIES)
