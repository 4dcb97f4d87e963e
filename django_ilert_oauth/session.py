"""A ``requests`` session that acts in ilert for one account."""

from __future__ import annotations

import copy
import inspect
import logging
import random
import time
from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from . import flows, transport
from .conf import conf
from .exceptions import EndpointMismatchError, IlertOAuthError
from .models import ConnectedAccount
from .rest_answers import IlertHTTPError, IlertResponse, item_key, items_of

logger = logging.getLogger(__name__)

__all__ = ["IlertHTTPError", "IlertSession"]

PAGE = 50
#: An endpoint that invents new items for ever is not followed there.
MOST_PAGES = 10_000
_OF_REQUESTS = inspect.signature(requests.Session.request).parameters.keys()
#: Answers of a gateway or of an overloaded server, and how often they are not taken for final.
TROUBLE = frozenset({502, 503, 504})
TROUBLE_TRIES = 3


class IlertSession(requests.Session):
    """Relative URLs lead to the account's ilert; each request carries a fresh token.

    The token goes nowhere else: an absolute URL to another scheme, host or port raises
    ``EndpointMismatchError``, a redirect there goes without it, and no request, response or
    exception that is handed out holds it. A request also raises what ``flows.get_access_token``
    raises. A 401 is answered by one more try with another token: one that is stored meanwhile, or
    that a refresh brings, unless the last is less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago. A
    429 is waited out, and so is a 502, 503 or 504 to an idempotent method, up to three times;
    ``max_wait`` seconds in all at the most, anew after a redirect. The last answer is returned as
    it is. A body that is a stream is sent once only. Hooks see the last answer.

    Threads may share a session and its account: only one of them refreshes. As with any session of
    ``requests``, set it up before, and answers are read whole unless ``stream=True``.

    ``team_context`` is the id of the team whose things are meant, ilert's header ``team-context``.
    """

    def __init__(
        self,
        account: ConnectedAccount,
        *,
        max_wait: float = 60,
        team_context: int | str | None = None,
    ) -> None:
        super().__init__()
        self.account = account
        self.max_wait = float(max_wait)
        self.auth = _OnlyAtIlert(account)
        self.headers["Accept"] = "application/json"
        if team_context is not None:
            self.headers["team-context"] = str(team_context)
        for prefix, adapter in transport.adapters.items():
            self.mount(prefix, adapter)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "An IlertSession cannot be pickled or copied: hand on the primary key of its account, "
            "and open a session there."
        )

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        absolute = copy.copy(request)
        url = request.url or ""
        absolute.url = self._absolute(url.decode() if isinstance(url, bytes) else url)
        return super().prepare_request(absolute)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = conf.timeout
        if kwargs.get("proxies") is None:
            settings = self.merge_environment_settings(request.url or "", {}, None, None, None)
            kwargs["proxies"] = settings["proxies"]
        return super().send(request, **kwargs)

    def merge_environment_settings(
        self, url: str, proxies: dict[str, str] | None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        proxies = {**transport.proxies_for(url), **(proxies or {})}
        return super().merge_environment_settings(url, proxies, *args, **kwargs)

    def get_adapter(self, url: Any) -> BaseAdapter:
        return _TokenAdapter(self.account, self._mounted(url), self.max_wait)

    def _mounted(self, url: Any) -> BaseAdapter:
        return super().get_adapter(url)

    def list(self, path: str, **params: Any) -> Iterator[Any]:
        """Every item of an endpoint that pages, each once, fetched as they are asked for.

        ``params`` are those of the query, and ``path`` has none. Raises ``IlertHTTPError`` for an
        answer that is not 2xx, ``requests.RequestException`` for one that is no list and for pages
        that do not end, ``TypeError`` for keywords of ``requests``. Do not delete items meanwhile:
        those behind them would move up.
        """
        if names := sorted(_OF_REQUESTS & params.keys()):
            raise TypeError(f"list() takes the query's parameters, not those of requests: {names}")
        if "?" in path:
            raise ValueError("list() takes the query's parameters as keywords, not in the path.")
        return self._items(path, params)

    def _items(self, path: str, params: dict[str, Any]) -> Iterator[Any]:
        start, longest, seen = int(params.pop("start-index", 0)), 0, set[str]()
        for _page in range(MOST_PAGES):
            page = {"start-index": start, "max-results": PAGE, **params}
            items = items_of(self.get(path, params=page))
            new = {key: item for item in items if (key := item_key(item)) not in seen}
            yield from new.values()
            if not new or len(items) < longest:
                return
            seen.update(new)
            start, longest = start + len(items), len(items)
        raise requests.RequestException(f"{path} has not ended after {MOST_PAGES} pages.")

    def _absolute(self, url: str) -> str:
        base = self.account.api_url
        is_relative = "://" not in url.partition("?")[0] and not url.startswith("//")
        return f"{base}/{url.lstrip('/')}" if is_relative else urljoin(base, url)


class _OnlyAtIlert(AuthBase):
    """Adds nothing, and keeps ``requests`` from adding a password from ``~/.netrc``."""

    def __init__(self, account: ConnectedAccount) -> None:
        self._account = account

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # The prepared URL: what urllib3 connects to, however the caller spelt it.
        if _origin(request.url or "") != _origin(self._account.api_url):
            raise EndpointMismatchError("An account's token goes only to the ilert that issued it.")
        transport.require_safe(request.url or "")
        return request


class _TokenAdapter(BaseAdapter):
    """Before the one that is mounted: here the token is added, to a copy that is not kept."""

    def __init__(self, account: ConnectedAccount, mounted: BaseAdapter, max_wait: float) -> None:
        super().__init__()
        self._account = account
        self._mounted = mounted
        self._max_wait = max_wait

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        tries = _Tries(self._account, self._max_wait)
        while True:
            token = self._token(request.url or "")
            response = self._send_once(request, token, **kwargs)
            pause = tries.pause_after(request, response, token)
            if pause is None:
                if response.status_code >= 400 and not kwargs.get("stream"):
                    # Hooks may raise for it before requests itself has read it.
                    response.content  # noqa: B018
                return response
            response.close()
            if pause:
                wait(pause)

    def _token(self, url: str) -> str:
        if _origin(url) != _origin(self._account.api_url):
            return ""
        transport.require_safe(url)
        return flows.get_access_token(self._account)

    def _send_once(
        self, request: requests.PreparedRequest, token: str, **kwargs: Any
    ) -> requests.Response:
        sent = transport.authorized(request.copy(), token) if token else request
        try:
            response = self._mounted.send(sent, **kwargs)
        except BaseException as error:
            del sent  # or the frame would show it
            failure = transport.bare(error)
        else:
            response.request = request
            if type(response) is requests.Response:
                response.__class__ = IlertResponse
            return response
        if isinstance(failure, requests.RequestException):
            failure.request = request
        raise failure


class _Tries:
    """Those that one request has had, and how long they were apart."""

    def __init__(self, account: ConnectedAccount, max_wait: float) -> None:
        self._account = account
        self._left = max_wait
        self._troubles = 0
        self._was_refused = False

    def pause_after(
        self, request: requests.PreparedRequest, response: requests.Response, token: str
    ) -> float | None:
        """Seconds to the next try; None where this answer is the last."""
        can_be_sent_again = isinstance(request.body, str | bytes | None)
        if response.status_code == 401:
            return 0.0 if self._has_new_token(token) and can_be_sent_again else None
        pause = self._wish(request, response) if can_be_sent_again else None
        if pause is None or pause > self._left:
            return None
        self._left -= pause
        logger.warning(
            "Account %s: ilert answered %d: waiting %.1f s",
            self._account.pk,
            response.status_code,
            pause,
        )
        return pause

    def _has_new_token(self, refused: str) -> bool:
        if self._was_refused or not refused:
            return False
        self._was_refused = True
        return _has_other_token(self._account, refused)

    def _wish(self, request: requests.PreparedRequest, response: requests.Response) -> float | None:
        asked = transport.retry_after(response.headers.get("Retry-After"))
        if response.status_code == 429:
            return transport.pause_after_429(asked, most=self._left)
        is_idempotent = request.method in Retry.DEFAULT_ALLOWED_METHODS
        if response.status_code not in TROUBLE or not is_idempotent:
            return None
        self._troubles += 1
        if self._troubles > TROUBLE_TRIES:
            return None
        growing: float = 2**self._troubles * random.uniform(0.25, 0.5)  # noqa: S311
        return growing if asked is None else max(asked, growing)


def wait(seconds: float) -> None:
    time.sleep(seconds)


def _has_other_token(account: ConnectedAccount, refused: str) -> bool:
    """Refreshes the account unless another thread has done so since this token was sent."""
    if account.access_token == refused:
        try:
            flows.refresh(account)
        except IlertOAuthError as error:
            logger.warning("Account %s: no new token after a 401: %s", account.pk, error.code)
    return account.access_token not in ("", refused)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
