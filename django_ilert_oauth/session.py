"""A ``requests`` session that acts in ilert for one account."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase

from . import client, flows
from .conf import conf
from .exceptions import EndpointMismatchError, IlertOAuthError
from .models import ConnectedAccount

logger = logging.getLogger(__name__)

PAGE = 50


class IlertSession(requests.Session):
    """Relative URLs lead to the account's ilert; each request carries a fresh token.

    The token goes nowhere else: an absolute URL to another scheme, host or port raises
    ``EndpointMismatchError``, a redirect there loses the token. A request also raises what
    ``flows.get_access_token`` raises. A 401 is answered by one refresh and one more try, a 429 by
    waiting, ``max_wait`` seconds in all at the most; the last answer is returned as it is.
    """

    def __init__(self, account: ConnectedAccount, *, max_wait: float = 60) -> None:
        super().__init__()
        self.account = account
        self.max_wait = max_wait
        self.auth = _AccountAuth(account)
        self.headers["Accept"] = "application/json"
        for prefix, adapter in client.adapters.items():
            self.mount(prefix, adapter)

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Any
    ) -> requests.Response:
        kwargs.setdefault("timeout", conf.timeout)
        url = self._absolute(url)
        kwargs["proxies"] = {**client.proxies_for(url), **(kwargs.get("proxies") or {})}
        response = self._patiently(method, url, *args, **kwargs)
        if response.status_code == 401 and _can_repeat(response) and self._renewed():
            response.close()
            response = self._patiently(method, url, *args, **kwargs)
        return response

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        try:
            return super().send(request, **kwargs)
        except BaseException as error:
            failure = client.bare(error)
        request.headers.pop("Authorization", None)
        raise failure

    def list(self, path: str, **params: Any) -> Iterator[Any]:
        """Every item of an endpoint that pages, fetched as they are asked for.

        Raises ``requests.HTTPError`` for an answer that is not 2xx.
        """
        start, longest, previous = int(params.pop("start-index", 0)), 0, None
        while True:
            page = {"start-index": start, "max-results": PAGE, **params}
            response = self.get(path, params=page)
            response.raise_for_status()
            items = response.json()
            if not items or items == previous:
                return
            yield from items
            if len(items) < longest:
                return
            start, longest, previous = start + len(items), len(items), items

    def should_strip_auth(self, old_url: str, new_url: str) -> bool:
        """Stricter than ``requests``, which lets a token follow from http to https."""
        return _origin(old_url) != _origin(new_url)

    def _absolute(self, url: str) -> str:
        base = self.account.api_url
        is_relative = "://" not in url and not url.startswith("//")
        return f"{base}/{url.lstrip('/')}" if is_relative else urljoin(base, url)

    def _patiently(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        waited = 0.0
        while True:
            response = super().request(method, url, *args, **kwargs)
            pause = _pause(response)
            if pause is None or waited + pause > self.max_wait or not _can_repeat(response):
                return response
            response.close()
            logger.warning("ilert asks for fewer requests: waiting %.0f s", pause)
            time.sleep(pause)
            waited += pause

    def _renewed(self) -> bool:
        before = self.account.access_token_ciphertext
        try:
            flows.refresh(self.account)
        except IlertOAuthError as error:
            logger.warning("Account %s: no new token after a 401: %s", self.account.pk, error.code)
        return self.account.access_token_ciphertext != before


class _AccountAuth(AuthBase):
    def __init__(self, account: ConnectedAccount) -> None:
        self._account = account

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # The prepared URL: what urllib3 connects to, however the caller spelt it.
        url = request.url or ""
        if _origin(url) != _origin(self._account.api_url):
            raise EndpointMismatchError("An account's token goes only to the ilert that issued it.")
        client.require_safe(url)
        return client.BearerAuth(flows.get_access_token(self._account))(request)


def _can_repeat(response: requests.Response) -> bool:
    """A stream is used up, and so are files by the time they are a multipart body."""
    first = (response.history or [response])[0].request
    is_multipart = str(first.headers.get("Content-Type")).startswith("multipart/")
    return isinstance(first.body, str | bytes | None) and not is_multipart


def _pause(response: requests.Response) -> float | None:
    """Seconds to wait after a 429. ilert names none (observed); its windows last a minute."""
    if response.status_code != 429:
        return None
    asked = client.retry_after(response.headers.get("Retry-After"))
    return random.uniform(10, 30) if asked is None else max(asked, 1.0)  # noqa: S311


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
