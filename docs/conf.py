"""Settings of the documentation site: `sphinx-build -W docs build/docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "rlgen"
author = copyright = "The rlgen authors"
html_theme = "furo"
html_title = "rlgen"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 2

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "member-order": "bysource",
}
# As text: signatures name types of many modules, and no page links to all of them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app):
    """Puts the tables below the page that says what they are."""
    import preset_tables

    def fill(app, page, source):
        if page == "api/presets":
            source[0] += preset_tables.tables()

    app.connect("source-read", fill)
