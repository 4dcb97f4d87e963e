"""What a test can see of a request that the app has sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from django.http import QueryDict
from requests.structures import CaseInsensitiveDict

from django_ilert_oauth.conf import conf


@dataclass(frozen=True)
class SentRequest:
    """A request that the fake received, without tokens: no form, ``Authorization`` or ``Cookie``.

    ``path`` is relative to ``ILERT_OAUTH_API_URL``, or a full URL if the request went to another
    host. The names in ``headers`` are case-insensitive. ``json`` is the parsed body, or None if it
    is not JSON.
    """

    method: str
    path: str
    query: QueryDict
    headers: Mapping[str, str]
    json: Any


def as_sent(request: requests.PreparedRequest) -> SentRequest:
    """Its path is relative to ``ILERT_OAUTH_API_URL``, or the full URL of another host."""
    url = request.url or ""
    for api_url, _client_id in conf.client_keys():
        url = url.removeprefix(api_url)
    parts = urlsplit(url)
    path = parts._replace(query="", fragment="").geturl()
    headers = {
        name: str(value)
        for name, value in request.headers.items()
        if name.lower() not in ("authorization", "cookie")
    }
    return SentRequest(
        method=request.method or "",
        path=path,
        query=QueryDict(parts.query),
        headers=CaseInsensitiveDict(headers),
        json=_json_of(request),
    )


def _json_of(request: requests.PreparedRequest) -> Any:
    is_json = str(request.headers.get("Content-Type")).startswith("application/json")
    if not is_json or not isinstance(request.body, str | bytes):
        return None
    try:
        return json.loads(request.body)
    except ValueError:
        return None
