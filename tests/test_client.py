from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import requests
from urllib3.util import Retry

import django_ilert_oauth
from django_ilert_oauth.exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.oauth import client, responses
from django_ilert_oauth.oauth.responses import CurrentUser, TokenInfo, TokenResponse
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import adapters, open_session, require_safe, retry_after
from tests.support import ilert_guide
from tests.support.ilert_calls import (
    API_URL,
    CALLS,
    SHORT,
    VERIFIER,
    Call,
    ask,
    each_call,
    open_client,
    unavailable,
)
from tests.support.raw_server import RawReply, hang, raw_server, reset_in_the_body
from tests.support.scripted_adapter import Reply, ScriptedAdapter

OAUTH_URL = f"{API_URL}/api/developers/oauth2"
SECRETS = [
    ilert_guide.CLIENT_SECRET,
    ilert_guide.CODE,
    VERIFIER,
    ilert_guide.ACCESS_TOKEN,
    ilert_guide.REFRESH_TOKEN,
    ilert_guide.TOKEN_RESPONSE["access_token"],
]


Responding = Callable[..., ScriptedAdapter]


@pytest.fixture
def responding(monkeypatch: pytest.MonkeyPatch) -> Responding:
    """Lets ilert respond to every request with a body: bytes, or what is to be JSON."""

    def mount(body: object, status: int = 200, **headers: str) -> ScriptedAdapter:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        transport = ScriptedAdapter(Reply(status, body, named))
        monkeypatch.setitem(adapters, API_URL, transport)
        return transport

    return mount


def refresh(**keywords: Any) -> TokenResponse:
    response: TokenResponse = ask(CALLS["refresh"], **keywords)
    return response


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
                "client_id": ilert_guide.CLIENT_ID,
                "client_secret": ilert_guide.CLIENT_SECRET,
                "grant_type": "authorization_code",
                "code": ilert_guide.CODE,
                "code_verifier": VERIFIER,
            },
        ),
        (
            "refresh",
            "/token",
            {
                "client_id": ilert_guide.CLIENT_ID,
                "client_secret": ilert_guide.CLIENT_SECRET,
                "grant_type": "refresh_token",
                "refresh_token": ilert_guide.REFRESH_TOKEN,
            },
        ),
        ("token_info", "/token_info", {"token": ilert_guide.ACCESS_TOKEN}),
        ("revoke", "/revoke", {"token": ilert_guide.REFRESH_TOKEN}),
    ],
)
def test_a_post_is_the_guides_form_and_nothing_else(
    responding: Responding, name: str, path: str, form: dict[str, str]
) -> None:
    transport = responding(ilert_guide.TOKEN_RESPONSE | ilert_guide.TOKEN_INFO)
    ask(CALLS[name])
    [seen] = transport.seen
    assert (seen.method, seen.url) == ("POST", OAUTH_URL + path)
    assert sorted(parse_qsl(seen.body.decode(), strict_parsing=True)) == sorted(form.items())
    assert seen.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in seen.headers


def test_the_user_is_asked_for_with_the_token_in_the_header_only(responding: Responding) -> None:
    transport = responding({})
    ask(CALLS["current_user"])
    [seen] = transport.seen
    assert (seen.method, seen.url) == ("GET", f"{API_URL}/api/users/current")
    assert seen.headers["Authorization"] == f"Bearer {ilert_guide.ACCESS_TOKEN}"
    assert seen.body == b""


@each_call
def test_every_request_names_the_app_asks_for_json_keeps_to_the_timeouts_and_verifies(
    responding: Responding, call: Call
) -> None:
    transport = responding(ilert_guide.TOKEN_RESPONSE | ilert_guide.TOKEN_INFO)
    ask(call, timeout=(5, 30))
    headers = transport.seen[0].headers
    assert headers["Accept"] == "application/json"
    assert headers["User-Agent"] == f"django-ilert-oauth/{django_ilert_oauth.__version__}"
    assert transport.seen[0].timeout == (5, 30)
    assert transport.seen[0].verify is not False


def test_each_request_has_headers_of_its_own(responding: Responding) -> None:
    transport = responding(ilert_guide.TOKEN_RESPONSE)
    with open_client() as ilert:
        ilert.refresh(Secret("short"))
        ilert.refresh(Secret("a-longer-one"))
    lengths = [int(seen.headers["Content-Length"]) for seen in transport.seen]
    assert lengths == [len(seen.body) for seen in transport.seen]


@each_call
def test_no_password_from_netrc_is_added(
    responding: Responding, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine api.ilert.com login grace password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    transport = responding(ilert_guide.TOKEN_RESPONSE | ilert_guide.TOKEN_INFO)
    ask(call)
    assert "Basic" not in transport.seen[0].headers.get("Authorization", "")


@each_call
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed(responding: Responding, call: Call, status: int) -> None:
    transport = responding({}, status, Location=f"{API_URL}/elsewhere")
    assert unavailable(call).code == "unusable_response"
    assert len(transport.seen) == 1


@pytest.mark.parametrize("location", ["http://[", "//[", "http://a:x/", "http://a/\udcff", ""])
def test_a_redirect_to_nonsense_is_an_unusable_response(
    responding: Responding, location: str
) -> None:
    responding({}, 307, Location=location.encode("utf-8", "surrogateescape").decode("latin-1"))
    assert unavailable().code == "unusable_response"


def test_the_authorization_url_is_the_guides() -> None:
    url = client.authorization_url(
        "https://app.ilert.com",
        {
            "client_id": ilert_guide.CLIENT_ID,
            "response_type": "code",
            "redirect_uri": ilert_guide.REDIRECT_URI,
            "scope": ilert_guide.SCOPE,
            "state": ilert_guide.STATE,
        },
    )
    ours, guides = urlsplit(url), urlsplit(ilert_guide.AUTHORIZE_URL)
    assert ours[:3] == guides[:3]
    assert parse_qs(ours.query) == parse_qs(guides.query)


# Where secrets may go


@each_call
def test_nothing_is_sent_over_plain_http_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    transport = ScriptedAdapter()
    monkeypatch.setitem(adapters, "http://", transport)
    with pytest.raises(IlertOAuthError) as caught:
        ask(call, api_url="http://api.ilert.com")
    assert caught.value.code == "insecure_endpoint"
    assert transport.seen == []


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


def test_the_guides_token_response_is_understood(responding: Responding) -> None:
    responding(ilert_guide.TOKEN_RESPONSE)
    response = ask(CALLS["exchange_code"])
    assert response == TokenResponse(
        access_token=Secret(ilert_guide.TOKEN_RESPONSE["access_token"]),
        refresh_token=Secret(ilert_guide.REFRESH_TOKEN),
        expires_in=3600,
        refresh_token_expires_in=31_536_000,
        scope="profile source:w",
    )


def test_the_guides_token_info_is_understood(responding: Responding) -> None:
    responding(ilert_guide.TOKEN_INFO)
    assert ask(CALLS["token_info"]) == TokenInfo(
        active=True, tenant_id="someTenant", username="someUser", scope="profile source:w"
    )


def test_an_inactive_token_has_no_identity(responding: Responding) -> None:
    responding({"active": False})
    assert ask(CALLS["token_info"]) == TokenInfo(active=False, tenant_id="", username="", scope="")


def test_the_current_user_is_understood(responding: Responding) -> None:
    responding(
        {"id": 7, "username": "g", "firstName": "Grace", "lastName": "Hopper", "email": "g@x.de"}
    )
    assert ask(CALLS["current_user"]) == CurrentUser(
        id=7, display_name="Grace Hopper", email="g@x.de"
    )


def test_a_user_without_any_field_is_nobody_in_particular(responding: Responding) -> None:
    responding({})
    assert ask(CALLS["current_user"]) == CurrentUser(id=None, display_name="", email="")


def test_one_name_stands_alone(responding: Responding) -> None:
    responding({"lastName": "Hopper"})
    assert ask(CALLS["current_user"]).display_name == "Hopper"


@pytest.mark.parametrize("id", [True, -1, 2**63, "7", 7.0, None, [7]])
def test_a_user_id_that_no_column_keeps_is_none(responding: Responding, id: object) -> None:
    responding({"id": id})
    assert ask(CALLS["current_user"]).id is None


@pytest.mark.parametrize("id", [0, 2**63 - 1])
def test_the_least_and_the_greatest_user_id_are_kept(responding: Responding, id: int) -> None:
    responding({"id": id})
    assert ask(CALLS["current_user"]).id == id


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), (200, b""), (204, b"")])
def test_any_success_is_a_revocation(responding: Responding, status: int, body: bytes) -> None:
    responding(body, status)
    assert ask(CALLS["revoke"]) is None


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"error": "unsupported_token_type"}', "unsupported_token_type"),
        (404, b'{"status": 404, "code": "NOT_FOUND"}', "unknown_error"),
        (404, b'{"status": 404, "message": "Not found"}', "unusable_response"),
        (300, b"{}", "unusable_response"),
        (302, b"", "unusable_response"),
        (200, b" <!doctype html>Log in", "unusable_response"),
    ],
)
def test_nothing_else_is_a_revocation(
    responding: Responding, status: int, body: bytes, code: str
) -> None:
    responding(body, status)
    with pytest.raises(IlertOAuthError) as caught:
        ask(CALLS["revoke"])
    assert isinstance(caught.value, IlertRejectedError | IlertUnavailableError)
    assert (caught.value.code, caught.value.status) == (code, status)


@pytest.mark.parametrize("absent", [None, "", False, 0, [], {}])
def test_a_refresh_without_a_new_refresh_token_has_an_empty_one(
    responding: Responding, absent: object
) -> None:
    responding(ilert_guide.TOKEN_RESPONSE | {"refresh_token": absent})
    assert refresh().refresh_token == ""


def test_a_refresh_may_leave_everything_out_but_the_access_token(responding: Responding) -> None:
    responding({"access_token": ilert_guide.ACCESS_TOKEN})
    assert refresh() == TokenResponse(
        access_token=Secret(ilert_guide.ACCESS_TOKEN),
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
    ("1e30", responses.MAX_LIFETIME),
    ("1" + "0" * 30, responses.MAX_LIFETIME),
    ("Infinity", responses.MAX_LIFETIME),
    ("1" + "0" * 400, responses.MAX_LIFETIME),
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
    responding: Responding, field: str, json_text: str, seconds: int | None
) -> None:
    responding(f'{{"access_token": "{ilert_guide.ACCESS_TOKEN}", "{field}": {json_text}}}'.encode())
    assert getattr(refresh(), field) == seconds


def test_the_longest_lifetime_is_a_date_that_python_knows() -> None:
    assert datetime.now(UTC) + timedelta(seconds=responses.MAX_LIFETIME) < datetime.max.replace(
        tzinfo=UTC
    )


UNSTORABLE: list[object] = ["a\0b", "a\ud800b", "a\nb", "a\x9bb", 7, None, ["a"], True]
TOO_LONG = "x" * 5000
#: A joiner, spaces without a break and of CJK, marks of direction, an emoji of several characters.
UNUSUAL = [
    "क्\u200dष",
    "Grace\xa0Hopper",
    "山田\u3000花子",
    "\u200fגרייס\u200e",
    "👩\u200d💻",
    "a\u2028b",
]


@pytest.mark.parametrize("string", UNSTORABLE, ids=ascii)
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
def test_a_string_that_no_database_keeps_is_empty(
    responding: Responding, name: str, sent_as: str, kept_as: str, string: object
) -> None:
    responding(
        {"access_token": ilert_guide.ACCESS_TOKEN, **ilert_guide.TOKEN_INFO, sent_as: string}
    )
    assert getattr(ask(CALLS[name]), kept_as) == ""


@pytest.mark.parametrize("name", ["refresh", "token_info"])
@pytest.mark.parametrize("scope", [TOO_LONG, "profile \N{CHECK MARK}"])
def test_a_scope_that_cannot_be_one_is_empty(responding: Responding, name: str, scope: str) -> None:
    responding({"access_token": ilert_guide.ACCESS_TOKEN, **ilert_guide.TOKEN_INFO, "scope": scope})
    assert ask(CALLS[name]).scope == ""


@pytest.mark.parametrize(("field", "longest"), [("tenant_id", 100), ("username", 255)])
def test_an_identity_is_as_long_as_its_column_at_most(
    responding: Responding, field: str, longest: int
) -> None:
    responding(ilert_guide.TOKEN_INFO | {field: "x" * longest})
    assert getattr(ask(CALLS["token_info"]), field) == "x" * longest
    responding(ilert_guide.TOKEN_INFO | {field: "x" * (longest + 1)})
    assert unavailable(CALLS["token_info"]).code == "unusable_response"


@pytest.mark.parametrize(("length", "kept"), [(4096, 4096), (4097, 0)])
def test_a_scope_is_kept_up_to_4096_characters(
    responding: Responding, length: int, kept: int
) -> None:
    responding(ilert_guide.TOKEN_INFO | {"scope": "x" * length})
    assert len(ask(CALLS["token_info"]).scope) == kept


@pytest.mark.parametrize("name", UNUSUAL, ids=ascii)
@pytest.mark.parametrize("field", ["tenant_id", "username"])
def test_an_identity_is_kept_however_it_is_written(
    responding: Responding, field: str, name: str
) -> None:
    responding(ilert_guide.TOKEN_INFO | {field: name})
    assert getattr(ask(CALLS["token_info"]), field) == name


@pytest.mark.parametrize("name", UNUSUAL, ids=ascii)
def test_a_name_is_kept_however_it_is_written(responding: Responding, name: str) -> None:
    responding({"firstName": name, "email": name})
    assert ask(CALLS["current_user"]) == CurrentUser(id=None, display_name=name, email=name)


def test_names_that_are_too_long_are_cut(responding: Responding) -> None:
    responding({"firstName": "Grace", "lastName": TOO_LONG, "email": TOO_LONG})
    user = ask(CALLS["current_user"])
    assert user.display_name == "Grace " + "x" * 249
    assert user.email == "x" * 254


@pytest.mark.parametrize("type", ["Bearer", "bearer", "BEARER", None])
def test_a_bearer_token_is_accepted_in_any_case(responding: Responding, type: str | None) -> None:
    responding(ilert_guide.TOKEN_RESPONSE | {"token_type": type})
    assert refresh().access_token == ilert_guide.TOKEN_RESPONSE["access_token"]


# What comes back and is of no use

TOKENS, INFO = ilert_guide.TOKEN_RESPONSE, ilert_guide.TOKEN_INFO
#: Bodies of which no response can be made, by what was asked for.
UNUSABLE: dict[str, list[object]] = {
    "exchange_code": [b"<!doctype html><p>Welcome", {}],
    "current_user": [b"<!doctype html><p>Welcome", b"", b"[]"],
    "token_info": [
        b"<!doctype html><p>Welcome",
        {},
        *({name: INFO[name] for name in INFO if name != missing} for missing in list(INFO)[:3]),
        *(INFO | {"active": active} for active in ["true", 1, None, "", []]),
        *(
            INFO | {name: string}
            for name in ("tenant_id", "username")
            for string in ["", TOO_LONG, *UNSTORABLE]
        ),
    ],
    "refresh": [
        b"<!doctype html><p>Welcome",
        b"",
        b"[]",
        b'"access_token"',
        b"null",
        json.dumps(TOKENS).encode()[:-5],
        b'{"access_token": "\xff"}',
        b'{"a":' + b"[" * 100_000,
        b'{"access_token": ' + b"9" * 5000 + b"}",
        {},
        ilert_guide.UNKNOWN_CODE,
        *(
            TOKENS | {"access_token": token}
            for token in ["", "a\0b", "a\r\nX-Evil: 1", "tökén", "a\ud800", 7, ["a"], {}]
        ),
        *(TOKENS | {"refresh_token": token} for token in ["a\0b", "tökén", 7, ["a"], True]),
        *(
            TOKENS | {"token_type": kind}
            for kind in ["DPoP", "mac", "", "Bearer ", 7, ["Bearer"], False]
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "body"), [(name, body) for name, bodies in UNUSABLE.items() for body in bodies]
)
def test_what_can_not_be_used_is_an_unusable_response(
    responding: Responding, name: str, body: object
) -> None:
    responding(body)
    assert unavailable(CALLS[name]).code == "unusable_response"


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
    responding: Responding, call: Call, code: str, status: int
) -> None:
    responding({"code": code, "error": "Provided code is unknown"}, status)
    error = rejected(call)
    assert (error.code, error.status) == (code, status)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *DOCUMENTED.items(),
        ("invalid_client", 403),
        ("invalid_token", 404),
        ("insufficient_scope", 422),
    ],
)
def test_the_code_is_found_in_error_too_and_at_any_4xx(
    responding: Responding, code: str, status: int
) -> None:
    responding({"error": code, "error_description": "Provided code is unknown"}, status)
    error = rejected()
    assert (error.code, error.status) == (code, status)


def test_a_number_for_a_code_does_not_hide_the_code_in_error(responding: Responding) -> None:
    responding({"code": 401, "error": "invalid_grant"}, 401)
    assert rejected().code == "invalid_grant"


@pytest.mark.parametrize(
    "body",
    [
        {"code": ilert_guide.REFRESH_TOKEN, "error": f"{ilert_guide.REFRESH_TOKEN} is unknown"},
        {"error": f"invalid_grant: {ilert_guide.REFRESH_TOKEN}"},
        {"status": 403, "message": ilert_guide.REFRESH_TOKEN, "code": "forbidden"},
    ],
)
def test_an_undocumented_code_is_refused_without_repeating_it(
    responding: Responding, body: dict[str, Any]
) -> None:
    responding(body, 403)
    error = rejected()
    assert (error.code, error.status, str(error)) == (
        "unknown_error",
        403,
        "ilert refused: unknown_error.",
    )


TRANSIENT: list[tuple[int, object, str]] = [
    *((status, {"code": "server_error"}, "server_error") for status in (400, 500, 503)),
    (400, {"error": "temporarily_unavailable"}, "server_error"),
    (500, b"", "server_error"),
    (502, b"<h1>Bad gateway", "server_error"),
    (503, {"code": "invalid_grant"}, "server_error"),
    (599, [], "server_error"),
    (429, {"code": "invalid_grant", "error": "Slow down"}, "rate_limited"),
    (400, [], "unusable_response"),
    (401, {}, "unusable_response"),
    (403, b"<h1>Forbidden", "unusable_response"),
    (403, {"error": {"code": "invalid_grant"}}, "unusable_response"),
    (404, b"", "unusable_response"),
]


@each_call
@pytest.mark.parametrize(("status", "body", "code"), TRANSIENT)
def test_what_names_no_code_of_the_grant_is_transient_whatever_was_asked(
    responding: Responding, call: Call, status: int, body: object, code: str
) -> None:
    responding(body, status)
    error = unavailable(call)
    assert (error.code, error.status, error.retry_after) == (code, status, None)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (300, "ilert's response could not be used."),
        (400, "ilert's response could not be used."),
        (429, "ilert asks for fewer requests."),
        (500, "ilert reports a server error."),
    ],
)
def test_an_error_says_in_a_sentence_what_is_wrong(
    responding: Responding, status: int, sentence: str
) -> None:
    responding({}, status)
    assert str(unavailable()) == f"{sentence} (HTTP {status})"


def test_a_response_is_read_up_to_its_greatest_length(responding: Responding) -> None:
    body = json.dumps(ilert_guide.TOKEN_INFO).encode()
    responding(body.ljust(responses.MAX_RESPONSE_BYTES))
    assert ask(CALLS["token_info"]).active
    responding(body.ljust(responses.MAX_RESPONSE_BYTES + 1))
    error = unavailable(CALLS["token_info"])
    assert str(error) == "ilert's response is too long."
    assert (error.code, error.status) == ("unusable_response", 200)


def test_a_compressed_response_is_understood(responding: Responding) -> None:
    body = json.dumps(ilert_guide.TOKEN_INFO).encode()
    responding(gzip.compress(body), Content_Encoding="gzip")
    assert ask(CALLS["token_info"]).active


@pytest.mark.parametrize(("status", "body"), [(401, b""), (404, b"[]"), (200, b"<h1>Log in")])
def test_what_is_no_json_object_is_said_not_to_be_of_ilert(
    responding: Responding, status: int, body: bytes
) -> None:
    responding(body, status)
    assert str(unavailable()) == (
        "The response is not ilert's: is there a proxy, a firewall or a wrong address? "
        f"(HTTP {status})"
    )


@pytest.mark.parametrize("status", [403, 429, 503])
def test_retry_after_comes_along_with_any_transient_response(
    responding: Responding, status: int
) -> None:
    responding(b"", status, Retry_After="17")
    assert unavailable().retry_after == 17


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    assert retry_after(in_a_minute) == pytest.approx(60, abs=2)


@pytest.mark.parametrize("past", ["Wed, 21 Oct 2015 07:28:00 GMT", "0", " 0 "])
def test_retry_after_is_never_negative(past: str) -> None:
    assert retry_after(past) == 0


@pytest.mark.parametrize(
    "garbage",
    [None, "", "soon", "-5", "1.5", "²", "١", "Mon,", "Mon, 99 Foo 0000 00:00:00 GMT", "9" * 5000],
)
def test_retry_after_may_be_absent_or_garbage(garbage: str | None) -> None:
    assert retry_after(garbage) is None


def test_a_long_retry_after_is_bounded() -> None:
    assert retry_after("9" * 9) == Retry.DEFAULT_RETRY_AFTER_MAX


# What does not show


def test_responses_do_not_show_their_tokens(responding: Responding) -> None:
    responding(ilert_guide.TOKEN_RESPONSE)
    response = refresh()
    assert repr(response).count("<secret>") == 2
    assert not [secret for secret in SECRETS if secret in f"{response!r} {vars(response)}"]


FAILURES: dict[str, tuple[object, int]] = {
    "rejected": ({"code": ilert_guide.REFRESH_TOKEN, "error": ilert_guide.ACCESS_TOKEN}, 401),
    "unavailable": ({"error": ilert_guide.ACCESS_TOKEN}, 503),
    "unusable": ({"token": ilert_guide.ACCESS_TOKEN, "access_token": ["x"], "id": {}}, 302),
    "too long": (ilert_guide.ACCESS_TOKEN.encode() * 3000, 200),
}


@each_call
@pytest.mark.parametrize(("body", "status"), FAILURES.values(), ids=FAILURES)
def test_an_error_and_its_frames_show_no_secret(
    responding: Responding, call: Call, body: object, status: int
) -> None:
    responding(body, status)
    assert_shows_no_secret(lambda: ask(call))


@pytest.mark.parametrize("call", [CALLS["exchange_code"], CALLS["current_user"]])
@pytest.mark.parametrize("reply", [hang, reset_in_the_body])
def test_an_error_of_the_wire_and_its_frames_show_no_secret(reply: RawReply, call: Call) -> None:
    with raw_server(reply) as server:
        assert_shows_no_secret(lambda: ask(call, api_url=server.url, timeout=SHORT))


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
    responding: Responding, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"), raw_server(hang) as server:
        unavailable(CALLS["exchange_code"], api_url=server.url, timeout=SHORT)
    assert not [secret for secret in SECRETS if secret in caplog.text]


# How it is made


def test_leaving_the_client_closes_its_connections(responding: Responding) -> None:
    transport = responding({})
    closed: list[bool] = []
    transport.close = lambda: closed.append(True)  # type: ignore[method-assign]
    ask(CALLS["revoke"])
    assert closed == [True]


def test_a_transport_serves_only_the_urls_it_is_mounted_for(responding: Responding) -> None:
    transport = responding({})
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
from django_ilert_oauth.oauth.client import IlertClient
with IlertClient(api_url="https://x", client_id="c", client_secrets=["s"], timeout=(1, 1)):
    pass
"""
    root = Path(client.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
