"""The colours of the pages against WCAG 2.2, level AA."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STYLE = (Path(__file__).parents[1] / "django_ilert_oauth/static/ilert_oauth/style.css").read_text()
PAIR = re.compile(r"(--ilert-[\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
COLOURS = {name: {"light": light, "dark": dark} for name, light, dark in PAIR.findall(STYLE)}

#: Success criterion 1.4.3: text, on what it stands on.
TEXTS = [
    *[(text, ground) for text in ("text", "muted", "accent") for ground in ("page", "card")],
    *[(text, ground) for text in ("good", "attention", "bad") for ground in ("page", "card")],
    ("on-accent", "accent"),
    ("on-bad", "bad"),
]
#: Success criterion 1.4.11: edges of fields and buttons, and what shows the focus.
EDGES = [(edge, ground) for edge in ("edge", "accent") for ground in ("page", "card")]

scheme = pytest.mark.parametrize("scheme", ["light", "dark"])


def luminance(colour: str) -> float:
    """Relative, as WCAG defines it."""
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def contrast(front: str, back: str, scheme: str) -> float:
    first, second = (luminance(COLOURS[f"--ilert-{name}"][scheme]) for name in (front, back))
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


@scheme
@pytest.mark.parametrize(("text", "ground"), TEXTS)
def test_text_stands_out(text: str, ground: str, scheme: str) -> None:
    assert contrast(text, ground, scheme) >= 4.5


@scheme
@pytest.mark.parametrize(("edge", "ground"), EDGES)
def test_edges_and_the_focus_stand_out(edge: str, ground: str, scheme: str) -> None:
    assert contrast(edge, ground, scheme) >= 3


def test_each_colour_is_a_variable_with_a_value_for_each_scheme() -> None:
    colours = re.findall(r"#[0-9a-f]{3,8}\b", STYLE)
    assert len(colours) == 2 * len(COLOURS)
    used = set(re.findall(r"var\((--[\w-]+)\)", STYLE))
    assert used == set(re.findall(r"^ *(--[\w-]+):", STYLE, re.MULTILINE))


def test_elements_of_a_site_are_styled_only_inside_of_the_pages() -> None:
    """A rule without a class of the app would reach into the rest of a site's page."""
    rules = re.findall(r"^([^\s@/}][^{]*) {", STYLE, re.MULTILINE)
    selectors = [selector.strip() for rule in rules for selector in rule.split(",\n")]
    assert ":where(:root)" in selectors
    strangers = [selector for selector in selectors if ".ilert-" not in selector]
    assert strangers == [":where(:root)"]
