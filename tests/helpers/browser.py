"""A real headless browser: Debian's chromium and its driver, by selenium; it reaches this machine
only."""

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromedriver")
MODULES = ("gradio", "selenium")
SECONDS = 90.0
"""How long something may take to appear, on a busy machine."""


def missing() -> str:
    """What is not there of all that a test in a browser needs, for the line of a skip."""
    lost = [name for name in PROGRAMS if shutil.which(name) is None]
    lost += [name for name in MODULES if importlib.util.find_spec(name) is None]
    return f"no {', '.join(lost)} here" if lost else ""


@contextlib.contextmanager
def browser(width: int = 1240, height: int = 1000) -> Iterator["Tab"]:
    """A tab of a fresh browser, which ends with the block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in (
        "headless=new",
        "no-sandbox",  # tests run as root
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"window-size={width},{height}",
    ):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Tab(driver)
    finally:
        driver.quit()


class Tab:
    """What a person does, by CSS selectors; elements are waited for."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page, and wait until it is alive."""
        self.driver.get(url)
        self.find("#score")

    def until(self, met: Callable[[], Any], what: str) -> Any:
        """What `met` gives once it gives something. Raises AssertionError with the page's text."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(WebDriverException):
                found = met()
                if found:
                    return found
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come; the page says:\n{self.text('body')}")

    def all(self, selector: str) -> list[Any]:
        """Elements that are shown."""
        found = self.driver.find_elements("css selector", selector)
        return [element for element in found if element.is_displayed()]

    def find(self, selector: str) -> Any:
        """The first element that is shown, once it is there."""
        return self.until(lambda: self.all(selector), selector)[0]

    def text(self, selector: str) -> str:
        """The text of the page's first such element."""
        return self.driver.find_element("css selector", selector).text

    def click(self, selector: str, text: str = "") -> None:
        """Click an element, that with this text."""

        def clicked() -> bool:
            for element in self.all(selector):
                if text in element.text:
                    self.driver.execute_script("arguments[0].click()", element)
                    return True
            return False

        self.until(clicked, f"{selector} {text}")

    def upload(self, place: str, path: Path) -> None:
        """Give a file to the upload of a place, in which there is none."""
        selector = f"#upload-{place} input[type=file]"
        found = self.until(lambda: self.driver.find_elements("css selector", selector), selector)
        found[0].send_keys(str(path))

    def take_away(self, place: str) -> None:
        """Take the file of a place away."""
        self.click(f"#upload-{place} button[aria-label='Clear']")

    def ask(self, place: str, question: str) -> None:
        """Type a question and send it."""
        box = self.find(f"#question-{place} textarea")
        box.clear()
        box.send_keys(question)
        self.click(f"#ask-{place}")

    def says(self, selector: str, text: str) -> str:
        """The text of an element, once it holds this."""
        self.until(lambda: text in self.text(selector), f"{text!r} in {selector}")
        return self.text(selector)

    def tab(self, name: str) -> None:
        """Turn to a tab of the page."""
        self.click("button[role=tab]", name)

    def origins(self) -> set[str]:
        """Where everything that the page loaded came from."""
        script = "return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)"
        return set(self.driver.execute_script(script))
