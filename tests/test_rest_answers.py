"""What an error of ilert's REST API tells, on the kit that sites test with."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User

from django_ilert_oauth.session import IlertHTTPError, IlertSession
from django_ilert_oauth.testing import FakeIlert, connected_account

PATH = "/api/alert-sources/7"


@pytest.fixture
def session(user: User, fake_ilert: FakeIlert) -> Iterator[IlertSession]:
    with IlertSession(connected_account(user, scopes="source")) as session:
        yield session


def error_of(session: IlertSession, **kwargs: Any) -> IlertHTTPError:
    with pytest.raises(IlertHTTPError) as raised:
        session.get(PATH, **kwargs).raise_for_status()
    return raised.value


def test_an_error_keeps_ilerts_code_and_message(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    body = {"status": 404, "message": "Alert source not found", "code": "NOT_FOUND"}
    fake_ilert.answer("GET", PATH, status=404, json=body)
    error = error_of(session)
    assert (error.code, error.message) == ("NOT_FOUND", "Alert source not found")


def test_an_error_is_one_of_requests(session: IlertSession, fake_ilert: FakeIlert) -> None:
    fake_ilert.answer("GET", PATH, status=500, json={"message": "Trouble"})
    error = error_of(session)
    assert isinstance(error, requests.HTTPError)
    assert error.response is not None
    assert error.response.json() == {"message": "Trouble"}
    assert error.request is error.response.request


def test_the_text_of_an_error_tells_no_more_than_where_it_came_from(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    body = {"message": "Private", "code": "BAD_REQUEST"}
    fake_ilert.answer("GET", PATH, status=400, json=body)
    error = error_of(session, params={"name": "private"})
    assert str(error) == f"ilert answered 400 BAD_REQUEST to GET {PATH}"


@pytest.mark.parametrize("status", [200, 204, 304])
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
        {"code": 7, "message": ["a"]},
        {"code": "", "message": ""},
        {"code": "a.b", "message": None},
        {"code": "A" * 61},
        {"message": "filler " * 10_000},
    ],
)
def test_an_odd_error_has_neither_code_nor_message(
    session: IlertSession, fake_ilert: FakeIlert, body: object
) -> None:
    fake_ilert.answer("GET", PATH, status=400, json=body)
    error = error_of(session)
    assert (error.code, error.message) == ("", "")
    assert str(error) == f"ilert answered 400 to GET {PATH}"


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe\x00", b"[" * 50_000, b'{"code'])
def test_an_error_that_is_no_json_has_neither(
    session: IlertSession, fake_ilert: FakeIlert, content: bytes
) -> None:
    fake_ilert.answer("GET", PATH, status=502, json="")

    def replace(response: requests.Response, **kwargs: Any) -> None:
        vars(response).update(_content=content, _content_consumed=True)

    session.max_wait = 0
    error = error_of(session, hooks={"response": replace})
    assert (error.code, error.message) == ("", "")


def test_a_long_message_is_cut(session: IlertSession, fake_ilert: FakeIlert) -> None:
    fake_ilert.answer("GET", PATH, status=400, json={"message": "too\nlong " * 1000})
    message = error_of(session).message
    assert message.startswith("too long too long")
    assert len(message) == 500


def test_a_message_that_quotes_the_token_does_not_keep_it(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    token = str(session.account.access_token)
    fake_ilert.answer("GET", PATH, status=400, json={"message": f"Bad Bearer {token}, sorry"})
    assert error_of(session).message == "Bad Bearer … sorry"


def test_a_stream_that_nobody_has_read_is_left_unread(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    fake_ilert.answer("GET", PATH, status=404, json={"code": "NOT_FOUND"})
    error = error_of(session, stream=True)
    assert error.code == ""
    assert error.response is not None
    assert json.loads(b"".join(error.response.iter_content(5))) == {"code": "NOT_FOUND"}


def test_an_error_can_be_pickled_and_takes_no_token_along(
    session: IlertSession, fake_ilert: FakeIlert
) -> None:
    fake_ilert.answer("GET", PATH, status=404, json={"code": "NOT_FOUND", "message": "Gone"})
    pickled = pickle.dumps(error_of(session))
    copied = pickle.loads(pickled)  # noqa: S301
    assert (copied.code, copied.message) == ("NOT_FOUND", "Gone")
    assert str(copied) == f"ilert answered 404 NOT_FOUND to GET {PATH}"
    assert str(session.account.access_token).encode() not in pickled
    assert copied.response is None
    assert copied.request is None
