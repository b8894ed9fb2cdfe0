"""Settings of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path

from zope.interface.interface import InterfaceClass

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# Sphinx shows an annotation that is no class by its repr.
InterfaceClass.__repr__ = lambda self: f"~{self.__module__}.{self.__name__}"

project = "docker-tracker"
author = "the authors of docker-tracker"
copyright = "the authors of docker-tracker"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.viewcode", "generated", "generated_control"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = "docker-tracker"
nitpicky = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# What is documented elsewhere, or is private.
nitpick_ignore_regex = [
    ("py:.*", r"(twisted|zope|attr|attrs|collections|enum|pathlib|socket|typing|ssl|http)\b.*"),
    ("py:.*", r"docker_tracker\.(config|connections|addresses|http1|proxy)\..*"),
    ("py:.*", r"T|Deferred|IReactorTime|.*\._.*|optional|docker_tracker\.testing\.T"),
]
