"""The pages of the example site itself, and those of the stand-in."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from tests.browser.example import Example, connect
from tests.browser.window import Window


def test_a_stranger_logs_in_at_home(window: Window, example: Example) -> None:
    window.open("/")
    window.fill_in(username="demo", password=example.passwords["demo"])
    window.press("Log in")
    assert window.path == "/"
    assert "Hello, demo." in window.text


def test_home_offers_what_comes_next(window: Window, person: User, example: Example) -> None:
    window.open("/")
    window.press("Connect ilert")
    assert window.heading == "Connect an ilert account"

    connect(example, person)
    window.open("/")
    window.press("Create an alert source")
    assert window.heading == "Allow more access"


def test_home_leads_to_the_accounts(window: Window, person: User) -> None:
    window.open("/")
    window.press("Manage ilert accounts")
    assert window.heading == "Your ilert accounts"


def test_times_are_told_in_words(window: Window, person: User, example: Example) -> None:
    account = connect(example, person)
    window.open(f"/accounts/{account.pk}/")
    assert "Access expires 59 minutes from now" in window.text


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_header_is_one_line_on_a_phone(
    window: Window, administrator: User, language: str
) -> None:
    window.prefer(language)
    window.resize(390, mobile=True)
    window.open("/")
    assert window.box_of("header")["height"] == window.box_of("header button")["height"]


def test_a_page_that_is_not_there_looks_like_the_others(window: Window, person: User) -> None:
    window.allowed_errors.append("404 (Not Found)")
    window.open("/nowhere/")
    assert window.heading == "Page not found"


@pytest.mark.parametrize("is_dark", [False, True])
def test_each_page_of_the_stand_in_is_accessible(
    window: Window, person: User, is_dark: bool
) -> None:
    if is_dark:
        window.be_dark()
    window.open("/ilert/connect/")
    for name in ["Go to ilert", "Grace Demo (grace)"]:
        window.press(name)
        assert window.violations() == []
        assert (window.brightness < 0.2) is is_dark
    colours = [
        window.control(name).value_of_css_property("background-color") for name in ("Allow", "Deny")
    ]
    assert colours[0] != colours[1]
