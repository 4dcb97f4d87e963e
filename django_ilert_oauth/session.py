"""A ``requests`` session that calls ilert for one account."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import BaseAdapter

from .api.adapter import BearerAdapter, is_within
from .api.bearer import Bearer
from .api.pagination import PageLimits, list_items
from .conf import conf
from .exceptions import EndpointMismatchError, IlertHTTPError, IlertOAuthError
from .models import ConnectedAccount
from .oauth import transport

__all__ = ["IlertHTTPError", "IlertSession"]

P = ParamSpec("P")
T = TypeVar("T")

_OF_REQUESTS = inspect.signature(requests.Session.request).parameters.keys()


def _without_frames(call: Callable[P, T]) -> Callable[P, T]:
    """Removes the frames of ``requests``, which hold passwords of proxies, from its errors."""

    @wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        handled = sys.exception()
        try:
            return call(*args, **kwargs)
        except (requests.RequestException, IlertOAuthError) as error:
            failure = transport.strip_frames(error, handled=handled)
        raise failure

    return wrapper


class IlertSession(requests.Session):
    """A ``requests.Session`` that calls ilert for one account.

    Relative URLs are resolved against the account's ``api_url``, and each request carries a fresh
    token. A request raises what ``flows.get_access_token`` raises, and the exceptions of
    ``requests``; ``raise_for_status`` raises ``IlertHTTPError``.

    The token is sent nowhere else. An absolute URL that is not below ``api_url``, path included,
    raises ``EndpointMismatchError``. A redirect that leads elsewhere is followed without the token,
    the headers and the body; if it then leads back, that raises, too. No request, response or
    exception that you get holds the token.

    After a 401 the request is sent once more with another token: one that has been stored in the
    meantime, or that a refresh returns; without one, the 401 is final. After a 429 the session
    waits and sends the request again; it does the same after a 502, 503 or 504, up to three times,
    if the method is idempotent. It waits for at most ``max_wait`` seconds in all; a redirect starts
    the count again. The default is short, since a web request waits, too: allow a minute or more
    in commands and tasks. You and your hooks get only the last response. A request whose body is a
    stream is sent only once.

    Threads may share a session and its account; only one of them refreshes. Set headers, hooks and
    adapters before the threads start.

    ``team_context`` is the ID of a team, 0 for all teams, or -1 for the user's own.
    """

    def __init__(
        self,
        account: ConnectedAccount,
        *,
        max_wait: float = 5,
        team_context: int | str | None = None,
    ) -> None:
        super().__init__()
        self._bearer = Bearer(account)
        self.max_wait = float(max_wait)
        self.headers["Accept"] = "application/json"
        self.headers["User-Agent"] = transport.USER_AGENT
        if team_context is not None:
            # Of ilert's OpenAPI description and of its CLI.
            self.headers["team-context"] = self.headers["x-team-context"] = str(team_context)
        for scheme in ("https://", "http://"):
            self.mount(scheme, transport.WatchedAdapter())
        self._page_limits: PageLimits = {}

    @property
    def account(self) -> ConnectedAccount:
        """The account whose token is sent."""
        return self._bearer.account

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "An IlertSession cannot be pickled or copied: pass on the primary key of its account, "
            "and open a session there."
        )

    request = _without_frames(requests.Session.request)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        absolute = copy.copy(request)
        url = request.url or ""
        absolute.url = self._absolute(url.decode() if isinstance(url, bytes) else url)
        absolute.auth = request.auth or self.auth or transport.no_auth
        return super().prepare_request(absolute)

    @_without_frames
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

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """A redirect that leaves ilert is followed without the headers and the body."""
        if not is_within(prepared_request.url, self.account.api_url):
            prepared_request.headers.clear()
            prepared_request.body = None
        elif not is_within(response.url, self.account.api_url):
            raise EndpointMismatchError(
                "A redirect left the account's api_url and led back to it: it is not followed."
            )

    def get_adapter(self, url: Any) -> BaseAdapter:
        return BearerAdapter(self._bearer, self._mounted, self.max_wait)

    def _mounted(self, url: Any) -> BaseAdapter:
        """Returns the adapter of a test, whatever the site has mounted, or else the site's."""
        for prefix, adapter in transport.adapters.items():
            if url.lower().startswith(prefix.lower()):
                return adapter
        return super().get_adapter(url)

    def list(self, path: str, **params: Any) -> Iterator[Any]:
        """Yields every item of a list in ilert once, and fetches one page at a time.

        Pass query parameters as keywords, not in ``path``. ``max-results`` is the size of a page,
        or ilert's limit if that is smaller. Do not delete items while you go through the list:
        those behind them would move up and be missed.

        Raises ``IlertHTTPError`` for an error response, ``requests.RequestException`` if a response
        is not a list or the pages do not end, ``TypeError`` for keywords of ``requests`` such as
        ``timeout``, and ``ValueError`` for a query in ``path``.
        """
        if names := sorted(_OF_REQUESTS & params.keys()):
            raise TypeError(f"list() takes query parameters, not those of requests: {names}")
        if "?" in path:
            raise ValueError("list() takes query parameters as keywords, not in the path.")
        return list_items(self.get, self._page_limits, path, params)

    def _absolute(self, url: str) -> str:
        parts = urlsplit(url)
        base = self.account.api_url
        is_absolute = parts.scheme or parts.netloc
        return urljoin(base, url) if is_absolute else f"{base}/{url.lstrip('/')}"
