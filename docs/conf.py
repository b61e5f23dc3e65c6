"""Sphinx configuration of the manual: ``sphinx-build -W --keep-going -b html docs docs/_build``.

The build needs no network: there is no intersphinx, and names of other packages are left as text.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import sessions

project = "sessions"
author = "AgentHub"
release = version = installed_version("agenthub-sessions")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = f"sessions {release}"
html_copy_source = False
html_show_sphinx = False

# Headings are link targets, as on a forge, and a link to a heading that does not exist is a warning.
myst_heading_anchors = 4

# A name in single backticks in a docstring is a link where the manual documents it.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
# The manual is built without the agent frameworks.
autodoc_mock_imports = [
    *("agent_framework", "agents", "google", "langchain_core", "llama_index", "pydantic_ai"),
]
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# Every reference has to resolve, names in docstrings included. Annotations alone may name what another
# manual documents, or a type variable, which none does.
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*"), ("py:data", ".*"), ("py:meth", r"__\w+__")]
# Errors of the agent frameworks.
nitpick_ignore = [
    ("py:exc", name) for name in ("AlreadyExistsError", "ConversationConflict", "StaleSessionError")
]


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Let a docstring in any module name what `sessions` exports by that name alone."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.partition(".")[0] not in sessions.__all__:
        return None
    domain = env.domains["py"]
    full_name = next((name for name in domain.objects if name.endswith(f".{target}")), "")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full_name, node, contnode)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve_public_name)
