"""What an answer of ilert's REST API says, beyond what ``requests`` makes of it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import requests

LONGEST_ERROR_BODY = 64 * 1024
LONGEST_MESSAGE = 500
_CODE = re.compile(r"[A-Za-z_]{1,60}")
#: No word of a message is as long, but tokens are.
_LONG_WORD = re.compile(r"\S{40,}")


class IlertHTTPError(requests.HTTPError):
    """What ``raise_for_status`` raises; its text holds neither the query nor what ilert wrote.

    ``code`` and ``message`` are ilert's own, empty where the answer has none. The message is cut
    short, and no token is left in it; it may quote what was sent, so think before you show it.
    Pickled, the error leaves its response behind.
    """

    def __init__(self, *args: Any, code: str = "", message: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"code": self.code, "message": self.message}


class IlertResponse(requests.Response):
    def raise_for_status(self) -> None:
        if 400 <= self.status_code < 600:
            code, message = _error_facts(self)
            answer = f"{self.status_code} {code}".strip()
            request = f"{self.request.method} {urlsplit(self.url).path}"
            raise IlertHTTPError(
                f"ilert answered {answer} to {request}", code=code, message=message, response=self
            )


def items_of(response: requests.Response) -> list[Any]:
    """Raises ``IlertHTTPError``, or ``InvalidJSONError`` for an answer that is no list."""
    response.raise_for_status()
    items = _parsed(response.content)
    if not isinstance(items, list):
        raise requests.exceptions.InvalidJSONError(
            f"The answer to {urlsplit(response.url).path} is no list: read it by get()."
        )
    return items


def item_key(item: Any) -> str:
    """What tells the items of a list apart."""
    has_id = isinstance(item, dict) and item.get("id") is not None
    return json.dumps(item["id"] if has_id else item, sort_keys=True)


def _error_facts(response: requests.Response) -> tuple[str, str]:
    """ilert's code and message. A stream that nobody has read yet is left alone."""
    content = response.content if response._content_consumed else b""
    body = _parsed(content) if len(content) <= LONGEST_ERROR_BODY else None
    if not isinstance(body, dict):
        return "", ""
    return _code(body.get("code")), _message(body.get("message"))


def _code(value: Any) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def _message(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    words = _LONG_WORD.sub("…", value).split()
    return " ".join(words)[:LONGEST_MESSAGE]


def _parsed(content: bytes) -> Any:
    """None for what is no JSON: an error of the parser would carry the whole body."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
