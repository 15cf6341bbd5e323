"""Measures the page of 10,000 runs with 50,000 attempts in chromium: `python benchmarks/views.py`, in the environment of the tests.

Prints for each view how long it took until it was painted, the processor time of the page's own thread, and the longest time for
which the page did not answer; the same for scrolling. On a machine that does something else, only the processor time tells.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests")]

import stores
import test_big_report
from browser import Browser

from flowplan import webpage
from flowplan.reporting import report_of
from flowplan.schemas.codec import encode

VIEWS = (
    "plan",
    "timeline?span=all",
    "graph",
    "history",
    "now?text=run3",
    "now?status=failed",
    "run/run3%5Bi%3D7%5D",
    "now",
)
SCROLLED = ("now", "now?status=failed", "history", "timeline?span=all")
LONG = "window.long = []; new PerformanceObserver((list) => list.getEntries().forEach((one) => long.push(one.duration))).observe({type: 'longtask'})"
SCROLL = """
    const [done, box] = [arguments[0], document.querySelector('.timeline-rows') ?? window];
    let left = 60;
    const step = () => (box.scrollBy(0, 900), --left ? requestAnimationFrame(step) : done());
    step();
"""


def measure(page: Path) -> None:
    """Print the figures of a page."""
    browser = Browser()
    browser.resize(1280, 800)
    browser.command("Performance.enable", timeDomain="threadTicks")
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=LONG)
    print(f"{page.stat().st_size / 1e6:.1f} MB\n{'':30}{'painted':>10}{'processor':>11}{'longest':>10}")

    def row(name: str, action: Callable[[], object]) -> None:
        browser.evaluate("window.long = []")
        began, spent = time.monotonic(), _spent(browser)
        action()
        browser.settle()
        wall, cpu = time.monotonic() - began, _spent(browser) - spent
        longest = browser.evaluate("Math.max(0, ...window.long)")
        print(f"{name:30}{wall:8.2f} s{cpu:9.2f} s{longest:7.0f} ms")

    row("first view", lambda: browser.open(page, "now"))
    for view in VIEWS:
        row(view, lambda view=view: browser.go(view))
    for view in SCROLLED:
        browser.go(view)
        row(f"60 screens of {view}", lambda: browser.driver.execute_async_script(SCROLL))
    browser.close()


def _spent(browser: Browser) -> float:
    metrics = browser.command("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory, stores.fresh("sqlite", Path(directory)) as store:
        test_big_report.fill(store)
        made = Path(directory) / "report.html"
        made.write_text(webpage.page(encode(report_of(store))), encoding="ascii")
        measure(made)
