"""What these tests would see if it were there."""

from __future__ import annotations

from tests.browser.window import Window

CLOSED = "http://127.0.0.2:1/"


def test_an_accessibility_violation_is_seen(window: Window) -> None:
    window.open("/")
    window.run("document.querySelector('main').append(new Image())")
    [violation] = window.violations()
    assert violation.startswith("image-alt ")


def test_an_error_on_the_console_is_seen(window: Window) -> None:
    window.open("/")
    window.run("console.error('so it is')")
    [error] = window.console_errors()
    assert "so it is" in error


def test_a_request_to_a_third_host_is_seen(window: Window) -> None:
    window.open("/")
    window.run(f"fetch('{CLOSED}').catch(() => document.title = 'failed')")
    window.wait_for_title("failed")
    assert window.other_hosts() == {"127.0.0.2:1"}
    window.console_errors()
