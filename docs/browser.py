"""A real browser, Debian's chromium without a window: it takes the pictures of the page, and the tests use it."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
"""What has to be installed."""
PATIENCE = 60.0
"""Seconds that anything may take."""


class Browser:
    """One browser with one window."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(PATIENCE)

    def close(self) -> None:
        self.driver.quit()

    def command(self, name: str, **parameters: Any) -> Any:
        """Give a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in CSS pixels, as the screen of a phone has one."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def prefer(self, scheme: str) -> None:
        """Prefer a ``light`` or ``dark`` colour scheme."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, page: Path | str, fragment: str = "", wanted: str = "main") -> None:
        """Load a page anew, and wait until an element is there."""
        address = page.as_uri() if isinstance(page, Path) else page
        self.driver.get("about:blank")
        self.driver.get(f"{address}#{fragment}")
        self.until("document.querySelector(arguments[0])", wanted)

    def go(self, fragment: str) -> None:
        """Go to another view of the page that is open."""
        self.evaluate("location.hash = arguments[0]", fragment)
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is painted."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => requestAnimationFrame(() => done())))"
        )

    def evaluate(self, expression: str, *arguments: Any) -> Any:
        """Return the value of a JavaScript expression."""
        return self.driver.execute_script(f"return ({expression})", *arguments)

    def until(self, expression: str, *arguments: Any) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        return WebDriverWait(self.driver, PATIENCE, 0.05).until(
            lambda _: self.evaluate(expression, *arguments), expression
        )

    def text(self, selector: str = "body") -> str:
        """Return the text of an element as a reader sees it."""
        return str(self.evaluate("document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()
        self.settle()

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call, without the pages that ``open`` loads."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent" and message["params"].get("type") != "Document":
                found.append(message["params"]["request"]["url"])
        return [address for address in found if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the page's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self, axe: Path) -> list[str]:
        """Return what axe-core finds wrong with the page as it is shown; ``axe`` is its script."""
        self.command("Runtime.evaluate", expression=axe.read_text(encoding="utf-8"))  # no policy forbids what tests do
        found = self.driver.execute_async_script("axe.run().then(arguments[0], (error) => arguments[0](String(error)))")
        assert isinstance(found, dict), found
        return [
            f"{one['id']}: {node['target']} {node.get('failureSummary', '')}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def picture(self, path: Path) -> None:
        """Write what is shown to a file, in the format of its name: PNG or WebP."""
        answer = self.command(
            "Page.captureScreenshot", format=path.suffix[1:], **({"quality": 80} if path.suffix == ".webp" else {})
        )
        path.write_bytes(base64.b64decode(answer["data"]))
