"""Names of encoders, known without importing PyTorch.

Importing the libraries takes 6 to 20 seconds. A mistyped name is refused earlier: the known names
are read from the source files of the installed libraries.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from steel_batch.errors import ConfigError
from training.choices import OWN_ENCODERS

TIMM_PREFIX: Final = "tu-"
"""Prefix of the encoders of timm."""
LIBRARY_NAMES: Final = re.compile(r'^    "([\w.-]+)": \{$', re.MULTILINE)
TIMM_NAMES: Final = re.compile(r"@register_model\s+def (\w+)\(")
IN_BOTH: Final = "resnet18"
"""If even this name is not found, the source files have an unknown form."""


def check_encoder(name: str) -> None:
    """Refuse an encoder that neither library has.

    If the names cannot be read, nothing is refused here; building the network does that.

    Raises:
        ConfigError: It suggests the most similar names.
    """
    timm_name = name.removeprefix(TIMM_PREFIX)
    known = library_encoders() if timm_name == name else timm_encoders()
    if IN_BOTH in known and timm_name.partition(".")[0] not in known:
        raise unknown_encoder(name, known)


def unknown_encoder(name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an encoder that its library does not have."""
    timm_name = name.removeprefix(TIMM_PREFIX)
    if timm_name != name:
        return unknown_name("encoder", timm_name, known, " in timm")
    return unknown_name("encoder", name, known, "; tu-… is one of timm's")


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> ConfigError:
    """Return the error for an unknown name."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known) or known[:3]
    return ConfigError(f"there is no {what} {name!r}{where}. Did you mean {' or '.join(near)}?")


def library_encoders() -> frozenset[str]:
    """Return the encoders of segmentation-models-pytorch, and ours; those of timm have a prefix."""
    found = _find("segmentation_models_pytorch", "encoders", LIBRARY_NAMES)
    return found.union(OWN_ENCODERS) if found else found


def timm_encoders() -> frozenset[str]:
    """Return the networks of timm, without the prefix and without weight tags."""
    return _find("timm", "models", TIMM_NAMES)


def _find(package: str, folder: str, pattern: re.Pattern[str]) -> frozenset[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return frozenset()
    files = (Path(spec.origin).parent / folder).glob("*.py")
    return frozenset(name for file in files for name in pattern.findall(file.read_text("utf-8")))
