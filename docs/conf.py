"""The site: `make docs` builds it into docs/_build, warnings being errors."""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))  # of tutorials and their kernels too

import sb3_spiking

project = "sb3_spiking"
author = copyright = "the sb3_spiking developers"
release = version = sb3_spiking.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"sb3_spiking {release}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

# Tutorials are executed where they or the cache do not have their output yet
nb_execution_mode = os.environ.get("TUTORIALS", "cache")  # "off" leaves their output out
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"

# Other projects' pages, by their inventories, which need a network: not in CI
_INVENTORIES = {
    "python": "https://docs.python.org/3",
    "torch": "https://docs.pytorch.org/docs/stable",
    "gymnasium": "https://gymnasium.farama.org",
    "stable_baselines3": "https://stable-baselines3.readthedocs.io/en/master",
    "snntorch": "https://snntorch.readthedocs.io/en/latest",
}
intersphinx_mapping = {name: (url, None) for name, url in _INVENTORIES.items()} if os.environ.get("READTHEDOCS") else {}


def _public_names_are_documented(app: Sphinx, env: BuildEnvironment) -> None:
    """What `sb3_spiking` exports stands on a page, with a docstring, or the build fails."""
    documented = {name.rsplit(".", 1)[-1] for name in env.domains.python_domain.objects}
    for name in sb3_spiking.__all__:
        value = getattr(sb3_spiking, name)
        if name not in documented:
            logging.getLogger(__name__).warning("sb3_spiking.%s is public and on no page: add it to docs/api.md", name)
        elif callable(value) and not value.__doc__:
            logging.getLogger(__name__).warning("sb3_spiking.%s has no docstring", name)


def _links_stay_on_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Pages of the clone's top are pages here; other files of the clone are no links."""
    source[0] = re.sub(
        r"\]\(\.\./(benchmark|SECURITY|CHANGELOG|CONTRIBUTING)\.md", lambda m: f"]({m[1].lower()}.md", source[0]
    )


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("source-read", _links_stay_on_the_site)
    app.connect("env-check-consistency", _public_names_are_documented)
