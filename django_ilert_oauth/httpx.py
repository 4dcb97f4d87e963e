"""Authentication for httpx; needs the extra ``httpx``."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager, suppress

import httpx
from asgiref.sync import sync_to_async

from . import flows
from .api.adapter import require_within
from .api.bearer import Bearer, is_header_value
from .models import ConnectedAccount
from .oauth.secret import Secret
from .oauth.transport import strip_frames

__all__ = ["IlertAuth"]


class IlertAuth(httpx.Auth):
    """An ``httpx.Auth`` that sends an account's fresh token, for sync and async clients.

    A request raises what ``flows.get_access_token`` raises, and ``EndpointMismatchError`` if its
    URL is not below the account's ``api_url``, path included. After a 401 it is sent once more with
    another token: one that has been stored in the meantime, or that a refresh returns. A request
    whose body is a stream is sent only once. The requests that responses and errors refer to do not
    contain the token, and errors do not contain httpx's frames.

    Leave ``follow_redirects`` off: httpx would send the token wherever a redirect leads on the same
    scheme, host and port, also outside of ``api_url``.
    """

    def __init__(self, account: ConnectedAccount) -> None:
        self._bearer = Bearer(account)

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        require_within(str(request.url), self._bearer.account.api_url)
        handled, was_refused = sys.exception(), False
        try:
            while True:
                token = self._bearer.token()
                with _authorized(request, token):
                    response = yield request
                _forget_redirects(response)
                is_final = response.status_code != 401 or was_refused
                if is_final or not self._bearer.replace(token) or not _is_in_memory(request):
                    return
                was_refused = True
        except GeneratorExit:
            pass
        _strip_frames(handled)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        require_within(str(request.url), self._bearer.account.api_url)
        handled, was_refused = sys.exception(), False
        replace = sync_to_async(self._bearer.replace)
        try:
            while True:
                token = Secret(await flows.aget_access_token(self._bearer.account))
                with _authorized(request, token):
                    response = yield request
                _forget_redirects(response)
                is_final = response.status_code != 401 or was_refused
                if is_final or not await replace(token) or not _is_in_memory(request):
                    return
                was_refused = True
        except GeneratorExit:
            pass
        _strip_frames(handled)


@contextmanager
def _authorized(request: httpx.Request, token: Secret) -> Iterator[None]:
    if not is_header_value(token):
        raise httpx.LocalProtocolError("No header can hold the account's access token.")
    request.headers["Authorization"] = f"Bearer {token.reveal()}"
    try:
        yield
    finally:
        _forget_token(request)


def _strip_frames(handled: BaseException | None) -> None:
    """Strips the error that httpx handles when it ends the flow: frames hold copies of the header.

    ``handled`` is what the caller of httpx was handling before.
    """
    error = sys.exception()
    if error is not None and error is not handled:
        strip_frames(error, handled=handled).__context__ = handled
    if isinstance(error, httpx.HTTPError):
        with suppress(RuntimeError):  # of httpx, where it names no request
            _forget_token(error.request)


def _forget_redirects(response: httpx.Response) -> None:
    """httpx copies the header into the request of each redirect that stays at the same origin."""
    for one in (response, *response.history):
        _forget_token(one.request)
        _forget_token(one.next_request)


def _forget_token(request: httpx.Request | None) -> None:
    if request is not None:
        request.headers.pop("Authorization", None)


def _is_in_memory(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)
