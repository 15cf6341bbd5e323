"""What a run printed comes before the line that says it ended, and before anything that its end leads to."""

from __future__ import annotations

import re

import pytest
from projects import Project

ENGINES = {
    "process": "provider: process",
    "docker": 'provider: docker, image: "busybox:1.35", grace_period: 1s',
    "kubernetes": 'provider: kubernetes, image: "busybox:1.35", grace_period: 1s, kubernetes: {{namespace: {namespace}}}',
}
SPEC = """\
flowplan: 1
project: demo
defaults: {{{defaults}}}
runs:
  first: {{command: [sh, -c, 'sleep 2; seq 1 50; echo last']}}
  fails: {{command: [sh, -c, 'echo last; exit 3'], needs: [first]}}
  never: {{command: [echo, never], needs: [fails]}}
"""


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def followed(project: Project, request: pytest.FixtureRequest) -> Project:
    """Return a project whose commands have one stream for all that they say, as on a terminal."""
    needed = {"namespace": request.getfixturevalue("namespace")} if request.param == "kubernetes" else {}
    project.write(SPEC.format(defaults=ENGINES[request.param].format(**needed)))
    project.before = ("sh", "-c", 'exec "$@" 2>&1', "sh")
    return project


def told(project: Project, *command: str) -> list[str]:
    """Return the ends, skips, and last lines of output that a command told, in their order."""
    shown = project.ok(*command, code=3).out
    found = re.findall(r"(?m)^(?:\S+Z )?(\w+(?: \||:) (?:succeeded|failed|skipped|last))", shown)
    return list(dict.fromkeys(found))


def test_the_end_of_a_run_is_told_after_its_output(followed: Project) -> None:
    order = ["first | last", "first: succeeded", "fails | last", "fails: failed", "never: skipped"]
    assert told(followed, "apply", "--yes") == order
    followed.ok("apply", "--yes", "--rerun", "first", "--detach")
    assert told(followed, "watch")[:2] == order[:2]
