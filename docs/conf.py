"""Settings of the documentation site: `sphinx-build -W docs build/docs`."""

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
