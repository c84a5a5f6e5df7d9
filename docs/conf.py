"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W --keep-going docs docs/_build`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent / "_extensions")]

import jaxgen  # noqa: E402

project = "jaxgen"
author = "the jaxgen authors"
release = version = jaxgen.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "plain_docstrings", "options", "audio_players"]
exclude_patterns = ["_build", "_extensions", "reference/generated"]
toc_object_entries = False  # a page of the API has hundreds of names

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "main"}
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"jaxgen {release}"
html_show_copyright = False
html_copy_source = False
