"""Sphinx configuration. `make docs` builds with warnings as errors and without the network."""

from leakguard import __version__

project = "leakguard"
author = "the leakguard authors"
copyright = author
version = release = __version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"leakguard {release}"
html_copy_source = False
