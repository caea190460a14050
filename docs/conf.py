"""Configuration of the documentation site: `make docs`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]

project = "steel_batch"
copyright = "2026, the steel_batch authors"
extensions = ["myst_parser", "sphinx_click", "sphinx_copybutton", "reference_tables"]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "steel_batch"
html_static_path: list[str] = []
html_copy_source = False
nitpicky = True
suppress_warnings = ["myst.header"]
