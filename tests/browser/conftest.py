"""A real browser, the example site and the stand-in, and people who use them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from django.contrib.auth.models import User
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.remote.remote_connection import RemoteConnection

from tests.browser.example import Example, new_user, session_of, shared_example
from tests.browser.window import HEIGHT, SECONDS, WIDTH, Window, logged

PROGRAMS = ("chromium", "chromedriver")
HOW_TO_GET_ONE = "No browser is installed: apt-get install chromium chromium-driver"
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-US",
    f"--window-size={WIDTH},{HEIGHT}",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="folder for pictures of the pages")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not all(map(shutil.which, PROGRAMS)):
        pytest.exit(HOW_TO_GET_ONE, returncode=1 if os.environ.get("CI") else 0)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[Example]:
    with shared_example(tmp_path_factory.mktemp("example"), django_db_blocker) as example:
        yield example


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "WARNING", "performance": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        # Chromium's sandbox refuses to be root's.
        options.add_argument("--no-sandbox")
    service = ChromeService(executable_path=str(shutil.which("chromedriver")))
    with Chrome(options, service) as driver:
        # Without it a driver that hangs would be waited for without end.
        cast(RemoteConnection, driver.command_executor).client_config.timeout = 3 * SECONDS
        driver.set_page_load_timeout(SECONDS)
        driver.set_script_timeout(SECONDS)
        yield driver


@pytest.fixture
def window(driver: Chrome, example: Example, request: pytest.FixtureRequest) -> Iterator[Window]:
    """A new one each time, with no cookies. What no page may do is looked for at the end."""
    _start_afresh(driver)
    pictures = request.config.getoption("screenshots")
    window = Window(driver, example.site_url, example.ilert_url, pictures)
    yield window
    assert window.console_errors() == []
    assert window.other_hosts() == set()


def _start_afresh(driver: Chrome) -> None:
    """What was emulated goes with the tab it was emulated in."""
    before = driver.window_handles
    driver.switch_to.new_window("tab")
    new = driver.current_window_handle
    for tab in before:
        driver.switch_to.window(tab)
        driver.close()
    driver.switch_to.window(new)
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    for kind in ("browser", "performance"):
        logged(driver, kind)


@pytest.fixture
def person(example: Example, window: Window) -> User:
    """Logged in to the site, and nothing connected yet."""
    user = new_user()
    window.log_in(session_of(user))
    return user


@pytest.fixture
def administrator(example: Example, window: Window) -> User:
    user = new_user(is_staff=True, is_superuser=True)
    window.log_in(session_of(user))
    return user
