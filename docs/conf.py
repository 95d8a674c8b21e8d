"""How Sphinx builds the site: C{make docs}."""

import meshkit

project = "meshkit"
author = "the authors of meshkit"
version = release = meshkit.__version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build", "newsfragments"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# A link or a file that is not there is an error, as "make docs" takes warnings for errors.
nitpicky = True

html_theme = "alabaster"
html_title = "meshkit"
html_theme_options = {"description": "Peer-to-peer meshes for Twisted", "page_width": "64em"}
html_copy_source = False
html_show_sphinx = False
