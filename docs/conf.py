"""Settings of Sphinx."""

from __future__ import annotations

project = "docker-tracker"
author = "the authors of docker-tracker"
copyright = "the authors of docker-tracker"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "docker-tracker"
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
