"""Where a request of ``IlertSession`` gets its token, and is sent again."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.utils import requote_uri

from django_ilert_oauth.exceptions import EndpointMismatchError
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.secret import Secret

from . import retry
from .bearer import Bearer, is_header_value
from .responses import error_response

_require_safe = lru_cache(transport.require_safe)

logger = logging.getLogger(__name__)

#: A path that is encoded more often is refused: each decoding reads all of it.
MAX_DECODINGS = 8


class BearerAdapter(BaseAdapter):
    """Adds the token to a copy of each request that is not kept, and sends some again.

    ``mounted`` finds the adapter for a URL that does the sending. What is handed out and
    raised has never held the token.
    """

    def __init__(
        self, bearer: Bearer, mounted: Callable[[Any], BaseAdapter], max_wait: float
    ) -> None:
        super().__init__()
        self._bearer = bearer
        self._mounted = mounted
        self._max_wait = max_wait

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        if request.headers or request.body or is_within(request.url, self._bearer.account.api_url):
            response, token = self._send_with_token(request, kwargs)
        else:
            response, token = self._send_once(request, Secret(), kwargs), Secret()
        if 400 <= response.status_code < 600 and type(response) is requests.Response:
            return error_response(response, token, stream=kwargs.get("stream"))
        return response

    def _send_with_token(
        self, request: requests.PreparedRequest, kwargs: dict[str, Any]
    ) -> tuple[requests.Response, Secret]:
        """The final response, and the token that was sent for it."""
        require_within(request.url, self._bearer.account.api_url)
        can_be_sent_again = isinstance(request.body, str | bytes | None)
        retries = retry.Retries(self._max_wait if can_be_sent_again else 0)
        response, token = self._send_and_wait(request, retries, kwargs)
        if response.status_code == 401 and self._bearer.replace(token) and can_be_sent_again:
            response.close()
            response, token = self._send_and_wait(request, retries, kwargs)
        return response, token

    def _send_and_wait(
        self, request: requests.PreparedRequest, retries: retry.Retries, kwargs: dict[str, Any]
    ) -> tuple[requests.Response, Secret]:
        while True:
            token = self._bearer.token()
            response = self._send_once(request, token, kwargs)
            seconds = retries.wait_after(response)
            if seconds is None:
                return response, token
            response.close()
            [text] = error_response(response, token, stream=True).error.args
            logger.warning("Account %s: %s: waiting %.1f s", self._bearer.account.pk, text, seconds)
            retry.wait(seconds)

    def _send_once(
        self, request: requests.PreparedRequest, token: Secret, kwargs: dict[str, Any]
    ) -> requests.Response:
        handled = sys.exception()
        try:
            response = self._mounted(request.url).send(_with_token(request, token), **kwargs)
        except BaseException as error:
            failure = transport.strip_frames(error, handled=handled)
        else:
            response.request = request
            return response
        if isinstance(failure, requests.RequestException):
            failure.request = request
            # In place of the errors of urllib3, which hold connections.
            failure.args = tuple(map(str, failure.args))
        raise failure


def _with_token(request: requests.PreparedRequest, token: Secret) -> requests.PreparedRequest:
    if not is_header_value(token):
        raise requests.exceptions.InvalidHeader("No header can hold the account's access token.")
    return transport.authorized(request.copy(), token) if token else request


def require_within(url: str | None, api_url: str) -> None:
    """Raises ``EndpointMismatchError``, and ``IlertOAuthError`` for plain http."""
    if not is_within(url, api_url):
        raise EndpointMismatchError(
            "The URL is not below the account's api_url, and tokens are sent only there."
        )
    _require_safe(api_url)


def is_within(url: str | None, api_url: str) -> bool:
    """Whether a URL has the same origin as the other, and a path below its path.

    ``url`` is a prepared one: what is connected to, however the caller has spelt it.
    """
    parts, base = urlsplit(url or ""), _prepared(api_url)
    return (
        _origin(parts) == _origin(base)
        and f"{parts.path}/".startswith(f"{base.path.rstrip('/')}/")
        and not _climbs(parts.path)
    )


@lru_cache
def _prepared(api_url: str) -> SplitResult:
    return urlsplit(requote_uri(api_url))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _climbs(path: str) -> bool:
    """Whether a server could read a ``..`` in it: encoded, between backslashes, with parameters.

    Some servers cut off more than parameters, such as white space: no name may begin like that.
    """
    for _decoding in range(MAX_DECODINGS):
        path = unquote(path)
    is_encoded = path != unquote(path)
    return is_encoded or any(name.startswith("..") for name in re.split(r"[/\\]", path))
