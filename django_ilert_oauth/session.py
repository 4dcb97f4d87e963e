"""A ``requests`` session that acts in ilert for one account."""

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
    """Errors leave without the frames of ``requests``, which hold the passwords of proxies."""

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
    """A ``requests.Session`` that acts in ilert for one account.

    Relative URLs lead to the account's ilert, and each request carries a fresh token.

    The token goes nowhere else. An absolute URL outside of the account's ``api_url``, path
    included, raises ``EndpointMismatchError``; a redirect there goes without token, headers and
    body, and one that comes back raises. No request, response or exception that is handed out holds
    the token. A request also raises what ``flows.get_access_token`` raises.

    After a 401 the request is sent once more with another token: one that is stored meanwhile, or
    that a refresh brings. A 429 is waited out, and so is a 502, 503 or 504 to an idempotent method,
    up to three times; ``max_wait`` seconds in all, counted again after a redirect. The default is
    short, since a web request waits along: commands and tasks ask for a minute or more. The last
    response is returned as it is, and hooks see only that. A body that is a stream is sent once.

    Threads may share a session and its account: only one of them refreshes. As with any session of
    ``requests``, set it up before, and responses are read completely unless ``stream=True``.

    ``team_context`` is the id of the team whose things are meant; 0 means all, -1 the user's own.
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
        return self._bearer.account

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "An IlertSession cannot be pickled or copied: hand on the primary key of its account, "
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
        """Nothing of the request follows a redirect that leaves ilert."""
        if not is_within(prepared_request.url, self.account.api_url):
            prepared_request.headers.clear()
            prepared_request.body = None
        elif not is_within(response.url, self.account.api_url):
            raise EndpointMismatchError(
                "A redirect led back from outside of the account's api_url: it might do anything."
            )

    def get_adapter(self, url: Any) -> BaseAdapter:
        return BearerAdapter(self._bearer, self._mounted, self.max_wait)

    def _mounted(self, url: Any) -> BaseAdapter:
        """One that tests have put in place is used whatever a site has mounted."""
        for prefix, adapter in transport.adapters.items():
            if url.lower().startswith(prefix.lower()):
                return adapter
        return super().get_adapter(url)

    def list(self, path: str, **params: Any) -> Iterator[Any]:
        """Yields every item of an endpoint that pages, each once, a page at a time.

        ``params`` are those of the query, and ``path`` has none. ``max-results`` is the size of a
        page; ilert's limit is used where it is smaller. Raises ``IlertHTTPError`` for an error
        response, ``requests.RequestException`` for one that is no list and for pages that do not
        end, ``TypeError`` for keywords of ``requests``. Do not delete items meanwhile: those behind
        them would move up.
        """
        if names := sorted(_OF_REQUESTS & params.keys()):
            raise TypeError(f"list() takes the query's parameters, not those of requests: {names}")
        if "?" in path:
            raise ValueError("list() takes the query's parameters as keywords, not in the path.")
        return list_items(self.get, self._page_limits, path, params)

    def _absolute(self, url: str) -> str:
        parts = urlsplit(url)
        base = self.account.api_url
        is_absolute = parts.scheme or parts.netloc
        return urljoin(base, url) if is_absolute else f"{base}/{url.lstrip('/')}"
