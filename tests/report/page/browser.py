"""A real browser, without a window, and what it says of a page."""

import base64
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 60.0  # seconds, on a machine that has other things to do


def programs():
    """The paths of Chromium and its driver; skips where one is missing."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with chromedriver: install the system's packages chromium and chromium-driver")
    pytest.importorskip("selenium", reason="selenium is not installed")
    return chromium, driver


@contextmanager
def browser():
    """A driver of Selenium's, which logs requests and the console."""
    chromium, driver = programs()
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    arguments = ["--headless=new", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-unsafe-swiftshader"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # which Chromium refuses to root
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Page(made)
    finally:
        made.quit()


class Page:
    """A page in the browser."""

    def __init__(self, driver):
        self.driver = driver

    def size(self, width, dark=False):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})

    def open(self, path, state=""):
        """Load the file, and wait until it is ready; with every chart drawn."""
        self.driver.get("about:blank")
        self.logs()
        self.driver.get(Path(path).resolve().as_uri() + state)
        self.wait("return document.documentElement.dataset.ready")

    def draw_all(self):
        """Scroll through the page, so that each chart is drawn."""
        for part in self.run("return [...document.querySelectorAll('#curves, .sweep, #differences')].map((_, i) => i)"):
            self.run(f"document.querySelectorAll('#curves, .sweep, #differences')[{part}].scrollIntoView()")
            self.run("return new Promise((done) => setTimeout(done, 100))")
        self.wait(
            "return [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg')) "
            "&& (!document.querySelector('#charts') || document.querySelector('#charts .plot') !== null)"
        )

    def run(self, script):
        return self.driver.execute_script(script)

    def wait(self, script):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda driver: driver.execute_script(script))

    def keys(self, selector, *keys):
        """Press keys while the element that a selector finds has the focus."""
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(*keys)

    def select(self, selector, value):
        """Choose one of a select's options."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import Select

        Select(self.driver.find_element(By.CSS_SELECTOR, selector)).select_by_value(value)

    def text(self, selector):
        return self.run(f"return document.querySelector({json.dumps(selector)}).textContent")

    def logs(self):
        """Errors in the console, and addresses that were asked for, since the last time."""
        errors = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return errors, asked

    def picture(self, path, most=9000):
        """The page as PNG, from its top down to ``most`` pixels."""
        width, height = self.run(f"return [innerWidth, Math.min(document.documentElement.scrollHeight, {most})]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(path).write_bytes(base64.b64decode(shot["data"]))
