"""How requests travel to ilert, for the client and for ``IlertSession``."""

from __future__ import annotations

import http.client
import ipaddress
import math
import random
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader
from urllib3.util import Retry, parse_url

from django_ilert_oauth import __version__
from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError

from .secret import Secret

E = TypeVar("E", bound=BaseException)

USER_AGENT = f"django-ilert-oauth/{__version__}"
#: Also counts while the machine is suspended; not every platform has it.
BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)

#: Mounted by URL prefix on every session opened from now on: where tests put their transport.
adapters: dict[str, BaseAdapter] = {}


def clock() -> float:
    """The seconds that deadlines are given in."""
    return time.monotonic() if BOOTTIME is None else time.clock_gettime(BOOTTIME)


class Exchange:
    """A request and its response, from the name resolution to the last byte."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._has_connected = False
        self._socket: Any = None

    @property
    def used_kept_connection(self) -> bool:
        return self._socket is not None and not self._has_connected

    def remaining(self) -> float:
        """Seconds, always positive; raises ``IlertUnavailableError`` where none are left."""
        seconds = self.deadline - clock()
        if seconds <= 0:
            raise timed_out()
        return seconds

    def before_connecting(self) -> None:
        self._has_connected = True
        self.remaining()

    def before_sending(self, sock: Any) -> None:
        # First the socket, then the look at the deadline: abandon() does it the other way round.
        self._socket = sock
        self.remaining()

    def abandon(self) -> None:
        """Called by another thread: nothing more is sent, and what is being read ends."""
        self.deadline = -math.inf
        # SSLSocket.shutdown() would let the other thread go on without TLS. The TypeError is for no
        # socket yet, and for TLS within the TLS of a proxy, which is none.
        with suppress(OSError, TypeError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


#: The one that is under way here.
current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


class _Response(http.client.HTTPResponse):
    """Without what urllib3 warns of: from frames that hold tokens, and in words of the response."""

    def begin(self) -> None:
        super().begin()
        self.msg.set_payload("")
        self.msg.defects.clear()
        if "Transfer-Encoding" in self.msg:
            # It is the one that counts (RFC 9112, section 6.3).
            del self.msg["Content-Length"]


class _WatchedConnection:
    """Looks at the deadline before it connects, and before anything is sent.

    In an exchange it connects once more where that fails: then nothing was sent. urllib3's own
    ``Retry`` would log that, from frames that hold the form.
    """

    sock: Any
    response_class = _Response

    #: A site's ``http.client.HTTPConnection.debuglevel = 1`` would print tokens and forms.
    debuglevel = 0

    def connect(self) -> None:
        if exchange := current_exchange.get():
            exchange.before_connecting()
            with suppress(ConnectTimeoutError):
                super().connect()  # type: ignore[misc]
                return
            exchange.before_connecting()
        super().connect()  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if exchange := current_exchange.get():
            exchange.before_sending(self.sock)
        super().send(data)  # type: ignore[misc]


@cache
def _watched(connection_class: type) -> type:
    return type(connection_class.__name__, (_WatchedConnection, connection_class), {})


class WatchedAdapter(HTTPAdapter):
    """Keeps to the deadline of the current exchange, and prints nothing for ``http.client``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pools = WeakSet[Any]()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ``InvalidProxyURL`` in place of the libraries' errors, which quote passwords."""
        try:
            pool = super().get_connection_with_tls_context(*args, **kwargs)
        except requests.RequestException:
            raise
        except (TypeError, ValueError):
            pool = None
        if pool is None:
            raise requests.exceptions.InvalidProxyURL(
                "The address of the proxy is malformed, of an unknown kind, or has a password that "
                "is not percent-encoded or not Latin-1."
            )
        # Whichever it is: one for a SOCKS proxy, or that of a tool which records requests.
        if not issubclass(pool.ConnectionCls, _WatchedConnection):
            pool.ConnectionCls = _watched(pool.ConnectionCls)
            self._pools.add(pool)
        return pool

    def close(self) -> None:
        """At once, and not only when nobody holds a pool any more."""
        for pool in self._pools:
            pool.close()
        super().close()


class ClientSession(requests.Session):
    """Speaks to one origin, follows no redirect, and asks the environment only once."""

    _environment: Mapping[str, Any] | None = None

    def exchange(
        self, request: requests.PreparedRequest, timeout: tuple[float, float]
    ) -> requests.Response:
        """The body of the response is still to be read."""
        if self._environment is None:
            url = request.url or ""
            self._environment = self.merge_environment_settings(
                url, proxies_for(url), True, None, None
            )
        return self.send(request, timeout=timeout, allow_redirects=False, **self._environment)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nor is one read to its end, which ``allow_redirects=False`` does without a bound."""


def open_session() -> ClientSession:
    session = ClientSession()
    watched = WatchedAdapter(pool_maxsize=1)
    for prefix, adapter in {"https://": watched, "http://": watched, **adapters}.items():
        session.mount(prefix, adapter)
    return session


def authorized(request: requests.PreparedRequest, access_token: Secret) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {access_token.reveal()}"
    return request


def innermost(error: BaseException) -> BaseException:
    """What went wrong first; around it the libraries wrap errors of their own."""
    return [inner for inner in _unwrapped(error) if not _wrapped_by(inner)][-1]


def strip_frames(error: E, *, handled: BaseException | None = None) -> E:
    """Without what led to it: the frames of ``requests`` hold bodies and headers.

    ``handled`` is the exception that the caller was handling already, whose frames stay.
    """
    for inner in _unwrapped(error, handled):
        inner.__cause__ = inner.__context__ = None
        inner.with_traceback(None)
    return error


def timed_out() -> IlertUnavailableError:
    return IlertUnavailableError("ilert did not respond in time.", code="timeout")


def no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps ``requests`` from adding a password from ``~/.netrc``."""
    return request


def require_safe(url: str) -> None:
    """Raises ``IlertOAuthError`` for a URL that secrets must not go to."""
    parts = parse_url(url)  # as requests reads it
    if parts.scheme != "https" and not _is_loopback((parts.host or "").strip("[]")):
        raise IlertOAuthError(
            "Secrets are not sent over plain http: ILERT_OAUTH_API_URL must begin with https://.",
            code="insecure_endpoint",
        )


def proxies_for(url: str) -> dict[str, str]:
    """Plain http stays on this machine, whatever proxy the environment names."""
    return {"http": "", "all": ""} if urlsplit(url).scheme == "http" else {}


def retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header: seconds or a date (RFC 9110, section 10.2.3)."""
    try:
        return float(Retry().parse_retry_after(value or ""))
    except (InvalidHeader, ValueError, OverflowError):
        return None


def pause_after_429(asked: float | None, *, max_seconds: float = 30) -> float:
    """Seconds. ilert asks for none (observed): its documentation says 10 to 30.

    Where none were asked for they are at most ``max_seconds``, but never less than 10.
    """
    if asked is not None:
        return max(asked, 1.0)
    return random.uniform(10, min(max(max_seconds, 10), 30))  # noqa: S311


def _unwrapped(error: BaseException, handled: BaseException | None = None) -> list[BaseException]:
    found = [error]
    for outer in found:
        found += [inner for inner in _wrapped_by(outer) if inner not in (handled, *found)]
    return found


def _wrapped_by(error: BaseException) -> list[BaseException]:
    """``requests`` puts what it wraps into ``args``, urllib3 also into ``reason``."""
    inner = (error.__context__, error.__cause__, getattr(error, "reason", None), *error.args)
    return [candidate for candidate in inner if isinstance(candidate, BaseException)]


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
