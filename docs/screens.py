"""The pictures of the page: the report of a real night, in every view, by light and dark, and on a phone.

``docs/generate.py --pictures`` takes all of them anew. A picture is one entry of VIEWS in one of SCREENS.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import consoles
from browser import Browser

DIRECTORY = consoles.ROOT / "docs" / "screens"
VIEWS = {
    "now": "now",
    "plan": "plan",
    "timeline": "timeline",
    "graph": "graph",
    "run": "run/check",
    "history": "history",
    "history-of-run": "history/clean",
}
"""Name of a picture -> the fragment of the view."""
SCREENS = {"light": (1280, 800), "dark": (1280, 800), "phone": (360, 740)}
"""Name of a screen -> its size in CSS pixels."""
NIGHT = """\
flowplan: 1
project: nightly
variables: {seconds: {default: "1"}, bad: {default: ""}, epochs: {default: "10"}}
defaults: {provider: process, grace_period: 1s, labels: {team: data}}
runs:
  clean: {command: [sh, -c, 'sleep ${var.seconds}; echo cleaned'], description: Removes what is older than a month.}
  extract:
    description: Reads one day of one shard.
    command: [sh, -c, 'sleep 0.${each.shard}; echo 4711 rows of ${each.day}; test ${each.day}/${each.shard} != "${var.bad}"']
    matrix: {day: ["2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26"], shard: [1, 2, 3, 4, 5, 6]}
    max_parallel: 6
  check:
    needs: [extract]
    retries: 1
    command:
      - sh
      - -c
      - |
        for table in orders customers invoices payments returns; do echo "checking $table: $(printf '\\033[32mok\\033[0m')"; done
        sleep 1
        test -z "${var.bad}" && exit
        printf 'checking stock: \\033[31mERROR\\033[0m 3 of 4711 rows have no price\\n' >&2
        exit 3
  load: {needs: [check], command: [sh, -c, 'sleep 1; echo loaded']}
  report: {needs: [load], command: [echo, sent]}
  publish: {needs: [report], command: [echo, published]}
  train: {needs: [extract], command: [sh, -c, 'echo epoch 1 of ${var.epochs}; sleep 600'], timeout: 2h}
  evaluate: {needs: [train], command: [echo, evaluated]}
"""
NIGHTS = (
    *(
        f"apply --yes --no-stream --rerun '*' --target clean --target publish --var seconds={seconds}"
        for seconds in ("0.8", "1", "1.1", "0.9")
    ),
    "apply --yes --no-stream --rerun '*' --target clean --target publish --var seconds=4 --var bad=2026-11-25/4",
    "apply --yes --no-stream --rerun '*' --var seconds=1 --var bad=none --wait-timeout 20s",
)


def night() -> dict[str, Any]:
    """Return the report of a project after some nights, of which the last one failed."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "flowplan.yaml").write_text(NIGHT, encoding="utf-8")
        for command in NIGHTS:
            _run(f"flowplan {command}", directory)
        _run("flowplan plan --var epochs=20 --var bad=none", directory)
        text = _run("flowplan report --format json --logs all", directory)
        _run("flowplan destroy --yes --allow-interrupt '*'", directory)
    for found, shown in {
        directory: consoles.HOME,
        socket.gethostname(): "ada-laptop",
        getpass.getuser(): "ada",
    }.items():
        text = text.replace(f'"{found}', f'"{shown}').replace(f" {found}", f" {shown}")
    document: dict[str, Any] = json.loads(text)
    return document


def _run(command: str, directory: str) -> str:
    """Run a command of a shell and return what it prints; flowplan exits with 3 when a run has failed, with 8 when one goes on."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=directory,
        env={**os.environ, "NO_COLOR": "1", "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode not in (0, 3, 8):
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def write(directory: Path = DIRECTORY, suffix: str = ".webp") -> None:
    """Take all pictures."""
    from flowplan import webpage

    directory.mkdir(exist_ok=True)
    browser = Browser()
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        page.write_text(webpage.page(night()), encoding="ascii")
        for screen, size in SCREENS.items():
            browser.resize(*size)
            browser.prefer("dark" if screen == "dark" else "light")
            for name, fragment in VIEWS.items():
                browser.open(page, fragment)
                browser.settle()
                browser.picture(directory / f"{name}-{screen}{suffix}")
    browser.close()
