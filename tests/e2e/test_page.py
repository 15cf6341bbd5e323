"""The page in a real browser: each view of a real night, by keyboard and for a screen reader, with hostile data, and live."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from projects import Project, clear, until
from selenium.webdriver.common.keys import Keys
from test_follower import follower, free_port, told

from flowplan import webpage

ROOT = Path(__file__).parents[2]
VIEWS = ("now", "plan", "timeline", "graph", "history", "run/check", "history/clean")
NIGHT = """\
flowplan: 1
project: nightly
variables: {seconds: {default: "0.05"}, hosts: {default: "1"}}
defaults: {provider: process, grace_period: 1s, labels: {team: data}}
runs:
  clean: {command: [sh, -c, 'sleep ${var.seconds}; echo cleaned']}
  extract:
    command: [sh, -c, 'echo reading ${each.day} of ${each.shard}']
    matrix: {day: ["2026-11-01", "2026-11-02"], shard: [1, 2, 3]}
  check:
    needs: [extract]
    command: [sh, -c, 'for i in $(seq 1 40); do echo "row $i is fine"; done; printf "\\033[31mERROR\\033[0m row 41 <b>\\n" >&2; exit 3']
  load: {needs: [check], command: [echo, loaded]}
  report: {needs: [load], command: [echo, done]}
  train: {needs: [extract], command: [sleep, "600"]}
  smoke: {needs: [train], command: [echo, fine]}
"""

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, need: Callable[..., None]) -> Path:
    """Return a copy of ``web/`` with the packages that it is built with."""
    need("npm")
    directory = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(ROOT / "web", directory, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        [directory / "build", directory.parent / "built"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Return a project after a night: a check failed, what needs it was skipped, a run goes on, one took longer than usual."""
    made = Project(tmp_path_factory.mktemp("night"), {"NO_COLOR": "1"})
    made.write(NIGHT)
    for seconds in ("0.05", "0.06", "0.07", "3"):
        made.ok("apply", "--yes", "--target", "clean", "--var", f"seconds={seconds}", "--rerun", "clean")
    made.ok("apply", "--yes", "--target", "report", code=3)
    made.run(
        "apply", "--yes", "--target", "smoke", "--target", "report", "--detach"
    )  # which may see the failure, or not
    made.await_status("check", "failed")
    made.await_status("train", "running")
    yield made
    clear(made)


@pytest.fixture(scope="module")
def page(night: Project) -> Path:
    """Return the report of the night."""
    night.ok("report", "--out", "report.html")
    return night.directory / "report.html"


def test_the_bundle_is_what_the_sources_make(sources: Path) -> None:
    built, kept = sources.parent / "built", ROOT / "flowplan" / "page"
    names = sorted(path.name for path in built.iterdir())
    assert names == sorted(path.name for path in kept.iterdir())
    _, differing, _ = filecmp.cmpfiles(built, kept, names, shallow=False)
    assert not differing, "run web/build and commit what it writes"


def test_the_page_of_a_failed_night_says_at_once_what_happened(browser: Browser, page: Path) -> None:
    browser.open(page)
    first = browser.text(".first")
    assert "check" in first and "exit code 3" in first
    assert "ERROR row 41 <b>" in first
    assert "2 attempts failed in a row since" in first
    assert "load, report did not start" in first
    assert browser.evaluate("document.querySelector('.first .fg1').textContent") == "ERROR"
    runs = browser.text("[aria-label=Runs]")
    assert runs.index("check") < runs.index("train") < runs.index("smoke") < runs.index("extract")
    assert "for train" in runs and "6 of 6 cells succeeded" in runs and "slower than usual" in runs
    assert "1 failed" in browser.evaluate("document.title")


def test_each_view_has_an_address_of_its_own(browser: Browser, page: Path) -> None:
    browser.open(page, "run/check")
    browser.requests(), browser.complaints()
    assert "row 40 is fine" in browser.text(".output.whole") and "2 attempts" in browser.text()
    browser.open(page, "run/extract%5Bday%3D2026-11-02%2Cshard%3D3%5D")
    assert "shard=3" in browser.text(".facts")
    assert "reading 2026-11-02 of 3" in browser.evaluate("document.querySelector('.objects').textContent")
    browser.go("timeline?span=all")
    assert "16 runs" in browser.evaluate("document.querySelector('.timeline-rows').ariaLabel") or browser.text(
        ".legend"
    )
    assert browser.evaluate("document.querySelector('.u-wrap canvas').width > 0")
    browser.go("graph")
    names = "[...document.querySelectorAll('.node')].map((node) => node.dataset.name)"
    assert set(browser.evaluate(names)) == {"clean", "extract", "check", "load", "report", "train", "smoke"}
    assert "needs check, which failed" in browser.evaluate("document.querySelector('[data-name=report]').textContent")
    browser.go("history")
    assert "slower than usual" in browser.text("[aria-label=History]").split("check")[0]
    browser.go("history/clean")
    assert browser.text("[aria-label=Attempts]").count("succeeded") == 4
    browser.go("plan")
    assert "Plan for" in browser.text("h2") and "flowplan.yaml" in browser.text(".said")
    assert "+ create" in browser.text("main") and "echo loaded" not in browser.text("main")
    browser.go("run/nobody")
    assert "Nothing is known of nobody" in browser.text("main")
    assert browser.requests() == [] and browser.complaints() == []


def test_it_is_used_with_the_keyboard_alone(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("/")
    browser.press("shard=2")
    browser.until("document.querySelectorAll('[aria-label=Runs] [role=row]').length === 2")
    assert browser.evaluate("location.hash") == "#now?text=shard%3D2"
    browser.press(Keys.ENTER)
    browser.press(Keys.ARROW_DOWN)
    browser.press(Keys.ENTER)
    browser.until("location.hash.startsWith('#run/extract')")
    assert "2026-11-02" in browser.text("h2")
    browser.press(Keys.ESCAPE)
    browser.until("location.hash.startsWith('#now')")
    browser.go("graph")
    browser.evaluate("document.querySelector('[data-name=check]').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.evaluate("document.activeElement.dataset.name") == "load"


def test_the_filter_is_part_of_the_address(browser: Browser, page: Path) -> None:
    rows = "[...document.querySelectorAll('[aria-label=Runs] [role=row] a')].map((link) => link.textContent)"
    browser.open(page, "now?status=failed,skipped")
    assert set(browser.evaluate(rows)) == {"check", "load", "report"}
    browser.open(page, "now?label=shard%3D3")
    assert browser.evaluate(rows) == ["extract[day=2026-11-01,shard=3]", "extract[day=2026-11-02,shard=3]"]
    browser.go("graph?label=shard%3D3")
    assert browser.evaluate("document.querySelectorAll('.node').length") == 1
    browser.go("now?label=team%3Ddata&provider=process&text=row+41")
    assert "No run matches" in browser.text("main")


def test_the_output_can_be_searched(browser: Browser, page: Path) -> None:
    browser.open(page, "run/check")
    browser.click(".output-bar input[type=search]")
    browser.press("ROW 4")
    assert browser.text(".output-bar [role=status]") == "1 of 3"
    browser.press(Keys.ENTER)
    assert browser.text("mark.current") == "row 4" and browser.text(".output-bar [role=status]") == "2 of 3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(browser: Browser, page: Path, sources: Path, scheme: str) -> None:
    axe = sources / "node_modules" / "axe-core" / "axe.min.js"
    browser.prefer(scheme)
    found = []
    try:
        for width, views in ((1280, VIEWS), (360, ("now", "plan", "run/check", "history"))):
            browser.resize(width, 800)
            for view in views:
                browser.open(page, view)
                browser.settle()
                found += [f"{view} at {width}: {violation}" for violation in browser.violations(axe)]
                if browser.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    found.append(f"{view} at {width}: scrolls to the side")
    finally:
        browser.resize(1280, 800)
        browser.prefer("light")
    assert not found, "\n".join(found)


HOSTILE = [
    "<img src=x onerror=hacked=1>",
    "</script><script>hacked=1</script>",
    "javascript:hacked=1//",
    "\u202egnp.exe\u2066",
    "${hacked=1}`'\"&lt;",
    "\x1b]8;;javascript:hacked=1\x07click\x1b]8;;\x07\x1b[31m<svg onload=hacked=1>",
    "__proto__",
    "a" * 100_000,
]


def hostile(value: Any, key: str = "") -> Any:
    """Return a document with something hostile in every text that comes from a user or an engine."""
    if isinstance(value, dict):
        return {name: hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key) for inner in value]
    if isinstance(value, str) and value and key in ("address", "addresses", "name"):
        return value + HOSTILE[len(value) % 6]
    if isinstance(value, str) and key in (
        "text",
        "message",
        "lines",
        "before",
        "after",
        "words",
        "rule",
        "origin",
        "left_out",
        "why",
    ):
        return "".join(HOSTILE) + value
    if isinstance(value, str) and value in ("Error", "process"):
        return "".join(HOSTILE[:6])
    return value


def test_hostile_data_is_only_text(browser: Browser, page: Path, tmp_path: Path) -> None:
    marks = '<script id="report" type="application/json">', "</script>"
    text = page.read_text()
    document = json.loads(text[text.index(marks[0]) + len(marks[0]) :].partition(marks[1])[0])
    file = tmp_path / "hostile.html"
    file.write_text(webpage.page(hostile(document)))
    browser.open(file)
    browser.requests(), browser.complaints()
    addresses = [hostile(address, "address") for address in document["runs"]["address"]]
    for view in ("now", "plan", "timeline", "graph", "history", *(f"run/{address}" for address in addresses[:8])):
        name, _, subject = view.partition("/")
        browser.evaluate(
            "location.hash = arguments[0] + (arguments[1] && '/' + encodeURIComponent(arguments[1]))", name, subject
        )
        browser.settle()
        assert len(browser.text("main")) > 20, view
        assert browser.evaluate("typeof hacked") == "undefined", view
        assert (
            browser.evaluate(
                "document.querySelectorAll('#page img, #page script, #page [onload], #page [onerror]').length"
            )
            == 0
        )
        assert not browser.evaluate("[...document.links].some((link) => link.protocol === 'javascript:')")
        assert "\u202e" not in browser.text(), view
    assert browser.requests() == [] and browser.complaints() == []


LIVE = """\
flowplan: 1
project: nightly
defaults: {provider: process}
runs:
  first: {command: [sh, -c, 'until [ -e go ]; do sleep 0.05; done']}
  second: {command: [echo, second], needs: [first]}
"""
TOKEN = "0123456789abcdef0123456789abcdef"
ATTEMPTS = "document.querySelectorAll('tbody tr').length"


def test_the_live_page_follows_what_happens_and_mends_its_connection(browser: Browser, project: Project) -> None:
    project.write(LIVE)
    project.ok("apply", "--yes", "--detach")
    token = project.directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    port = free_port()
    options = ("--listen", f"127.0.0.1:{port}", "--token-file", str(token))
    with follower(project, *options):
        until(lambda: "answering on" in told(project))
        browser.open(f"http://127.0.0.1:{port}/", wanted="input[name=token]")
        browser.complaints()
        browser.click("input[name=token]")
        browser.press(TOKEN, Keys.ENTER)
        browser.until("document.querySelector('.connection.live')")
        assert "running" in browser.text("[aria-label=Runs]") and "for first" in browser.text("[aria-label=Runs]")
        (project.directory / "go").touch()
        browser.until("document.querySelectorAll('[aria-label=Runs] .status.succeeded').length === 2")
        browser.go("run/second")
        assert browser.evaluate(ATTEMPTS) == 1
        browser.command("Page.setWebLifecycleState", state="frozen")
        project.ok("apply", "--yes", "--rerun", "second")
        browser.command("Page.setWebLifecycleState", state="active")
        browser.until(f"{ATTEMPTS} === 2")
        assert browser.complaints() == []
        assert {address.partition("/api")[0] for address in browser.requests()} <= {
            f"http://127.0.0.1:{port}{path}" for path in ("", "/page.js", "/page.css", "/favicon.ico")
        }
    browser.until("document.querySelector('.connection.lost')")
    assert browser.evaluate(ATTEMPTS) == 2, "what was known stays"
    project.ok("apply", "--yes", "--rerun", "second")
    with follower(project, *options):
        browser.until("document.querySelector('.connection.live')")
        browser.until(f"{ATTEMPTS} === 3")
        browser.open("about:blank", wanted="body")
