"""A transport without a network, whose responses a test writes down beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


class ScriptedAdapter(HTTPAdapter):
    """Answers each request with the next of its replies; the last one comes again and again."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self._replies = list(replies) or [Reply()]
        self.seen: list[Seen] = []

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        headers = {name: str(value) for name, value in request.headers.items()}
        body = b"".join(_chunks(request.body))
        method, url = request.method or "", request.url or ""
        self.seen.append(Seen(method, url, headers, body, kwargs["timeout"], kwargs.get("verify")))
        assert len(self.seen) < 200, "asks for ever"
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        raw = HTTPResponse(
            BytesIO(content), headers=reply.headers, status=reply.status, preload_content=False
        )
        response: requests.Response = self.build_response(request, raw)
        return response


def _chunks(body: Any) -> Iterator[bytes]:
    if body is None:
        return
    for chunk in [body] if isinstance(body, str | bytes) else body:
        yield chunk.encode() if isinstance(chunk, str) else chunk
