"""The pages beside the style sheets that sites bring along."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from tests.browser.example import Example, accounts_in_each_state
from tests.browser.window import NARROW, Window

#: Where npm has put the packages that tox.ini names.
PACKAGES = Path(os.environ.get("NODE_PATH", "node_modules"))
SHEETS = {
    "bootstrap": "bootstrap/dist/css/bootstrap.css",
    "pico": "@picocss/pico/css/pico.css",
    "tailwind": "tailwindcss/preflight.css",
}
PLACES = ["prepend", "append"]
PLAIN = "button, a, input { border: 0; background: none } li { list-style: square }"


@pytest.fixture(params=[*SHEETS, "plain"])
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def css(framework: str) -> str:
    if framework == "plain":
        return PLAIN
    path = PACKAGES / SHEETS[framework]
    if not path.exists():
        pytest.skip("tox run -e browser has npm fetch it")
    return path.read_text(encoding="utf-8")


def test_the_pages_keep_their_looks(
    window: Window, person: User, example: Example, framework: str, css: str
) -> None:
    window.be_narrow()
    found = {("nothing", place): looks(window, "", css, place) for place in PLACES}
    accounts = accounts_in_each_state(example, person)
    paths = {
        "accounts": "",
        "connect": "connect/",
        "choose": "choose/",
        "disconnect": f"{accounts[0].pk}/disconnect/",
    }
    for (page, path), place in product(paths.items(), PLACES):
        found[page, place] = looks(window, path, css, place)
        window.take_picture(f"{page}-{framework}-{place}")
    assert {where: it for where, it in found.items() if it != ([], [], NARROW)} == {}


def looks(window: Window, path: str, css: str, place: str) -> tuple[Any, Any, int]:
    """What the style sheet changes, what axe complains of with it, and the width of the page."""
    window.open(f"/ilert/{path}")
    before = window.looks
    window.add_style(css, place)
    changed = [pair for pair in zip(before, window.looks, strict=True) if pair[0] != pair[1]]
    return changed, window.violations("main"), window.width_of_page
