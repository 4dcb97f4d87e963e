"""A transport whose responses a test writes down beforehand, or that misbehaves as it says."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse


@dataclass
class Reply:
    """``body`` is bytes, or what is to be JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    timeout: Any
    verify: Any


#: None lets the request go on to where it was sent.
Respond = Callable[[requests.PreparedRequest], Reply | None]


class ScriptedAdapter(HTTPAdapter):
    """Responds to each request with the next of its replies; the last one comes again and again.

    It keeps what it was sent, unless it ``forgets``.
    """

    def __init__(self, *replies: Reply | Respond, forgets: bool = False) -> None:
        super().__init__()
        self._replies = list(replies) or [Reply()]
        self._forgets = forgets
        self.seen: list[Seen] = []

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        if not self._forgets:
            self.seen.append(_seen(request, **kwargs))
            assert len(self.seen) < 200, "asks for ever"
        next_one = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        reply = next_one if isinstance(next_one, Reply) else next_one(request)
        if reply is None:
            return super().send(request, **kwargs)
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        raw = HTTPResponse(
            BytesIO(content), headers=reply.headers, status=reply.status, preload_content=False
        )
        response: requests.Response = self.build_response(request, raw)
        return response


def _seen(
    request: requests.PreparedRequest, *, timeout: Any, verify: Any = None, **_others: Any
) -> Seen:
    headers = {name: str(value) for name, value in request.headers.items()}
    body = b"".join(_chunks(request.body))
    return Seen(request.method or "", request.url or "", headers, body, timeout, verify)


def _chunks(body: Any) -> Iterator[bytes]:
    if body is None:
        return
    for chunk in [body] if isinstance(body, str | bytes) else body:
        yield chunk.encode() if isinstance(chunk, str) else chunk


# Those that misbehave at one endpoint, and reach the stand-in at all others


def echo(endpoint: str, status: int, *, as_html: bool = False) -> ScriptedAdapter:
    """Sends back all that it was sent, wherever a response has room for it."""

    def respond(request: requests.PreparedRequest) -> Reply:
        body_sent = str(request.body)
        sent = f"{body_sent} {request.headers.get('Authorization', '')!s}"
        names = ("code", "error", "error_description", "message", "scope", "active", "tenant_id")
        body: dict[str, object] = {**dict.fromkeys(names, sent), "access_token": [sent]}
        headers = {"Location": f"/elsewhere?{body_sent}", "X-Sent": sent, "Retry-After": "0"}
        return Reply(status, f"<!doctype html><p>{sent}".encode() if as_html else body, headers)

    return _at(endpoint, respond)


def interrupted(endpoint: str, error: BaseException) -> ScriptedAdapter:
    """Raises from a frame that holds the request, as those of the libraries do."""

    def write(url: str, body: object, headers: dict[str, object]) -> Reply:
        raise error

    return _at(
        endpoint, lambda request: write(str(request.url), request.body, dict(request.headers))
    )


def elsewhere(endpoint: str) -> ScriptedAdapter:
    """Where nobody listens: the frames of the libraries hold the request."""

    def lead_away(request: requests.PreparedRequest) -> None:
        request.url = f"http://127.0.0.1:9{request.path_url}"

    return _at(endpoint, lead_away)


def _at(endpoint: str, respond: Respond) -> ScriptedAdapter:
    def respond_there(request: requests.PreparedRequest) -> Reply | None:
        return respond(request) if request.path_url.endswith(endpoint) else None

    return ScriptedAdapter(respond_there, forgets=True)
