from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import requests

from django_ilert_oauth import client, oauth_answers
from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
)
from django_ilert_oauth.oauth_answers import CurrentUser, TokenAnswer, TokenInfo
from django_ilert_oauth.secret import Secret
from django_ilert_oauth.transport import adapters, open_session, require_safe, retry_after
from tests import seed
from tests.wire import RawServer, Reply, Scripted, raw_server, reset, saying

API_URL = "https://api.ilert.com"
OAUTH_URL = f"{API_URL}/api/developers/oauth2"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
SECRETS = [
    seed.CLIENT_SECRET,
    seed.CODE,
    VERIFIER,
    seed.ACCESS_TOKEN,
    seed.REFRESH_TOKEN,
    seed.TOKEN_ANSWER["access_token"],
]

Call = Callable[[IlertClient], Any]
CALLS: dict[str, Call] = {
    "exchange_code": lambda ilert: ilert.exchange_code(Secret(seed.CODE), Secret(VERIFIER)),
    "refresh": lambda ilert: ilert.refresh(Secret(seed.REFRESH_TOKEN)),
    "token_info": lambda ilert: ilert.token_info(Secret(seed.ACCESS_TOKEN)),
    "current_user": lambda ilert: ilert.current_user(Secret(seed.ACCESS_TOKEN)),
    "revoke": lambda ilert: ilert.revoke(Secret(seed.REFRESH_TOKEN)),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
each_call_with_answer = pytest.mark.parametrize(
    "call",
    [call for name, call in CALLS.items() if name != "revoke"],
    ids=[name for name in CALLS if name != "revoke"],
)

Answering = Callable[..., Scripted]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Lets ilert answer every request with a body: bytes, or what is to be JSON."""

    def mount(body: object, status: int = 200, **headers: str) -> Scripted:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        transport = Scripted(content, status, named)
        monkeypatch.setitem(adapters, API_URL, transport)
        return transport

    return mount


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[RawServer]:
    """A server that behaves as the test's parameter says."""
    with raw_server(request.param) as server:
        yield server


def ask(call: Call, *, api_url: str = API_URL, timeout: tuple[float, float] = (0.2, 0.2)) -> Any:
    with IlertClient(
        api_url=api_url,
        client_id=seed.CLIENT_ID,
        client_secret=seed.CLIENT_SECRET,
        timeout=timeout,
    ) as ilert:
        return call(ilert)


def refresh(**keywords: Any) -> TokenAnswer:
    answer: TokenAnswer = ask(CALLS["refresh"], **keywords)
    return answer


def unavailable(call: Call = CALLS["refresh"], **keywords: Any) -> IlertUnavailableError:
    with pytest.raises(IlertUnavailableError) as caught:
        ask(call, **keywords)
    return caught.value


def rejected(call: Call = CALLS["refresh"], **keywords: Any) -> IlertRejectedError:
    with pytest.raises(IlertRejectedError) as caught:
        ask(call, **keywords)
    return caught.value


# What is sent


@pytest.mark.parametrize(
    ("name", "path", "form"),
    [
        (
            "exchange_code",
            "/token",
            {
                "client_id": seed.CLIENT_ID,
                "client_secret": seed.CLIENT_SECRET,
                "grant_type": "authorization_code",
                "code": seed.CODE,
                "code_verifier": VERIFIER,
            },
        ),
        (
            "refresh",
            "/token",
            {
                "client_id": seed.CLIENT_ID,
                "client_secret": seed.CLIENT_SECRET,
                "grant_type": "refresh_token",
                "refresh_token": seed.REFRESH_TOKEN,
            },
        ),
        ("token_info", "/token_info", {"token": seed.ACCESS_TOKEN}),
        ("revoke", "/revoke", {"token": seed.REFRESH_TOKEN}),
    ],
)
def test_a_post_is_the_guides_form_and_nothing_else(
    answering: Answering, name: str, path: str, form: dict[str, str]
) -> None:
    transport = answering(seed.TOKEN_ANSWER | seed.TOKEN_INFO)
    ask(CALLS[name])
    [request] = transport.requests
    assert (request.method, request.url) == ("POST", OAUTH_URL + path)
    assert isinstance(request.body, str)
    assert sorted(parse_qsl(request.body, strict_parsing=True)) == sorted(form.items())
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in request.headers


def test_the_user_is_asked_for_with_the_token_in_the_header_only(answering: Answering) -> None:
    transport = answering({})
    ask(CALLS["current_user"])
    [request] = transport.requests
    assert (request.method, request.url) == ("GET", f"{API_URL}/api/users/current")
    assert request.headers["Authorization"] == f"Bearer {seed.ACCESS_TOKEN}"
    assert request.body is None


@each_call
def test_every_request_asks_for_json_within_the_timeouts_and_verifies_the_certificate(
    answering: Answering, call: Call
) -> None:
    transport = answering(seed.TOKEN_ANSWER | seed.TOKEN_INFO)
    ask(call, timeout=(5, 30))
    assert transport.requests[0].headers["Accept"] == "application/json"
    assert transport.options[0]["timeout"] == (5, 30)
    assert transport.options[0]["verify"] is not False


@each_call
def test_no_password_from_netrc_is_added(
    answering: Answering, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine api.ilert.com login grace password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    transport = answering(seed.TOKEN_ANSWER | seed.TOKEN_INFO)
    ask(call)
    assert "Basic" not in transport.requests[0].headers.get("Authorization", "")


@each_call
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed(answering: Answering, call: Call, status: int) -> None:
    transport = answering({}, status, Location=f"{API_URL}/elsewhere")
    assert unavailable(call).code == "unusable_answer"
    assert len(transport.requests) == 1


@pytest.mark.parametrize("location", ["http://[", "//[", "http://a:x/", "http://a/\udcff", ""])
def test_a_redirect_to_nonsense_is_an_unusable_answer(answering: Answering, location: str) -> None:
    answering({}, 307, Location=location.encode("utf-8", "surrogateescape").decode("latin-1"))
    assert unavailable().code == "unusable_answer"


def test_the_authorization_url_is_the_guides() -> None:
    url = client.authorization_url(
        "https://app.ilert.com",
        {
            "client_id": seed.CLIENT_ID,
            "response_type": "code",
            "redirect_uri": seed.REDIRECT_URI,
            "scope": seed.SCOPE,
            "state": seed.STATE,
        },
    )
    ours, guides = urlsplit(url), urlsplit(seed.AUTHORIZE_URL)
    assert ours[:3] == guides[:3]
    assert parse_qs(ours.query) == parse_qs(guides.query)


# Where secrets may go


@each_call
def test_nothing_is_sent_over_plain_http_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    transport = Scripted(b"{}")
    monkeypatch.setitem(adapters, "http://", transport)
    with pytest.raises(IlertOAuthError) as caught:
        ask(call, api_url="http://api.ilert.com")
    assert caught.value.code == "insecure_endpoint"
    assert transport.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "http://evil.example\\@127.0.0.1",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://",
        "ftp://api.ilert.com",
        "//api.ilert.com",
        "",
    ],
)
def test_what_only_looks_like_this_machine_is_not_safe(url: str) -> None:
    with pytest.raises(IlertOAuthError):
        require_safe(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.ilert.com",
        "HTTPS://api.ilert.com",
        "http://localhost:8001",
        "http://127.0.0.1:8001",
        "http://127.8.8.8",
        "http://[::1]:8001",
    ],
)
def test_https_and_this_machine_are_safe(url: str) -> None:
    require_safe(url)


def test_what_is_meant_for_this_machine_does_not_go_to_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with raw_server(lambda *_: None) as proxy, raw_server(lambda *_: None) as ilert:
        monkeypatch.setenv("http_proxy", proxy.url)
        unavailable(api_url=ilert.url)
        assert (len(proxy.received), len(ilert.received)) == (0, 1)


# What comes back


def test_the_guides_token_answer_is_understood(answering: Answering) -> None:
    answering(seed.TOKEN_ANSWER)
    answer = ask(CALLS["exchange_code"])
    assert answer == TokenAnswer(
        access_token=Secret(seed.TOKEN_ANSWER["access_token"]),
        refresh_token=Secret(seed.REFRESH_TOKEN),
        expires_in=3600,
        refresh_token_expires_in=31_536_000,
        scope="profile source:w",
    )


def test_the_guides_token_info_is_understood(answering: Answering) -> None:
    answering(seed.TOKEN_INFO)
    assert ask(CALLS["token_info"]) == TokenInfo(
        active=True, tenant_id="someTenant", username="someUser", scope="profile source:w"
    )


def test_an_inactive_token_has_no_identity(answering: Answering) -> None:
    answering({"active": False})
    assert ask(CALLS["token_info"]) == TokenInfo(active=False, tenant_id="", username="", scope="")


def test_the_current_user_is_understood(answering: Answering) -> None:
    answering(
        {"id": 7, "username": "g", "firstName": "Grace", "lastName": "Hopper", "email": "g@x.de"}
    )
    assert ask(CALLS["current_user"]) == CurrentUser(
        id=7, display_name="Grace Hopper", email="g@x.de"
    )


def test_a_user_without_any_field_is_nobody_in_particular(answering: Answering) -> None:
    answering({})
    assert ask(CALLS["current_user"]) == CurrentUser(id=None, display_name="", email="")


def test_one_name_stands_alone(answering: Answering) -> None:
    answering({"lastName": "Hopper"})
    assert ask(CALLS["current_user"]).display_name == "Hopper"


@pytest.mark.parametrize("id", [True, -1, 2**63, "7", 7.0, None, [7]])
def test_a_user_id_that_no_column_keeps_is_none(answering: Answering, id: object) -> None:
    answering({"id": id})
    assert ask(CALLS["current_user"]).id is None


@pytest.mark.parametrize("id", [0, 2**63 - 1])
def test_the_least_and_the_greatest_user_id_are_kept(answering: Answering, id: int) -> None:
    answering({"id": id})
    assert ask(CALLS["current_user"]).id == id


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), (200, b""), (204, b"")])
def test_any_success_is_a_revocation(answering: Answering, status: int, body: bytes) -> None:
    answering(body, status)
    assert ask(CALLS["revoke"]) is None


@pytest.mark.parametrize("absent", [None, "", False, 0, [], {}])
def test_a_refresh_without_a_new_refresh_token_has_an_empty_one(
    answering: Answering, absent: object
) -> None:
    answering(seed.TOKEN_ANSWER | {"refresh_token": absent})
    assert refresh().refresh_token == ""


def test_a_refresh_may_leave_everything_out_but_the_access_token(answering: Answering) -> None:
    answering({"access_token": seed.ACCESS_TOKEN})
    assert refresh() == TokenAnswer(
        access_token=Secret(seed.ACCESS_TOKEN),
        refresh_token=Secret(),
        expires_in=None,
        refresh_token_expires_in=None,
        scope="",
    )


LIFETIMES: list[tuple[str, int | None]] = [
    ("3600", 3600),
    ('"3600"', 3600),
    ("3600.5", 3600),
    ('"3600.5"', 3600),
    ("0", 0),
    ("-5", 0),
    ("-Infinity", 0),
    ("1e30", oauth_answers.MAX_LIFETIME),
    ("1" + "0" * 30, oauth_answers.MAX_LIFETIME),
    ("Infinity", oauth_answers.MAX_LIFETIME),
    ("1" + "0" * 400, oauth_answers.MAX_LIFETIME),
    ("NaN", None),
    ("null", None),
    ("true", None),
    ("false", None),
    ("[3600]", None),
    ("{}", None),
    ('""', None),
    ('"soon"', None),
]


@pytest.mark.parametrize("field", ["expires_in", "refresh_token_expires_in"])
@pytest.mark.parametrize(("json_text", "seconds"), LIFETIMES, ids=[x[:12] for x, _ in LIFETIMES])
def test_an_odd_lifetime_never_raises(
    answering: Answering, field: str, json_text: str, seconds: int | None
) -> None:
    answering(f'{{"access_token": "{seed.ACCESS_TOKEN}", "{field}": {json_text}}}'.encode())
    assert getattr(refresh(), field) == seconds


def test_the_longest_lifetime_is_a_date_that_python_knows() -> None:
    assert datetime.now(UTC) + timedelta(seconds=oauth_answers.MAX_LIFETIME) < datetime.max.replace(
        tzinfo=UTC
    )


HOSTILE_TEXTS: list[object] = ["a\0b", "a\ud800b", "a\nb", "x" * 5000, 7, None, ["a"], True]


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: repr(text)[:12])
@pytest.mark.parametrize(
    ("name", "sent_as", "kept_as"),
    [
        ("refresh", "scope", "scope"),
        ("token_info", "scope", "scope"),
        ("current_user", "firstName", "display_name"),
        ("current_user", "lastName", "display_name"),
        ("current_user", "email", "email"),
    ],
)
def test_a_text_that_no_database_keeps_is_empty(
    answering: Answering, name: str, sent_as: str, kept_as: str, text: object
) -> None:
    answering({"access_token": seed.ACCESS_TOKEN, **seed.TOKEN_INFO, sent_as: text})
    assert getattr(ask(CALLS[name]), kept_as) == ""


@pytest.mark.parametrize("text", ["", *HOSTILE_TEXTS], ids=lambda text: repr(text)[:12])
@pytest.mark.parametrize("field", ["tenant_id", "username"])
def test_an_identity_that_no_database_keeps_is_no_identity(
    answering: Answering, field: str, text: object
) -> None:
    answering(seed.TOKEN_INFO | {field: text})
    assert unavailable(CALLS["token_info"]).code == "unusable_answer"


@pytest.mark.parametrize("active", ["true", 1, None, "", []])
def test_only_true_and_false_say_whether_a_token_is_active(
    answering: Answering, active: object
) -> None:
    answering(seed.TOKEN_INFO | {"active": active})
    assert unavailable(CALLS["token_info"]).code == "unusable_answer"


@pytest.mark.parametrize("token", ["", "a\0b", "a\r\nX-Evil: 1", "tökén", "a\ud800", 7, ["a"], {}])
def test_an_access_token_that_no_header_can_carry_is_an_unusable_answer(
    answering: Answering, token: object
) -> None:
    answering(seed.TOKEN_ANSWER | {"access_token": token})
    assert unavailable().code == "unusable_answer"


@pytest.mark.parametrize("token", ["a\0b", "tökén", 7, ["a"], True])
def test_a_broken_refresh_token_is_an_unusable_answer(answering: Answering, token: object) -> None:
    answering(seed.TOKEN_ANSWER | {"refresh_token": token})
    assert unavailable().code == "unusable_answer"


# What comes back and is of no use

USELESS: dict[str, bytes] = {
    "not JSON": b"<!doctype html><p>Welcome",
    "empty": b"",
    "a list": b"[]",
    "a text": b'"access_token"',
    "null": b"null",
    "truncated": json.dumps(seed.TOKEN_ANSWER).encode()[:-5],
    "not UTF-8": b'{"access_token": "\xff"}',
    "nested beyond measure": b'{"a":' + b"[" * 100_000,
    "a number beyond measure": b'{"access_token": ' + b"9" * 5000 + b"}",
}


@each_call_with_answer
@pytest.mark.parametrize("body", USELESS.values(), ids=USELESS)
def test_what_is_no_json_object_is_an_unusable_answer(
    answering: Answering, call: Call, body: bytes
) -> None:
    answering(body)
    assert unavailable(call).code == "unusable_answer"


@pytest.mark.parametrize("name", ["exchange_code", "refresh", "token_info"])
@pytest.mark.parametrize("missing", ["{}", "access_token", "active", "tenant_id", "username"])
def test_a_missing_field_is_an_unusable_answer(
    answering: Answering, name: str, missing: str
) -> None:
    required = seed.TOKEN_INFO if name == "token_info" else {"access_token": seed.ACCESS_TOKEN}
    body = {key: value for key, value in required.items() if missing not in ("{}", key)}
    answering({} if missing not in required else body)
    assert unavailable(CALLS[name]).code == "unusable_answer"


def test_an_error_told_with_status_200_ends_no_grant(answering: Answering) -> None:
    answering(seed.UNKNOWN_CODE)
    assert unavailable().code == "unusable_answer"


@pytest.mark.parametrize("call", [CALLS["refresh"], CALLS["current_user"]])
@pytest.mark.parametrize("status", [200, 307])
def test_ten_megabytes_are_not_read_to_their_end(
    answering: Answering, call: Call, status: int
) -> None:
    long = json.dumps(seed.TOKEN_ANSWER | seed.TOKEN_INFO).encode() + b" " * 10_000_000
    transport = answering(long, status, Location="/")
    assert unavailable(call).code == "unusable_answer"
    assert 0 < transport.body.taken < 2_000_000


@pytest.mark.parametrize("status", [200, 307])
def test_a_gzip_bomb_is_not_unpacked_to_its_end(answering: Answering, status: int) -> None:
    bomb = gzip.compress(b" " * 40_000_000, compresslevel=9)
    transport = answering(bomb, status, Content_Encoding="gzip", Location="/")
    assert unavailable().code == "unusable_answer"
    assert 0 < transport.body.taken < len(bomb) / 2


# Errors that ilert names

DOCUMENTED = {
    "invalid_request": 400,
    "invalid_scope": 400,
    "access_denied": 400,
    "unsupported_grant_type": 400,
    "invalid_grant": 401,
}


@each_call
@pytest.mark.parametrize(("code", "status"), DOCUMENTED.items())
def test_each_documented_code_is_a_rejection(
    answering: Answering, call: Call, code: str, status: int
) -> None:
    answering({"code": code, "error": "Provided code is unknown"}, status)
    error = rejected(call)
    assert (error.code, error.status) == (code, status)


@pytest.mark.parametrize("code", DOCUMENTED)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_the_code_is_found_in_error_too_and_at_any_4xx(
    answering: Answering, code: str, status: int
) -> None:
    answering({"error": code, "error_description": "Provided code is unknown"}, status)
    error = rejected()
    assert (error.code, error.status) == (code, status)


def test_a_number_for_a_code_does_not_hide_the_code_in_error(answering: Answering) -> None:
    answering({"code": 401, "error": "invalid_grant"}, 401)
    assert rejected().code == "invalid_grant"


@pytest.mark.parametrize(
    "body",
    [
        {"code": seed.REFRESH_TOKEN, "error": f"{seed.REFRESH_TOKEN} is unknown"},
        {"error": f"invalid_grant: {seed.REFRESH_TOKEN}"},
        {"status": 403, "message": seed.REFRESH_TOKEN, "code": "forbidden"},
    ],
)
def test_an_undocumented_code_is_refused_without_repeating_it(
    answering: Answering, body: dict[str, Any]
) -> None:
    answering(body, 403)
    error = rejected()
    assert (error.code, error.status, str(error)) == (
        "unknown_error",
        403,
        "ilert refused: unknown_error.",
    )


@pytest.mark.parametrize("code", ["server_error", "temporarily_unavailable"])
@pytest.mark.parametrize("status", [400, 500, 503])
def test_trouble_at_ilert_is_transient(answering: Answering, code: str, status: int) -> None:
    answering({"code": code, "error": "Internal"}, status)
    assert unavailable().code == "server_error"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"<h1>Bad gateway", b"", b'{"code": "invalid_grant"}'])
def test_a_5xx_is_transient_whatever_it_says(
    answering: Answering, status: int, body: bytes
) -> None:
    answering(body, status)
    assert unavailable().code == "server_error"


@each_call
def test_a_5xx_is_transient_whatever_was_asked(answering: Answering, call: Call) -> None:
    answering(b"<h1>Bad gateway", 502)
    assert unavailable(call).code == "server_error"


@pytest.mark.parametrize(
    "body", [b"<h1>Forbidden", b"", b"[]", b"{}", b'{"error": {"code": "invalid_grant"}}']
)
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_4xx_without_a_code_is_transient(answering: Answering, status: int, body: bytes) -> None:
    answering(body, status)
    assert unavailable().code == "unusable_answer"


@each_call
def test_a_403_page_is_transient_whatever_was_asked(answering: Answering, call: Call) -> None:
    answering(b"<h1>Forbidden", 403)
    assert unavailable(call).code == "unusable_answer"


@each_call
def test_a_429_is_transient_even_if_it_speaks_of_the_grant(
    answering: Answering, call: Call
) -> None:
    answering({"code": "invalid_grant", "error": "Slow down"}, 429)
    error = unavailable(call)
    assert (error.code, error.retry_after) == ("rate_limited", None)


@pytest.mark.parametrize("status", [403, 429, 503])
def test_retry_after_comes_along_with_any_transient_answer(
    answering: Answering, status: int
) -> None:
    answering(b"", status, Retry_After="17")
    assert unavailable().retry_after == 17


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    assert retry_after(in_a_minute) == pytest.approx(60, abs=2)


@pytest.mark.parametrize("past", ["Wed, 21 Oct 2015 07:28:00 GMT", "0", " 0 "])
def test_retry_after_is_never_negative(past: str) -> None:
    assert retry_after(past) == 0


@pytest.mark.parametrize(
    "garbage", [None, "", "soon", "-5", "1.5", "²", "١", "Mon,", "Mon, 99 Foo 0000 00:00:00 GMT"]
)
def test_retry_after_may_be_absent_or_garbage(garbage: str | None) -> None:
    assert retry_after(garbage) is None


def test_a_long_retry_after_is_bounded() -> None:
    assert retry_after("9" * 5000) == 999_999_999


# The wire breaks


def hang(connection: socket.socket, server: RawServer) -> None:
    server.over.wait()


def hang_in_the_body(connection: socket.socket, server: RawServer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    server.over.wait()


def reset_in_the_body(connection: socket.socket, server: RawServer) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    reset(connection)


def dripping(head: bytes, drop: bytes) -> Reply:
    """Within the read timeout each time, and without an end."""

    def drip(connection: socket.socket, server: RawServer) -> None:
        connection.sendall(head)
        while not server.over.wait(0.05):
            connection.sendall(drop)

    return drip


@pytest.mark.parametrize("broken", [hang, hang_in_the_body], indirect=True)
def test_a_server_that_hangs_is_a_timeout(broken: RawServer) -> None:
    assert unavailable(api_url=broken.url).code == "timeout"


@pytest.mark.parametrize(
    "broken",
    [
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n", b" "),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        dripping(b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 30\r\n\r\n", b" "),
    ],
    ids=["of known length", "chunked", "redirect"],
    indirect=True,
)
def test_a_body_that_drips_is_a_timeout(broken: RawServer) -> None:
    begun_at = time.monotonic()
    assert unavailable(api_url=broken.url).code == "timeout"
    assert time.monotonic() - begun_at < 1


@pytest.mark.parametrize(
    "broken",
    [
        lambda connection, _server: reset(connection),
        lambda connection, _server: None,
        reset_in_the_body,
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}"),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        saying(b"\xff\x00 not HTTP\r\n\r\n"),
    ],
    ids=["reset", "hung up", "reset in body", "cut off", "bad chunk", "not gzip", "not HTTP"],
    indirect=True,
)
def test_a_broken_connection_is_transient_and_nothing_is_sent_again(broken: RawServer) -> None:
    assert unavailable(CALLS["exchange_code"], api_url=broken.url).code == "unreachable"
    assert len(broken.received) == 1


def test_a_refused_connection_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert unavailable(api_url=f"http://127.0.0.1:{port}").code == "unreachable"


def test_an_unknown_host_is_transient() -> None:
    assert unavailable(api_url="https://ilert.invalid").code == "unreachable"


# What does not show


def test_answers_do_not_show_their_tokens(answering: Answering) -> None:
    answering(seed.TOKEN_ANSWER)
    answer = refresh()
    assert "access_token=" not in repr(answer)
    assert "refresh_token=" not in repr(answer)
    assert not [secret for secret in SECRETS if secret in f"{answer!r} {answer} {vars(answer)}"]


FAILURES: dict[str, tuple[object, int]] = {
    "rejected": ({"code": seed.REFRESH_TOKEN, "error": seed.ACCESS_TOKEN}, 401),
    "unavailable": ({"error": seed.ACCESS_TOKEN}, 503),
    "unusable": ({"token": seed.ACCESS_TOKEN, "access_token": ["x"], "id": {}}, 302),
    "too long": (seed.ACCESS_TOKEN.encode() * 3000, 200),
}


@each_call
@pytest.mark.parametrize(("body", "status"), FAILURES.values(), ids=FAILURES)
def test_an_error_and_its_frames_show_no_secret(
    answering: Answering, call: Call, body: object, status: int
) -> None:
    answering(body, status)
    assert_shows_no_secret(lambda: ask(call))


@pytest.mark.parametrize("call", [CALLS["exchange_code"], CALLS["current_user"]])
@pytest.mark.parametrize("broken", [hang, reset_in_the_body], indirect=True)
def test_an_error_of_the_wire_and_its_frames_show_no_secret(broken: RawServer, call: Call) -> None:
    url = broken.url
    assert_shows_no_secret(lambda: ask(call, api_url=url))


def test_an_unsafe_endpoint_and_its_frames_show_no_secret() -> None:
    assert_shows_no_secret(lambda: refresh(api_url="http://api.ilert.com"))


def assert_shows_no_secret(act: Callable[[], object]) -> None:
    with pytest.raises(IlertOAuthError) as caught:
        act()
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    shown = "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )
    assert "client.py" in shown
    own_module = re.compile(r'File "[^"]*test_client\.py".*?(?=\n  File|\Z)', re.DOTALL)
    frames = own_module.sub("", shown)
    assert not [secret for secret in SECRETS if secret in frames]
    assert not [secret for secret in SECRETS if secret in f"{error!r} {vars(error)}"]


def test_a_loggers_debug_lines_show_no_secret(
    answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"), raw_server(hang) as server:
        unavailable(CALLS["exchange_code"], api_url=server.url)
    assert not [secret for secret in SECRETS if secret in caplog.text]


# How it is made


def test_leaving_the_client_closes_its_connections(answering: Answering) -> None:
    transport = answering({})
    closed: list[bool] = []
    transport.close = lambda: closed.append(True)  # type: ignore[method-assign]
    ask(CALLS["revoke"])
    assert closed == [True]


def test_a_transport_serves_only_the_urls_it_is_mounted_for(answering: Answering) -> None:
    transport = answering({})
    session = open_session()
    assert session.get_adapter(f"{API_URL}/api/users/current") is transport
    assert isinstance(session.get_adapter("https://example.com"), requests.adapters.HTTPAdapter)
    assert session.get_adapter("https://example.com") is not transport


def test_the_client_needs_no_django() -> None:
    code = """
import sys
class NoDjango:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "django":
            raise ImportError("Django is blocked")
sys.meta_path.insert(0, NoDjango())
from django_ilert_oauth.client import IlertClient
with IlertClient(api_url="https://x", client_id="c", client_secret="s", timeout=(1, 1)):
    pass
"""
    root = Path(client.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
