"""Transports that misbehave at one endpoint, and reach the stand-in for all others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse


class Misbehaving(HTTPAdapter):
    def __init__(
        self, endpoint: str, act: Callable[[requests.PreparedRequest], HTTPResponse]
    ) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._act = act

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        if not request.path_url.endswith(self._endpoint):
            return super().send(request, *args, **kwargs)
        response: requests.Response = self.build_response(request, self._act(request))
        return response


class Elsewhere(HTTPAdapter):
    """Where nobody listens: the frames of the libraries hold the request."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        if request.path_url.endswith(self._endpoint):
            request.url = f"http://127.0.0.1:9{request.path_url}"
        return super().send(request, *args, **kwargs)


def echo(endpoint: str, status: int, *, as_html: bool = False) -> Misbehaving:
    """Sends back all that it was sent, wherever a response has room for it."""

    def act(request: requests.PreparedRequest) -> HTTPResponse:
        body_sent = str(request.body)
        sent = f"{body_sent} {request.headers.get('Authorization', '')!s}"
        names = ("code", "error", "error_description", "message", "scope", "active", "tenant_id")
        body: dict[str, object] = dict.fromkeys(names, sent)
        body["access_token"] = [sent]
        headers = {"Location": f"/elsewhere?{body_sent}", "X-Sent": sent, "Retry-After": "0"}
        text = f"<!doctype html><p>{sent}" if as_html else json.dumps(body)
        return _response(text.encode(), status, headers)

    return Misbehaving(endpoint, act)


def interrupted(endpoint: str, error: BaseException) -> Misbehaving:
    """Raises from a frame that holds the request, as those of the libraries do."""

    def write(url: str, body: object, headers: dict[str, object]) -> HTTPResponse:
        raise error

    return Misbehaving(
        endpoint, lambda request: write(str(request.url), request.body, dict(request.headers))
    )


def _response(body: bytes, status: int, headers: Mapping[str, str]) -> HTTPResponse:
    return HTTPResponse(body=BytesIO(body), status=status, headers=headers, preload_content=False)
