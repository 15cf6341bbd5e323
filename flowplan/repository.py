"""Where the files of a project can be seen on the web, as the service says that runs a pipeline: GitHub, GitLab, Gitea."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

Link = Callable[[str, str], str]
"""The address of a line of a file, given relative to the spec's directory; "" where it is not known."""

_ADDRESS = re.compile(r"https?://[\w.:/~%-]+", re.ASCII)


def links(directory: Path) -> Link:
    """Return the addresses of files, by a directory and what the environment says of its repository and commit."""
    named = os.environ.get
    base = f"{named('GITHUB_SERVER_URL')}/{named('GITHUB_REPOSITORY')}/blob/{named('GITHUB_SHA')}"
    root, known = named("GITHUB_WORKSPACE"), all(map(named, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_SHA")))
    if not known:
        base = f"{named('CI_PROJECT_URL')}/-/blob/{named('CI_COMMIT_SHA')}"
        root, known = named("CI_PROJECT_DIR"), all(map(named, ("CI_PROJECT_URL", "CI_COMMIT_SHA")))
    inside = os.path.relpath(directory, root or Path.cwd())

    def link(file: str, line: str) -> str:
        path = os.path.normpath(f"{inside}/{file}")
        if not known or not _ADDRESS.fullmatch(base) or path.startswith(("/", "..")):
            return ""
        return f"{base}/{quote(path)}#L{line}"

    return link
