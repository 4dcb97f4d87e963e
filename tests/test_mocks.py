"""What sites mock ``requests`` with in their own tests sees what the app sends."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
import requests_mock
import responses

from django_ilert_oauth.oauth.client import CURRENT_USER_PATH, TOKEN_PATH
from tests.support import ilert_guide
from tests.support.ilert_calls import API_URL, CALLS, ask, unavailable

FORM = {
    "client_id": [ilert_guide.CLIENT_ID],
    "client_secret": [ilert_guide.CLIENT_SECRET],
    "grant_type": ["refresh_token"],
    "refresh_token": [ilert_guide.REFRESH_TOKEN],
}


def test_requests_mock_sees_a_refresh() -> None:
    with requests_mock.Mocker() as mocker:
        mocker.post(API_URL + TOKEN_PATH, json=ilert_guide.TOKEN_ANSWER)
        assert ask().access_token == ilert_guide.TOKEN_ANSWER["access_token"]
        assert parse_qs(mocker.last_request.text) == FORM


def test_requests_mock_may_refuse() -> None:
    with requests_mock.Mocker() as mocker:
        mocker.get(API_URL + CURRENT_USER_PATH, status_code=503, headers={"Retry-After": "7"})
        error = unavailable(CALLS["current_user"])
        assert (error.status, error.retry_after) == (503, 7)


def test_responses_sees_a_refresh() -> None:
    with responses.RequestsMock() as mocker:
        mocker.post(API_URL + TOKEN_PATH, json=ilert_guide.TOKEN_ANSWER)
        assert ask().access_token == ilert_guide.TOKEN_ANSWER["access_token"]
        assert parse_qs(str(mocker.calls[0].request.body)) == FORM


def test_what_is_not_mocked_is_told_by_requests_mock() -> None:
    with requests_mock.Mocker(), pytest.raises(requests_mock.NoMockAddress):
        ask()


def test_what_is_not_mocked_is_unreachable_with_responses() -> None:
    with responses.RequestsMock():
        assert unavailable().code == "unreachable"
