"""Lists that come in pages, of both kinds that ilert has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import requests

from django_ilert_oauth.exceptions import IlertHTTPError

from .responses import NOT_JSON, parse_json

PAGE_SIZE = 50
#: An endpoint that invents new items for ever is not followed there.
MAX_PAGES = 10_000
_TOO_LARGE = re.compile(r"'max-results' must not be above (\d{1,9})")

Get = Callable[..., requests.Response]
#: The largest page of a path, without and with ``include``, as far as it is known.
PageLimits = dict[tuple[str, bool], int]


def list_items(get: Get, limits: PageLimits, path: str, params: dict[str, Any]) -> Iterator[Any]:
    """Most endpoints go by ``start-index``; a response header ``next-cursor`` says which do not.

    A page that is not full is the last: ilert refuses pages that are too large, and clamps none.
    """
    size = int(params.pop("max-results", PAGE_SIZE))
    position: dict[str, Any] = {"start-index": int(params.pop("start-index", 0))}
    seen = set[str]()
    for _page in range(MAX_PAGES):
        response, size = _page_of(get, limits, path, {**params, **position}, size)
        items = _items_of(response)
        new = {key: item for item in items if (key := _item_key(item)) not in seen}
        yield from new.values()
        seen.update(new)
        if not new:
            return
        if cursor := response.headers.get("next-cursor"):
            position = {"cursor": cursor}
        elif "cursor" in position or len(items) < size:
            return
        else:
            position["start-index"] += len(items)
    raise requests.RequestException(f"{path} has not ended after {MAX_PAGES} pages.")


def _page_of(
    get: Get, limits: PageLimits, path: str, params: dict[str, Any], size: int
) -> tuple[requests.Response, int]:
    """The page and its size, which ilert's 400 teaches where it is too large."""
    key = (path, "include" in params)
    while True:
        size = min(size, limits.get(key, size))
        try:
            response = get(path, params={**params, "max-results": size})
            response.raise_for_status()
            return response, size
        except IlertHTTPError as error:
            stated = _TOO_LARGE.search(error.message)
            if not stated or not 0 < int(stated[1]) < size:
                raise
            limits[key] = int(stated[1])


def _items_of(response: requests.Response) -> list[Any]:
    items = parse_json(response.content)
    if isinstance(items, list):
        return items
    fault = "not from ilert" if items is NOT_JSON else "no list: read it by get()"
    raise requests.exceptions.InvalidJSONError(
        f"The response to {urlsplit(response.url).path} is {fault}."
    )


def _item_key(item: Any) -> str:
    """What identifies an item of a list."""
    has_id = isinstance(item, dict) and item.get("id") is not None
    return json.dumps(item["id"] if has_id else item, sort_keys=True)
