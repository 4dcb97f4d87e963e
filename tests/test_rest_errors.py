"""What an error of ilert's REST API tells, on the kit that sites test with."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User

from django_ilert_oauth.exceptions import IlertHTTPError, IlertPlanError, IlertScopeError
from django_ilert_oauth.session import IlertSession
from django_ilert_oauth.testing import FakeIlert, connected_account
from ilert_standin import Fault, StandIn, serve
from tests.conftest import AccountFactory

PATH = "/api/alert-sources/7"


@pytest.fixture
def session(user: User, fake_ilert: FakeIlert) -> Iterator[IlertSession]:
    with IlertSession(connected_account(user, scopes="source"), max_wait=0) as session:
        yield session


def error_of(session: IlertSession, **kwargs: Any) -> IlertHTTPError:
    with pytest.raises(IlertHTTPError) as raised:
        session.get(PATH, **kwargs).raise_for_status()
    return raised.value


def test_an_error_keeps_what_ilert_says_and_is_one_of_requests(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    body = {"message": "Not found", "code": "NOT_FOUND", "detailedCode": "SOURCE_2"}
    headers = {"correlation-id": "b7c1-44"}
    fake_ilert.answer("GET", PATH, status=404, json=body, headers=headers)
    error = error_of(session)
    assert (error.code, error.detailed_code) == ("NOT_FOUND", "SOURCE_2")
    assert (error.message, error.correlation_id) == ("Not found", "b7c1-44")
    said = f"ilert responded with 404 NOT_FOUND to GET {PATH} (correlation ID b7c1-44)"
    assert str(error) == said
    assert isinstance(error, requests.HTTPError)
    assert error.response is not None
    assert error.response.json() == body
    assert error.request is error.response.request


def test_the_text_of_an_error_tells_no_more_than_where_it_came_from(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    body = {"message": "Private", "code": "BAD_REQUEST"}
    fake_ilert.answer("GET", PATH, status=400, json=body, headers={"correlation-id": ""})
    error = error_of(session, params={"name": "private"})
    assert str(error) == f"ilert responded with 400 BAD_REQUEST to GET {PATH}"


def test_a_402_is_about_the_plan(session: IlertSession, fake_ilert: FakeIlert) -> None:
    fake_ilert.answer("GET", PATH, status=402, json={"code": "FEATURE_REQUIRED"})
    assert type(error_of(session)) is IlertPlanError


@pytest.mark.parametrize("status", [200, 204, 304, 600])
def test_what_is_no_error_raises_none(
    session: IlertSession, fake_ilert: FakeIlert, status: int
) -> None:
    fake_ilert.answer("GET", PATH, status=status)
    session.get(PATH).raise_for_status()


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"code": 7, "message": ["a"], "detailedCode": {}},
        {"code": "", "message": "", "error": "Bad Request"},
        {"code": "a b", "message": None},
        {"code": "A" * 65},
    ],
)
def test_an_odd_error_has_neither_code_nor_message(
    session: IlertSession, fake_ilert: FakeIlert, body: object
) -> None:
    fake_ilert.answer("GET", PATH, status=400, json=body, headers={"correlation-id": "a b"})
    error = error_of(session)
    assert (error.code, error.detailed_code, error.message, error.correlation_id) == ("",) * 4
    assert str(error) == f"ilert responded with 400 to GET {PATH}"


@pytest.fixture
def real(make_account: AccountFactory, ilert: StandIn) -> Iterator[IlertSession]:
    """Over HTTP, where a body may be anything."""
    with IlertSession(make_account(), max_wait=0) as session:
        yield session


@pytest.mark.parametrize("content", ["<html>", "\x00\ufeff", "[" * 50_000, '{"code', " "])
def test_a_body_that_is_no_json_is_not_from_ilert(
    real: IlertSession, ilert: StandIn, content: str
) -> None:
    ilert.add_fault("users/current", Fault(502, content, {"correlation-id": "of-the-gateway"}))
    with pytest.raises(IlertHTTPError) as raised:
        real.get("/api/users/current").raise_for_status()
    error = raised.value
    assert str(error) == (
        "The 502 in response to GET /api/users/current is not from ilert, but perhaps from a "
        "proxy, a firewall or a wrong address."
    )
    assert (error.code, error.message, error.correlation_id) == ("", "", "")


def test_an_empty_body_may_be_from_ilert(real: IlertSession, ilert: StandIn) -> None:
    ilert.add_fault("users/current", Fault(502))
    with pytest.raises(IlertHTTPError, match="ilert responded with 502 to GET"):
        real.get("/api/users/current").raise_for_status()


def test_what_a_redirect_led_to_is_not_from_ilert(real: IlertSession, ilert: StandIn) -> None:
    def elsewhere(environ: Any, start_response: Any) -> list[bytes]:
        start_response("402 Payment Required", [("correlation-id", "b7c1")])
        return [b'{"code": "FEATURE_REQUIRED", "message": "Pay here"}']

    with serve(elsewhere) as url:
        ilert.add_fault("users/current", Fault(302, headers={"Location": url + "/x?key=private"}))
        with pytest.raises(IlertHTTPError) as raised:
            real.get("/api/users/current").raise_for_status()
    assert type(raised.value) is IlertHTTPError
    assert str(raised.value).startswith("The 402 in response to GET /x is not from ilert")
    assert (raised.value.code, raised.value.message) == ("", "")


@pytest.mark.parametrize(
    ("body", "challenge", "missing"),
    [
        ({"code": "OAUTH2_SCOPE_ERROR", "scope": "alert:w"}, "", ["alert:w"]),
        ({"code": "OAUTH2_SCOPE_ERROR"}, "", []),
        ({"code": "OAUTH2_SCOPE_ERROR", "scope": ["alert"]}, "", []),
        ({"code": "OAUTH2_SCOPE_ERROR", "scope": 'a"b alert\x00'}, "", []),
        ({"error": "insufficient_scope", "scope": "alert source:w"}, "", ["alert", "source:w"]),
        (None, 'Bearer error="insufficient_scope", scope="alert source:w"', ["alert", "source:w"]),
        ({}, 'Bearer realm="ilert", error="insufficient_scope"', []),
        ({}, "Bearer error=insufficient_scope, scope=alert", ["alert"]),
    ],
)
def test_a_missing_scope_may_be_told_as_ilert_or_as_rfc_6750_does(
    session: IlertSession, fake_ilert: FakeIlert, body: Any, challenge: str, missing: list[str]
) -> None:
    headers = {"WWW-Authenticate": challenge}
    fake_ilert.answer("GET", PATH, status=403, json=body, headers=headers)
    error = error_of(session)
    assert isinstance(error, IlertScopeError)
    assert error.missing_scopes == missing
    assert error.code in ("OAUTH2_SCOPE_ERROR", "insufficient_scope")


def test_a_challenge_counts_where_the_body_is_no_json(real: IlertSession, ilert: StandIn) -> None:
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="alert"'}
    ilert.add_fault("users/current", Fault(403, "<html>", headers))
    with pytest.raises(IlertScopeError) as raised:
        real.get("/api/users/current").raise_for_status()
    assert raised.value.missing_scopes == ["alert"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"code": "KEY_ERROR"}),
        (403, {"error": "forbidden", "scope": "alert"}),
        (400, {"code": "OAUTH2_SCOPE_ERROR", "scope": "alert"}),
    ],
)
def test_not_each_error_is_about_scopes(
    session: IlertSession, fake_ilert: FakeIlert, status: int, body: Any
) -> None:
    fake_ilert.answer("GET", PATH, status=status, json=body)
    assert type(error_of(session)) is IlertHTTPError


def test_the_message_of_rfc_6750_is_kept(session: IlertSession, fake_ilert: FakeIlert) -> None:
    body = {"error": "insufficient_scope", "error_description": "It needs more"}
    fake_ilert.answer("GET", PATH, status=403, json=body)
    assert error_of(session).message == "It needs more"


def test_a_long_message_is_cut(session: IlertSession, fake_ilert: FakeIlert) -> None:
    fake_ilert.answer("GET", PATH, status=400, json={"message": "too\nlong " * 100_000})
    message = error_of(session).message
    assert message.startswith("too long too long")
    assert len(message) == 500


ODD = [
    "\x00",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u200b",
    "\u200e",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\ud800",
]


@pytest.mark.parametrize("odd", ODD)
def test_a_message_is_printable(session: IlertSession, fake_ilert: FakeIlert, odd: str) -> None:
    fake_ilert.answer("GET", PATH, status=400, json={"message": f"Keine{odd} Schicht für Åsa"})
    message = error_of(session).message
    assert message.isprintable()
    assert message.replace("[31m ", "") == "Keine Schicht für Åsa"


def token_of(session: IlertSession) -> str:
    return session.account.access_token.reveal()


def pieces(token: str) -> set[str]:
    return {token[at : at + 8] for at in range(len(token) - 7)}


@pytest.mark.parametrize("size", [8, 9, 20, 400])
@pytest.mark.parametrize("between", [" ", "\u200b", "\n", "-- "])
def test_a_message_that_quotes_the_token_does_not_keep_a_piece_of_it(
    session: IlertSession, fake_ilert: FakeIlert, size: int, between: str
) -> None:
    token = token_of(session)
    quoted = between.join(token[at : at + size] for at in range(0, len(token), size))
    fake_ilert.answer("GET", PATH, status=400, json={"message": f"Bad {quoted}, sorry"})
    message = error_of(session).message
    assert not [piece for piece in pieces(token) if piece in message]
    assert message.startswith("Bad …")
    assert message.endswith(", sorry")


def test_no_field_keeps_a_piece_of_the_token(session: IlertSession, fake_ilert: FakeIlert) -> None:
    session.account.access_token = token = "onlyLettersAsACodeHasThem"
    body = {"code": token, "detailedCode": token[4:15], "scope": token[:9], "message": token[-8:]}
    headers = {"correlation-id": token[3:12], "WWW-Authenticate": f'Bearer scope="{token}"'}
    fake_ilert.answer("GET", PATH, status=403, json=body, headers=headers)
    error = error_of(session)
    said = f"{error} {vars(error)}"
    assert not [piece for piece in pieces(token) if piece in said]


def test_a_scope_that_is_a_piece_of_the_token_is_not_kept(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    session.account.access_token = token = "onlyLettersAsACodeHasThem"
    body = {"code": "OAUTH2_SCOPE_ERROR", "scope": f"alert {token[2:12]}"}
    fake_ilert.answer("GET", PATH, status=403, json=body)
    error = error_of(session)
    assert isinstance(error, IlertScopeError)
    assert error.missing_scopes == ["alert"]


def test_scopes_that_fill_a_body_are_not_read(session: IlertSession, fake_ilert: FakeIlert) -> None:
    """Looking for the token in them would take as long as a server likes."""
    body = {"code": "OAUTH2_SCOPE_ERROR", "scope": "alert " * 1000}
    fake_ilert.answer("GET", PATH, status=403, json=body)
    error = error_of(session)
    assert isinstance(error, IlertScopeError)
    assert error.missing_scopes == []


def test_long_words_are_left_out_since_they_may_be_other_tokens(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    fake_ilert.answer("GET", PATH, status=400, json={"message": f"Not {'x' * 40} but {'y' * 39}"})
    assert error_of(session).message == f"Not … but {'y' * 39}"


def test_a_stream_that_nobody_has_read_is_left_unread(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    fake_ilert.answer("GET", PATH, status=404, json={"code": "NOT_FOUND"})
    error = error_of(session, stream=True)
    assert error.code == ""
    assert error.response is not None
    assert json.loads(b"".join(error.response.iter_content(5))) == {"code": "NOT_FOUND"}


SCOPE_ERROR = {"code": "OAUTH2_SCOPE_ERROR", "message": "No", "scope": "alert:w"}


def test_an_error_can_be_pickled_and_takes_no_token_along(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    headers = {"correlation-id": ""}
    fake_ilert.answer("GET", PATH, status=403, json=SCOPE_ERROR, headers=headers)
    error = error_of(session)
    pickled = pickle.dumps(error)
    for twin in (pickle.loads(pickled), copy.copy(error)):  # noqa: S301
        assert type(twin) is IlertScopeError
        assert (twin.code, twin.message) == ("OAUTH2_SCOPE_ERROR", "No")
        assert twin.missing_scopes == ["alert:w"]
        assert str(twin) == f"ilert responded with 403 OAUTH2_SCOPE_ERROR to GET {PATH}"
        assert (twin.response, twin.request) == (None, None)
    assert token_of(session).encode() not in pickled


def test_a_pickled_response_still_says_what_was_wrong(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    fake_ilert.answer("GET", PATH, status=403, json=SCOPE_ERROR)
    kept = pickle.loads(pickle.dumps(session.get(PATH)))  # noqa: S301
    with pytest.raises(IlertScopeError) as raised:
        kept.raise_for_status()
    assert raised.value.missing_scopes == ["alert:w"]


def test_an_error_response_is_one_of_requests(session: IlertSession, fake_ilert: FakeIlert) -> None:
    fake_ilert.answer("GET", PATH, status=404, json={"code": "NOT_FOUND"})
    response = session.get(PATH)
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.ok, bool(response)) == (404, False, False)
    assert response.json() == {"code": "NOT_FOUND"}
    assert response.elapsed.total_seconds() > 0
