"""A progress bar moves on a terminal while it is drawn, also where the engine keeps whole lines only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project, clear
from test_terminal import on_a_terminal

SECRET = "t0ps3cret-of-a-bar"
BAR = 'printf "\\r$i%% of ${S%-of-a-bar}"; sleep 0.3; printf -- "-of-a-bar"; sleep 0.5'
"""One state of the bar; the secret in it is written in two pieces."""
SPEC = f"""\
flowplan: 1
project: bars
defaults: {{provider: PROVIDER, image: "busybox:1.35", grace_period: 1s}}
runs:
  a:
    command: [sh, -c, 'sleep 1; for i in $(seq 10 25); do {BAR}; done; echo " done"; echo next']
    env: {{S: {{from_env: S}}}}
"""
KUBERNETES = "    kubernetes: {namespace: SPACE, job: {spec: {parallelism: PODS, completions: PODS}}}\n"


@pytest.fixture
def bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("S", SECRET)
    monkeypatch.setenv("COLUMNS", "120")
    made = Project(tmp_path)
    yield made
    clear(made)


def drawn(project: Project, *command: str) -> list[str]:
    """Return the texts that a command wrote to a terminal, without its movements."""
    text = on_a_terminal(project.directory, list(command))
    assert "t0ps3cret" not in text
    return [line.strip() for line in re.split(r"\r|\n|\x1b\[[0-9;?]*[a-zA-Z]", text)]


def states(lines: list[str]) -> list[str]:
    """Return the states of the bar that were drawn before the line was finished, each once."""
    end = next(i for i, line in enumerate(lines) if line.endswith("done"))
    return list(dict.fromkeys(re.findall(r"(\d\d)% of", "\n".join(lines[:end]))))


@pytest.mark.kubernetes
def test_a_bar_in_a_pod_is_live(bars: Project, namespace: str) -> None:
    spec = SPEC.replace("PROVIDER", "kubernetes")
    bars.write(spec + KUBERNETES.replace("SPACE", namespace).replace("PODS", "1"))
    lines = drawn(bars, "apply", "--yes", "flowplan.yaml")
    assert len(states(lines)) >= 3, lines
    end = ["25% of (sensitive) done", "next"]
    assert [line for line in lines if line.startswith("a | ")] == [f"a | {line}" for line in end]
    assert bars.ok("logs", "a").out.splitlines() == end, "what was drawn is in the output once"
    raw = bars.ok("logs", "a", "--format", "raw").out
    assert raw.count("of (sensitive)") == 16, "every state, once"
    bars.ok("apply", "--yes", "--detach", "--rerun", "a", "flowplan.yaml")
    bars.await_status("a", "running")
    lines = drawn(bars, "logs", "-f", "a")
    assert len(states(lines)) >= 3 and lines.count(end[0]) >= 1, lines


@pytest.mark.kubernetes
def test_bars_of_parallel_pods_are_told_apart(bars: Project, namespace: str) -> None:
    spec = SPEC.replace("PROVIDER", "kubernetes")
    bars.write(spec + KUBERNETES.replace("SPACE", namespace).replace("PODS", "2"))
    lines = drawn(bars, "apply", "--yes", "flowplan.yaml")
    pods = {line.partition(" ")[0] for line in states_with_names(lines)}
    assert len(pods) == 2, lines


def states_with_names(lines: list[str]) -> list[str]:
    """Return ``[pod] 10%`` of what was drawn of each pod before the first one was finished."""
    end = next(i for i, line in enumerate(lines) if line.endswith("done"))
    return [f"{pod} {state}" for pod, state in re.findall(r"(\[\S+\]) (\d\d%)", "\n".join(lines[:end]))]
