"""A Sphinx extension: beside the link to a page's notebook, the commit that the notebook was last changed at."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SOURCE = re.compile(r'(<a class="source" href="_sources/([\w.]+)"[^>]*>[^<]*</a>)')


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", _name_commits)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _name_commits(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        address = app.config.html_theme_options["repository_url"]
        context["body"] = SOURCE.sub(lambda found: found[1] + _at(address, Path(app.srcdir), found[2]), context["body"])


def _at(address: str, folder: Path, notebook: str) -> str:
    commit = _commit(folder, notebook)
    return f' at <a href="{address}/blob/{commit}/book/{notebook}">{commit[:8]}</a>' if commit else ""


@cache
def _commit(folder: Path, notebook: str) -> str:
    """The last commit of book/NOTEBOOK of the checkout around a folder; empty outside one, or where the file differs from it."""
    git = ["git", "-C", str(folder)]
    file = f":(top)book/{notebook}"
    try:
        changed = subprocess.run([*git, "status", "--porcelain", "--", file], capture_output=True, text=True, check=True).stdout
        last = subprocess.run([*git, "log", "-1", "--format=%H", "--", file], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return "" if changed.strip() else last.strip()
