"""ilert's OAuth endpoints over HTTP.

Plain Python over ``requests``, without Django: settings come in as arguments, answers go out as
frozen dataclasses. Secrets go only to https (loopback aside), no redirect is followed and an
answer is read up to a bound. Exceptions are raised outside of ``except`` blocks: the frames of
``requests`` hold whole request bodies and must not travel with what is raised here.

The facts about ilert come from its guide "Developing ilert apps: backend apps" and its OpenAPI
description.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self
from urllib.parse import urlencode

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from .exceptions import IlertOAuthError, IlertUnavailableError
from .oauth_answers import (
    Answer,
    CurrentUser,
    TokenAnswer,
    TokenInfo,
    current_user,
    made_of,
    read,
    token_answer,
    token_info,
    too_slow,
)
from .secret import Secret
from .transport import authorized, bare, no_auth, open_session, proxies_for, require_safe

AUTHORIZE_PATH = "/api/developers/oauth2/authorize"
TOKEN_PATH = "/api/developers/oauth2/token"  # noqa: S105
TOKEN_INFO_PATH = "/api/developers/oauth2/token_info"  # noqa: S105
REVOKE_PATH = "/api/developers/oauth2/revoke"
CURRENT_USER_PATH = "/api/users/current"


class IlertClient:
    """A context manager: leaving it closes the connections.

    Its methods raise ``IlertUnavailableError``, ``IlertRejectedError`` or, for an endpoint that is
    not safe to send secrets to, ``IlertOAuthError``.
    """

    def __init__(
        self, *, api_url: str, client_id: str, client_secret: str, timeout: tuple[float, float]
    ) -> None:
        self.api_url = api_url
        self._credentials = {"client_id": client_id, "client_secret": Secret(client_secret)}
        self._timeout = timeout
        self._session = open_session()
        self._forms: dict[str, requests.PreparedRequest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    def exchange_code(self, code: Secret, code_verifier: Secret) -> TokenAnswer:
        """Never sent twice: a code works once."""
        return self._tokens(
            {"grant_type": "authorization_code", "code": code, "code_verifier": code_verifier}
        )

    def refresh(self, refresh_token: Secret) -> TokenAnswer:
        return self._tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def token_info(self, access_token: Secret) -> TokenInfo:
        return made_of(self._post(TOKEN_INFO_PATH, {"token": access_token}), token_info)

    def current_user(self, access_token: Secret) -> CurrentUser:
        answer = self._send(
            lambda: authorized(self._prepared("GET", CURRENT_USER_PATH), access_token)
        )
        return made_of(answer, current_user)

    def revoke(self, refresh_token: Secret) -> None:
        """A token that ilert does not know counts as revoked (RFC 7009, section 2.2)."""
        self._post(REVOKE_PATH, {"token": refresh_token})

    def _tokens(self, form: Mapping[str, str]) -> TokenAnswer:
        return made_of(self._post(TOKEN_PATH, {**self._credentials, **form}), token_answer)

    def _post(self, path: str, form: Mapping[str, str]) -> Answer:
        return self._send(lambda: self._filled(path, form))

    def _filled(self, path: str, form: Mapping[str, str]) -> requests.PreparedRequest:
        """All but the body is the same each time: preparing it costs more than sending it."""
        if path not in self._forms:
            empty = self._prepared("POST", path)
            empty.headers["Content-Type"] = "application/x-www-form-urlencoded"
            self._forms[path] = empty
        request = self._forms[path].copy()
        request.prepare_body(Secret(urlencode(form)), None)
        return request

    def _prepared(self, method: str, path: str) -> requests.PreparedRequest:
        headers = {"Accept": "application/json"}
        request = requests.Request(method, self.api_url + path, headers=headers, auth=no_auth)
        return self._session.prepare_request(request)

    def _send(self, prepare: Callable[[], requests.PreparedRequest]) -> Answer:
        require_safe(self.api_url)
        outcome = self._exchange(prepare)
        if isinstance(outcome, IlertOAuthError):
            raise outcome
        return outcome

    def _exchange(
        self, prepare: Callable[[], requests.PreparedRequest]
    ) -> Answer | IlertOAuthError:
        deadline = time.monotonic() + sum(self._timeout)
        try:
            request = prepare()
            # Straight to the adapter: it follows no redirect and keeps no cookie.
            adapter = self._session.get_adapter(request.url or "")
            with adapter.send(request, timeout=self._timeout, **self._environment) as response:
                return read(response, deadline)
        except (requests.Timeout, ReadTimeoutError):
            return too_slow()
        except (OSError, HTTPError):
            return IlertUnavailableError("ilert could not be reached.", code="unreachable")
        except BaseException as error:
            failure = bare(error)
        raise failure

    @cached_property
    def _environment(self) -> Mapping[str, Any]:
        """The proxies and certificates that it names."""
        return self._session.merge_environment_settings(
            self.api_url, proxies_for(self.api_url), True, None, None
        )


def authorization_url(base_url: str, parameters: Mapping[str, str]) -> str:
    return f"{base_url}{AUTHORIZE_PATH}?{urlencode(parameters)}"
