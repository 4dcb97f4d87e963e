"""Whatever arrives, only documented errors come out, and a row is complete or as it was before."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import requests
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import Client, RequestFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertOAuthError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth import transport
from tests.support.scripted_adapter import Reply, ScriptedAdapter

API_URL = "https://ilert.test"
CALLBACK, CONNECT, ACCOUNTS = "/ilert/callback/", "/ilert/connect/", "/ilert/"
ACCESS, REFRESH = "an-access-token", "a-refresh-token"
TOKENS = {"access_token": ACCESS, "refresh_token": REFRESH, "expires_in": 3600, "scope": "profile"}
INFO = {"active": True, "tenant_id": "acme", "username": "grace", "scope": "profile"}
PERSON = {"id": 1, "firstName": "Grace", "lastName": "Demo", "email": "grace@acme.example"}
GOOD: dict[str, dict[str, Any]] = {"token": TOKENS, "token_info": INFO, "current": PERSON}

pytestmark = pytest.mark.django_db


def fuzzed(examples: int) -> settings:
    """The same examples in each run; nothing is kept on disk."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


class Responses(ScriptedAdapter):
    """What each endpoint responds with; it may be changed at any time."""

    def __init__(self) -> None:
        super().__init__(self._respond, forgets=True)
        self.given: dict[str, tuple[int, bytes]] = {}
        self.posted: list[str] = []
        self.reset()

    def reset(self) -> None:
        self.posted.clear()
        self.given = {name: (200, _json(body)) for name, body in GOOD.items()}
        self.given["revoke"] = (200, b"")

    def _respond(self, request: requests.PreparedRequest) -> Reply:
        name = request.path_url.rpartition("/")[2]
        self.posted.append(name)
        return Reply(*self.given[name])


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Responses:
    settings.ILERT_OAUTH_API_URL = API_URL
    adapter = Responses()
    monkeypatch.setitem(transport.adapters, API_URL, adapter)
    return adapter


@pytest.fixture
def callback(user: User) -> Callable[[], HttpRequest]:
    """A request with a good state and a code, of a fresh authorization request."""
    session = SessionStore()

    def make() -> HttpRequest:
        request = RequestFactory().get("/")
        request.user, request.session = user, session
        state = flows.start_connect(request).partition("state=")[2].partition("&")[0]
        request = RequestFactory().get(CALLBACK, {"code": "a-code", "state": state})
        request.user, request.session = user, session
        return request

    return make


@pytest.fixture
def account(user: User, responses: Responses) -> ConnectedAccount:
    account = ConnectedAccount(user=user, api_url=API_URL, tenant_id="acme", username="grace")
    account.access_token, account.refresh_token = "old-access-token", "old-refresh-token"
    account.save()
    return account


# What may arrive

ODD_TEXTS = [
    "",
    "a\x00b",
    "a\ud800b",
    "a\r\nb",
    "\u202e\x1b[31m",
    "<b>&\"'%",
    "\U0001f600" * 120,
    "é" * 255,
    *("x" * length for length in (101, 121, 255, 256, 4097, 70_000)),
]
ODD_NUMBERS = [2**63 - 1, 2**63, 10**400, -1, 0, 1e308, float("nan"), float("inf")]
texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=()), max_size=20)
)
numbers = st.one_of(st.sampled_from(ODD_NUMBERS), st.integers(), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
deep = st.integers(1, 50_000).map(lambda depth: b'{"access_token":' + b"[" * depth)
statuses = st.sampled_from([200] * 12 + [204, 301, 307, 400, 401, 403, 429, 500])
codes = st.sampled_from(["invalid_grant", "invalid_client", "server_error", "made up"])


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


def bodies(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Mostly good responses of which one thing, or more, is odd or missing."""
    one = st.tuples(st.sampled_from(sorted(good)), st.one_of(texts, numbers, values))
    changed = one.map(lambda change: {**good, change[0]: change[1]})
    odd = st.fixed_dictionaries(
        {}, optional={name: st.one_of(st.just(value), values) for name, value in good.items()}
    )
    errors = st.fixed_dictionaries({"code": st.one_of(codes, values), "error": values})
    return st.one_of(
        changed.map(_json),
        st.one_of(changed, odd, errors, values).map(_json),
        st.one_of(st.binary(max_size=50), deep),
    )


def replies(endpoint: str) -> st.SearchStrategy[tuple[int, bytes]]:
    return st.tuples(statuses, bodies(GOOD[endpoint]))


def stored() -> dict[int, dict[str, Any]]:
    return {row["id"]: dict(row) for row in ConnectedAccount.objects.values()}


def without_errors(row: dict[str, Any]) -> dict[str, Any]:
    """What a failed refresh does not change: all but what it notes about the failure."""
    noted = ("last_error", "last_error_at", "status", "reason", "status_changed_at")
    return {name: value for name, value in row.items() if name not in noted}


@fuzzed(80)
@given(reply=replies("token"))
def test_a_refresh_keeps_the_row_or_replaces_it_completely(
    account: ConnectedAccount, responses: Responses, reply: tuple[int, bytes]
) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).delete()
    account.save(force_insert=True)
    responses.given["token"] = reply
    before = stored()[account.pk]
    try:
        flows.refresh(ConnectedAccount.objects.get(), force=True)
    except IlertOAuthError as error:
        after = stored()[account.pk]
        assert without_errors(after) == without_errors(before)
        assert after["last_error"] == error.code
        assert (after["status"] == "connected") is not isinstance(error, ReconnectRequiredError)
    else:
        sent = json.loads(reply[1])
        refreshed = ConnectedAccount.objects.get()
        assert refreshed.access_token == sent["access_token"]
        assert refreshed.refresh_token == (sent.get("refresh_token") or "old-refresh-token")
        assert (refreshed.status, refreshed.last_error, refreshed.lease_id) == ("connected", "", "")


def finish(request: HttpRequest, responses: Responses) -> ConnectedAccount | None:
    try:
        return flows.finish_connect(request)
    except IlertOAuthError:
        has_grant = responses.posted[1:] != []
        assert ("revoke" in responses.posted) is (has_grant and bool(sent_refresh_token(responses)))
        return None


def sent_refresh_token(responses: Responses) -> Any:
    return json.loads(responses.given["token"][1]).get("refresh_token")


def connect(responses: Responses, request: HttpRequest) -> None:
    account = finish(request, responses)
    if account is None:
        assert stored() == {}
    else:
        assert_complete(account, responses)
        account.delete()


@pytest.mark.parametrize("endpoint", GOOD)
@fuzzed(40)
@given(data=st.data())
def test_a_connect_stores_nothing_or_all(
    responses: Responses, callback: Callable[[], HttpRequest], endpoint: str, data: st.DataObject
) -> None:
    responses.reset()
    responses.given[endpoint] = data.draw(replies(endpoint))
    connect(responses, callback())


@pytest.mark.parametrize(
    ("endpoint", "name"), [(endpoint, name) for endpoint, good in GOOD.items() for name in good]
)
def test_one_odd_value_stores_nothing_or_all(
    responses: Responses, callback: Callable[[], HttpRequest], endpoint: str, name: str
) -> None:
    odd: list[object] = [*ODD_TEXTS, *ODD_NUMBERS, None, True, [], {}]
    for value in odd:
        responses.reset()
        responses.given[endpoint] = (200, _json({**GOOD[endpoint], name: value}))
        connect(responses, callback())


@pytest.mark.parametrize("endpoint", GOOD)
@fuzzed(30)
@given(data=st.data())
def test_a_reconnect_keeps_the_row_or_replaces_it_completely(
    account: ConnectedAccount,
    responses: Responses,
    callback: Callable[[], HttpRequest],
    endpoint: str,
    data: st.DataObject,
) -> None:
    ConnectedAccount.objects.all().delete()
    PendingRevocation.objects.all().delete()
    account.save(force_insert=True)
    before = stored()
    responses.reset()
    responses.given[endpoint] = data.draw(replies(endpoint))
    connected = finish(callback(), responses)
    if connected is not None:
        assert_complete(connected, responses)
    if connected is None or connected.pk != account.pk:
        assert stored()[account.pk] == before[account.pk]
        assert not PendingRevocation.objects.exists()


def assert_complete(account: ConnectedAccount, responses: Responses) -> None:
    account.refresh_from_db()
    tokens, info = (json.loads(responses.given[name][1]) for name in ("token", "token_info"))
    assert account.access_token == tokens["access_token"]
    assert account.refresh_token == (tokens.get("refresh_token") or "")
    assert (account.tenant_id, account.username) == (info["tenant_id"], info["username"])
    assert account.status == "connected"


@fuzzed(50)
@given(reply=replies("token_info"))
def test_a_check_stores_what_ilert_names_or_nothing_and_loses_no_token(
    account: ConnectedAccount, responses: Responses, reply: tuple[int, bytes]
) -> None:
    ConnectedAccount.objects.all().delete()
    account.access_token_expires_at = account.connected_at + timedelta(hours=1)
    account.granted_scope = "source"
    account.save(force_insert=True)
    responses.reset()
    responses.given["token_info"] = reply
    expected = {"tenant_id": "acme", "username": "grace"}
    try:
        flows.check(ConnectedAccount.objects.get())
        expected = {name: json.loads(reply[1])[name] for name in expected}
    except IlertOAuthError as error:
        assert error.code
    checked = ConnectedAccount.objects.get()
    assert {name: getattr(checked, name) for name in expected} == expected
    assert checked.granted_scope in ("source", TOKENS["scope"], *_scope_of(reply))
    old, new = (account.access_token, account.refresh_token), (ACCESS, REFRESH)
    assert (checked.access_token, checked.refresh_token) in (old, new)


def _scope_of(reply: tuple[int, bytes]) -> list[Any]:
    try:
        return [json.loads(reply[1])["scope"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


# The callback

names = st.one_of(
    st.sampled_from(["state", "code", "error", "error_description", "iss", "next"]),
    st.text(max_size=5),
)
encoded = st.one_of(
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=20),
    st.sampled_from([b"access_denied", b"<script>alert(1)</script>", b"\xff\xfe\x00"]),
).map(quote_from_bytes)
raw = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=10)
parameters = st.tuples(
    names.map(lambda name: quote_from_bytes(name.encode())), st.one_of(encoded, raw)
).map("=".join)


@fuzzed(60)
@given(pairs=st.lists(parameters, max_size=6), good=st.integers(0, 7), has_code=st.booleans())
def test_any_callback_ends_on_a_page_of_the_site_that_repeats_nothing(
    responses: Responses, browser: Client, pairs: list[str], good: int, has_code: bool
) -> None:
    responses.given["token"] = (401, b'{"code": "invalid_grant"}')
    leave: Any = browser.post(CONNECT)
    state = leave["Location"].partition("state=")[2].partition("&")[0]
    here = [f"state={state}", *(["code=a-code"] if has_code else [])]
    query = "&".join([*pairs[:good], *here, *pairs[good:]] if good < 7 else pairs)
    response: Any = browser.get(CALLBACK, QUERY_STRING=query)
    assert response.status_code == 302
    assert response["Location"] in (ACCOUNTS, CONNECT)
    assert response["Referrer-Policy"] == "no-referrer"
    page = browser.get(response["Location"]).content
    assert b"alert(1)" not in page
    assert b"xxxxxxxxxxxx" not in page
    assert stored() == {}


# What a header may say


@fuzzed(60)
@given(
    value=st.one_of(
        st.text(max_size=40),
        st.from_regex(r"[A-Z][a-z]{2}, \d{1,5} [A-Z][a-z]{2} \d{1,5} [0-9:]{1,8} \S{1,5}"),
    )
)
def test_any_retry_after_is_understood_or_ignored(value: str) -> None:
    seconds = transport.retry_after(value)
    assert seconds is None or seconds >= 0
