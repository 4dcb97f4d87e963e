"""What a browser would make of a page's HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"br", "hr", "img", "input", "link", "meta"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    ancestors: tuple[str, ...]
    text: str = field(default="", compare=False)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())


class Page(HTMLParser):
    """Raises ``ValueError`` for tags that do not close as they were opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")
        for element in self.elements:
            element.text = " ".join(element.text.split())

    @classmethod
    def of(cls, response: Any) -> Page:
        assert response.status_code == 200
        return cls(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        element = Element(tag, named, tuple(parent.tag for parent in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop().tag != tag:
            raise ValueError(f"</{tag}> closes something else")

    def handle_data(self, text: str) -> None:
        for element in self._open:
            element.text += text

    def all(self, tag: str, class_name: str = "") -> list[Element]:
        return [
            element
            for element in self.elements
            if element.tag == tag and (not class_name or class_name in element.classes)
        ]

    def one(self, tag: str, class_name: str = "") -> Element:
        [element] = self.all(tag, class_name)
        return element

    def texts(self, tag: str, class_name: str = "") -> list[str]:
        return [element.text for element in self.all(tag, class_name)]

    @property
    def text(self) -> str:
        return self.one("body").text
