"""A repository with one branch to be merged, and runners that keep nothing: what the examples of CI are played on."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from own_postgres import OwnPostgres
from projects import FLOWPLAN, Project
from stores import sql

from flowplan.schemas.documents import parse
from flowplan.schemas.plan_documents import plan_digest, read_plan, sealed_json
from flowplan.state.location import located

EXAMPLES = Path(__file__).parents[2] / "examples"


def document(path: Path) -> dict[str, Any]:
    """Return a YAML file of an example."""
    found: dict[str, Any] = parse(path.read_text(), str(path)).value
    return found


@contextmanager
def team_database() -> Iterator[OwnPostgres]:
    """Yield a server with the tables of flowplan and the roles that the examples name, which may what they are for."""
    server = OwnPostgres()
    try:
        for command in (["upgrade"], ["grants", "--planner", "planner", "--writer", "writer"]):
            words = [FLOWPLAN, "state", *command, "--state", f"{server.url()}?project=none"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            if command == ["upgrade"]:
                sql("CREATE ROLE planner LOGIN; CREATE ROLE writer LOGIN", url=server.url())
            for line in done.stdout.splitlines():
                sql(line, url=server.url())
        yield server
    finally:
        server.remove()


class Repository:
    """The example's spec on ``main`` and on a branch ``change``; each job has a new clone and a new home.

    Its runs are local processes, unless a ``namespace`` is given for Jobs of a cluster; its project has a name of its own.
    """

    def __init__(self, directory: Path, example: str, database: OwnPostgres, namespace: str = "") -> None:
        self.directory, self.database = directory, database
        self.origin, self._bin = directory / "origin", directory / "bin"
        self._bin.mkdir()
        self.project = f"nightly{uuid.uuid4().hex[:8]}"
        self.state = f"postgresql://127.0.0.1:{database.port}/flowplan?project={self.project}"
        text = (EXAMPLES / example / "flowplan.yaml").read_text()
        text = text.replace("project: nightly\n", f"project: {self.project}\n")
        if namespace:
            text = text.replace("namespace: nightly", f"namespace: {namespace}")
        else:
            text = re.sub(r"(?m)^defaults:\n(  .*\n)+", "defaults: {provider: process}\n", text)
        assert text.count("nightly") == 1
        self.git("init", "-q", "-b", "main", str(self.origin), at=directory)
        (self.origin / "flowplan.yaml").write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "spec")
        self.git("checkout", "-q", "-b", "change")
        self.head = self.git("rev-parse", "HEAD")
        self.person = Project(
            self.clone("change"), {"FLOWPLAN_STATE": self.state, "PGUSER": "writer", "REPORT_TOKEN": "a-token"}
        )
        self.person.ok("plan")  # the state is made once, as the README says

    def git(self, *words: str, at: Path | None = None) -> str:
        who = ["-c", "user.name=ada", "-c", "user.email=ada@example.com"]
        done = subprocess.run(["git", *who, *words], cwd=at or self.origin, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def clone(self, ref: str) -> Path:
        """Return a new clone, in which a branch or a commit is checked out."""
        place = self.directory / f"clone-{uuid.uuid4().hex[:8]}"
        self.git("clone", "-q", str(self.origin), str(place), at=self.directory)
        self.git("checkout", "-q", ref, at=place)
        return place

    def edit(self, old: str, new: str, *, pushed: bool = True) -> None:
        """Push another version of the spec to the branch; without ``pushed`` it gets into what is merged unseen."""
        path = self.origin / "flowplan.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        self.git("commit", "-q", "-a", "-m", "change")
        if pushed:
            self.head = self.git("rev-parse", "HEAD")

    def merge(self) -> str:
        """Merge the branch; return the merge commit."""
        self.git("checkout", "-q", "main")
        self.git("merge", "-q", "--no-ff", "-m", "merge", "change")
        commit = self.git("rev-parse", "HEAD")
        self.git("checkout", "-q", "change")
        return commit

    def program(self, name: str, text: str) -> None:
        """Put a program into the PATH of all jobs."""
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def bash(self, script: str, at: Path, env: Mapping[str, str]) -> int:
        """Run a script in a directory as a runner does, with nothing of this machine's but its programs."""
        home = at.with_name(f"home-{at.name}")
        (home / ".local/bin").mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script.replace("project=nightly ", f"project={self.project} ")],
            cwd=at,
            env={"PATH": f"{home}/.local/bin:{self._bin}:{os.environ['PATH']}", "HOME": str(home), **env},
            capture_output=True,
            text=True,
            check=False,
        )
        print(script.partition("\n")[0], done.stdout, done.stderr)
        return done.returncode

    def statuses(self) -> dict[str, str]:
        return self.person.statuses()

    def lose_state(self) -> None:
        sql("DELETE FROM flowplan.states WHERE project = %s", self.project, url=self.database.url())

    def apply_something_else(self) -> None:
        """Apply another version of the spec, as somebody does from elsewhere."""
        path = self.person.directory / "flowplan.yaml"
        path.write_text(path.read_text().replace("extracted with", "meanwhile with"))
        self.person.ok("apply", "--yes")


INSTALL = """\
#!/bin/sh
# The installer: the last word names what is to be installed.
for word; do :; done
[ "$word" = "flowplan[postgres] @ git+https://git.example.com/flowplan.git@0123abc" ] || exit 1
ln -s '%s' "$HOME/.local/bin/flowplan"
"""
FLOWPLAN_TO_INSTALL = "flowplan[postgres] @ git+https://git.example.com/flowplan.git@0123abc"


def installer() -> str:
    return INSTALL % FLOWPLAN


def forged(genuine: Path) -> str:
    """Return the reviewed plan with another command, the reviewed digest and the reviewed seal."""
    text = genuine.read_text()
    assert "extracted with" in text
    return text.replace("extracted with", "owned with")


def with_its_own_digest(genuine: Path) -> tuple[str, str]:
    """Return a plan by somebody who knows the program but has another key, and its digest."""
    plan = read_plan(genuine).plan
    argv = [
        replace(c, after={"Process": {**(c.after or {})["Process"], "argv": ["sh", "-c", "id"]}}) for c in plan.changes
    ]
    made = replace(plan, changes=tuple(argv))
    made = replace(made, digest=plan_digest(made))
    return sealed_json(made, b"mallory"), made.digest.removeprefix("sha256:")


def of_another_day(genuine: Path, repository: Repository) -> str:
    """Return the reviewed plan as the state would have sealed it long ago."""
    place = located(f"{repository.state}&user=owner", repository.directory / "state.db")
    with closing(place), closing(place.open(read_only=True)) as store:
        return sealed_json(replace(read_plan(genuine).plan, made_at="2020-01-01T00:00:00.000Z"), store.key)
