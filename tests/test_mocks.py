"""What sites mock ``requests`` with in their own tests sees what the app sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests_mock
import responses
import vcr
from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.client import (
    CURRENT_USER_PATH,
    REVOKE_PATH,
    TOKEN_INFO_PATH,
    TOKEN_PATH,
)
from django_ilert_oauth.session import IlertSession
from django_ilert_oauth.testing import connected_account
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support import ilert_guide
from tests.support.connect_steps import query_of
from tests.support.ilert_calls import API_URL, CALLS, ask, unavailable

ALERTS_PATH = "/api/alerts"
TOKEN_INFO = {"active": True, "tenant_id": "acme", "username": "grace", "scope": "profile"}


class ByRequestsMock:
    def __init__(self) -> None:
        self._mocker = requests_mock.Mocker()

    def __enter__(self) -> ByRequestsMock:
        self._mocker.start()
        for method, path, body in RESPONSES:
            self._mocker.register_uri(method, API_URL + path, json=body)
        return self

    def __exit__(self, *args: object) -> None:
        self._mocker.stop()

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(request.path, request.text or "") for request in self._mocker.request_history]


class ByResponses:
    def __init__(self) -> None:
        self._mocker = responses.RequestsMock(assert_all_requests_are_fired=False)

    def __enter__(self) -> ByResponses:
        self._mocker.start()
        for method, path, body in RESPONSES:
            self._mocker.add(method, API_URL + path, json=body)
        return self

    def __exit__(self, *args: object) -> None:
        self._mocker.stop()

    @property
    def seen(self) -> list[tuple[str, str]]:
        sent = [call.request for call in self._mocker.calls]
        return [(str(request.path_url), str(request.body or "")) for request in sent]


RESPONSES: list[tuple[str, str, Any]] = [
    ("POST", TOKEN_PATH, ilert_guide.TOKEN_RESPONSE),
    ("POST", TOKEN_INFO_PATH, TOKEN_INFO),
    ("POST", REVOKE_PATH, {}),
    ("GET", CURRENT_USER_PATH, {"id": 7, "username": "grace"}),
    ("GET", ALERTS_PATH, [{"id": 1}]),
]
each_mock = pytest.mark.parametrize("mock", [ByRequestsMock, ByResponses])
Mock = Callable[[], ByRequestsMock | ByResponses]


@each_mock
def test_a_mock_sees_a_user_connect(user: User, browser: Client, mock: Mock) -> None:
    with mock() as mocked:
        leaving: Any = browser.post("/ilert/connect/")
        state = query_of(leaving["Location"])["state"]
        browser.get(f"/ilert/callback/?code={ilert_guide.CODE}&state={state}")
    assert str(ConnectedAccount.objects.get()) == "grace @ acme"
    assert [path for path, _ in mocked.seen] == [TOKEN_PATH, TOKEN_INFO_PATH, CURRENT_USER_PATH]
    form = parse_qs(mocked.seen[0][1])
    assert (form["grant_type"], form["code"]) == (["authorization_code"], [ilert_guide.CODE])


@each_mock
def test_a_mock_sees_a_refresh(user: User, mock: Mock) -> None:
    account = connected_account(user, expires_in=-1)
    sent = account.refresh_token.reveal()
    with mock() as mocked:
        flows.get_access_token(account)
    assert account.access_token == ilert_guide.TOKEN_RESPONSE["access_token"]
    [(path, body)] = mocked.seen
    assert (path, parse_qs(body)["refresh_token"]) == (TOKEN_PATH, [sent])


@each_mock
def test_a_mock_sees_a_check(user: User, mock: Mock) -> None:
    account = connected_account(user)
    with mock() as mocked:
        flows.check(account)
    assert mocked.seen[0][0] == TOKEN_INFO_PATH


@each_mock
def test_a_mock_sees_a_revocation(
    user: User, mock: Mock, django_capture_on_commit_callbacks: Any
) -> None:
    account = connected_account(user)
    sent = account.refresh_token.reveal()
    with mock() as mocked, django_capture_on_commit_callbacks(execute=True):
        flows.disconnect(account)
    [(path, body)] = mocked.seen
    assert (path, parse_qs(body)["token"]) == (REVOKE_PATH, [sent])


@each_mock
def test_a_mock_sees_a_session(user: User, mock: Mock) -> None:
    with mock() as mocked, IlertSession(connected_account(user)) as ilert:
        assert list(ilert.list(ALERTS_PATH)) == [{"id": 1}]
    assert mocked.seen[0][0].startswith(ALERTS_PATH)


def test_vcr_records_and_plays_what_a_session_and_a_refresh_send(
    make_account: AccountFactory, ilert: StandIn, tmp_path: Path
) -> None:
    account = make_account()
    seen = []
    for _ in range(2):
        with (
            vcr.use_cassette(str(tmp_path / "cassette.yaml")) as cassette,
            IlertSession(account) as session,
        ):
            seen.append(session.get(CURRENT_USER_PATH).json())
            flows.refresh(account, force=True)
    assert seen[0] == seen[1]
    assert cassette.play_count == 2
    assert len(ilert.token_requests) == 1


def test_requests_mock_may_refuse() -> None:
    with requests_mock.Mocker() as mocker:
        mocker.get(API_URL + CURRENT_USER_PATH, status_code=503, headers={"Retry-After": "7"})
        error = unavailable(CALLS["current_user"])
        assert (error.status, error.retry_after) == (503, 7)


def test_what_is_not_mocked_is_told_by_requests_mock() -> None:
    with requests_mock.Mocker(), pytest.raises(requests_mock.NoMockAddress):
        ask()


def test_what_is_not_mocked_is_unreachable_with_responses(user: User) -> None:
    account = connected_account(user, expires_in=-1)
    with responses.RequestsMock(), pytest.raises(IlertUnavailableError, match="reach"):
        flows.get_access_token(account)
