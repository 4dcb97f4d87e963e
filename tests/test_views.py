from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.utils import timezone

from django_ilert_oauth import views
from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.internal.authorization_request import BROWSER_KEY
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import client as wire
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from ilert_standin.errors import STATUSES
from ilert_standin.faults import Fault, parse_fault
from tests.conftest import CALLBACK, AccountFactory, spoil
from tests.support.failing_database import refused_by_database
from tests.support.html_page import Page
from tests.support.other_callers import beside

ACCOUNTS, CONNECT = "/ilert/", "/ilert/connect/"
ENDED = "This request to connect has ended"
REJECTED = "ilert did not accept the request"
UNREACHABLE = "ilert could not be reached"
RATE_LIMITED, SERVER_ERROR = "ilert is too busy", "ilert is having problems"
DECLINED = "Access was declined at ilert"
MISCONFIGURED = "This site is not set up correctly for ilert"
MESSAGES = "django.contrib.messages.middleware.MessageMiddleware"
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"

Walk = Callable[..., Any]


def leave(browser: Client, **form: Any) -> str:
    """Where the button on the connect page leads to."""
    response = browser.post(CONNECT, form)
    assert response.status_code == 302, response.content
    return str(response["Location"])


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, strict_parsing=True))


def started() -> list[AuthorizationRequest]:
    return list(AuthorizationRequest.objects.order_by("expires_at"))


def tamper(**changes: Any) -> None:
    AuthorizationRequest.objects.update(**changes)


def text_of(response: Any) -> str:
    return html.unescape(response.content.decode())


def landing(browser: Client, response: Any, **extra: Any) -> str:
    """The page that the redirect leads to, as text."""
    assert response.status_code == 302, response.content
    page = browser.get(response["Location"], **extra)
    assert page.status_code == 200
    return text_of(page)


def stored() -> list[dict[str, Any]]:
    return [dict(row) for row in ConnectedAccount.objects.order_by("pk").values()]


@pytest.fixture
def other_browser(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("other"))
    return client


@pytest.fixture
def callback_url(browser: Client, ilert: StandIn) -> str:
    """With a good code and state, not opened yet."""
    return authorize(leave(browser))


@pytest.mark.parametrize(
    "path", [ACCOUNTS, CONNECT, "/ilert/1/disconnect/", "/ilert/callback/?code=abc&state=xyz"]
)
def test_a_visitor_is_sent_to_log_in(db: None, path: str) -> None:
    response = Client().get(path)
    assert response.status_code == 302
    assert response["Location"].startswith("/login/?next=/ilert/")
    assert "abc" not in response["Location"]
    assert "xyz" not in response["Location"]


@pytest.mark.parametrize("path", [CONNECT, "/ilert/1/disconnect/"])
def test_a_visitor_can_post_nothing(db: None, path: str) -> None:
    response = Client().post(path)
    assert response["Location"].startswith("/login/?next=/ilert/")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[(method, ACCOUNTS) for method in ("POST", "PUT", "DELETE")],
        *[(method, CONNECT) for method in ("PUT", "PATCH", "DELETE")],
        *[(method, "/ilert/callback/") for method in ("HEAD", "POST", "PUT", "DELETE")],
        *[(method, "/ilert/1/disconnect/") for method in ("PUT", "PATCH", "DELETE")],
    ],
)
def test_a_wrong_method_is_refused(browser: Client, method: str, path: str) -> None:
    assert browser.generic(method, path).status_code == 405


def test_a_head_request_does_not_use_up_the_code(browser: Client, callback_url: str) -> None:
    browser.head(callback_url)
    browser.get(callback_url)
    assert ConnectedAccount.objects.count() == 1


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender", "prefetch;anonymous"])
def test_a_prefetch_does_not_use_up_the_code(
    browser: Client, callback_url: str, ilert: StandIn, purpose: str
) -> None:
    fetched = browser.get(callback_url, headers={"Sec-Purpose": purpose})
    assert (fetched.status_code, fetched["Cache-Control"]) == (403, "no-store")
    assert ilert.token_requests == []
    browser.get(callback_url)
    assert ConnectedAccount.objects.count() == 1


REPEATED = ["code=other", "state=other", "error=access_denied&error=access_denied", "x=1&x=1"]


@pytest.mark.parametrize("more", REPEATED)
def test_a_callback_that_repeats_a_parameter_is_refused_and_uses_nothing_up(
    browser: Client, callback_url: str, ilert: StandIn, more: str
) -> None:
    assert REJECTED in landing(browser, browser.get(f"{callback_url}&{more}"))
    assert ilert.token_requests == []
    browser.get(callback_url)
    assert ConnectedAccount.objects.count() == 1


def test_a_callback_with_more_parameters_than_django_reads_is_refused_and_tells_nobody(
    browser: Client, callback_url: str, ilert: StandIn, settings: Any
) -> None:
    settings.DATA_UPLOAD_MAX_NUMBER_FIELDS = 1
    response: Any = browser.get(callback_url)
    assert (response["Location"], response["Cache-Control"]) == (ACCOUNTS, "no-store")
    assert response.wsgi_request.META["QUERY_STRING"] == ""
    assert ilert.token_requests == []


@pytest.fixture(params=["with the middleware", "without the middleware"])
def strict_browser(request: pytest.FixtureRequest, user: User, settings: Any) -> Client:
    if request.param.startswith("without"):
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name != CSRF]
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def test_connecting_needs_a_csrf_token(strict_browser: Client) -> None:
    assert strict_browser.post(CONNECT).status_code == 403
    assert started() == []


def test_disconnecting_needs_a_csrf_token(
    strict_browser: Client, account: ConnectedAccount
) -> None:
    assert strict_browser.post(f"/ilert/{account.pk}/disconnect/").status_code == 403
    account.refresh_from_db()
    assert account.status == Status.CONNECTED


def csrf_token_on(browser: Client, path: str) -> str:
    page = text_of(browser.get(path))
    return page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]


def test_the_pages_hold_the_csrf_token_that_is_needed(
    strict_browser: Client, account: ConnectedAccount
) -> None:
    for page, action in [
        (CONNECT, CONNECT),
        (ACCOUNTS, CONNECT),
        (f"/ilert/{account.pk}/disconnect/", f"/ilert/{account.pk}/disconnect/"),
    ]:
        form = {"csrfmiddlewaretoken": csrf_token_on(strict_browser, page)}
        assert strict_browser.post(action, form).status_code == 302


OFF_SITE = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\x08//evil.example",
    "https:evil.example",
    "https:///evil.example",
    "https://evil.example/",
    "https://testserver@evil.example/",
    "https://testserver.evil.example/",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,hello",
]
ON_SITE = ["/after/?a=1&b=2", "http://testserver/after/", "after/"]


@pytest.mark.parametrize("next_url", OFF_SITE)
def test_a_next_that_leads_off_the_site_is_dropped_at_the_start(
    browser: Client, next_url: str
) -> None:
    leave(browser, next=next_url)
    assert [row.next_url for row in started()] == [""]


@pytest.mark.parametrize("next_url", OFF_SITE[::4])
def test_a_next_that_leads_off_the_site_is_dropped_at_the_end(
    browser: Client, callback_url: str, next_url: str
) -> None:
    tamper(next_url=next_url)
    assert browser.get(callback_url)["Location"] == ACCOUNTS


@pytest.mark.parametrize("next_url", OFF_SITE[::4])
def test_a_next_that_leads_off_the_site_is_dropped_after_a_failure(
    browser: Client, next_url: str
) -> None:
    denied = {"error": "access_denied", "state": query_of(leave(browser))["state"]}
    tamper(next_url=next_url)
    assert browser.get("/ilert/callback/", denied)["Location"] == CONNECT


@pytest.mark.parametrize("next_url", ON_SITE)
def test_a_next_on_the_site_is_where_the_user_lands(connect: Walk, next_url: str) -> None:
    assert connect(next=next_url)["Location"] == next_url


def test_a_next_that_not_every_database_can_keep_is_encoded(connect: Walk) -> None:
    assert connect(next="/after/\U0001f600/")["Location"] == "/after/%F0%9F%98%80/"
    assert [row.next_url for row in started()] == ["/after/%F0%9F%98%80/"]


@pytest.mark.parametrize(
    "next_url", ["%2F%2Fevil.example", "/%2Fevil.example", "/%5Cevil.example", "/%09/evil.example"]
)
def test_an_encoded_next_stays_on_the_site(connect: Walk, next_url: str) -> None:
    location = urljoin(CALLBACK, connect(next=next_url)["Location"])
    assert location.startswith("http://testserver/")
    assert not location.startswith("http://testserver//")
    assert "\\" not in location
    assert "\t" not in location


def test_a_next_with_a_null_character_is_refused(browser: Client) -> None:
    assert browser.post(CONNECT, {"next": "/after/\x00"}).status_code == 200
    assert started() == []


def test_a_site_on_https_sends_nobody_to_http(
    browser: Client, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_REDIRECT_URI = CALLBACK
    form = {"next": "http://testserver/after/"}
    leaving = browser.post(CONNECT, form, secure=True)
    assert [row.next_url for row in started()] == [""]
    tamper(next_url="http://testserver/after/")
    back = authorize(leaving["Location"]).removeprefix("http://testserver")
    assert browser.get(back, secure=True)["Location"] == ACCOUNTS


def test_the_connect_page_says_who_asks_and_for_what(browser: Client, settings: Any) -> None:
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w", "brand_new"]
    page = text_of(browser.get(CONNECT))
    assert "testserver" in page
    assert "See your profile" in page
    assert "See, create and edit alert sources" in page
    assert "brand_new" in page


def test_the_connect_page_says_what_a_reconnect_asks_for(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(requested_scope="profile source:w")
    page = text_of(browser.get(CONNECT, {"account": account.pk}))
    assert "See, create and edit alert sources" in page


def test_a_connect_page_for_an_unknown_account_is_no_error(browser: Client) -> None:
    for pk in ("0", "text", "9" * 30):
        assert browser.get(CONNECT, {"account": pk}).status_code == 200


def test_looking_at_the_connect_page_begins_nothing(browser: Client) -> None:
    browser.get(CONNECT, {"next": "/after/"})
    assert started() == []


def test_the_connect_page_hands_on_where_the_user_came_from(browser: Client) -> None:
    page = text_of(browser.get(CONNECT, {"next": "/after/"}))
    assert '<input type="hidden" name="next" value="/after/"' in page


def test_a_link_made_by_somebody_else_does_not_choose_the_tenant(browser: Client) -> None:
    page = text_of(browser.get(CONNECT, {"tenant": "evil"}))
    assert 'name="tenant"' in page
    assert "evil" not in page


def test_the_way_to_ilert_carries_what_the_contract_asks_for(
    browser: Client, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w"]
    url = leave(browser)
    query = query_of(url)
    [row] = started()
    digest = hashlib.sha256(row.code_verifier.reveal().encode()).digest()
    base, _question_mark, _query = url.partition("?")
    assert base == settings.ILERT_OAUTH_APP_URL + "/api/developers/oauth2/authorize"
    assert len(query.pop("state")) >= 22
    assert query == {
        "client_id": "the-client",
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": "profile source:w",
        "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        "code_challenge_method": "S256",
    }


def test_the_redirect_uri_of_the_settings_is_sent_exactly_as_it_is(
    browser: Client, settings: Any
) -> None:
    settings.ILERT_OAUTH_REDIRECT_URI = "https://Site.example/back/?from=ilert&x=%2F"
    assert query_of(leave(browser))["redirect_uri"] == settings.ILERT_OAUTH_REDIRECT_URI


def test_a_site_on_https_has_a_redirect_uri_on_https(browser: Client) -> None:
    url = browser.post(CONNECT, secure=True)["Location"]
    assert query_of(url)["redirect_uri"] == "https://testserver/ilert/callback/"


def host_of(url: str) -> str | None:
    return urlsplit(url).hostname


def test_an_unknown_tenant_is_asked_for_by_ilert(browser: Client) -> None:
    assert host_of(leave(browser)) == "app.ilert.com"


@pytest.mark.parametrize("tenant", ["acme", "a", "acme-2", "a" * 63, " acme "])
def test_the_form_may_name_the_tenant(browser: Client, tenant: str) -> None:
    assert host_of(leave(browser, tenant=tenant)) == f"{tenant.strip()}.ilert.com"


def test_the_settings_may_name_the_tenant(browser: Client, settings: Any) -> None:
    settings.ILERT_OAUTH_TENANT = "globex"
    assert host_of(leave(browser, tenant="elsewhere")) == "globex.ilert.com"
    assert 'name="tenant"' not in text_of(browser.get(CONNECT))


def test_a_reconnect_goes_to_the_tenant_of_the_account(
    browser: Client, user: User, settings: Any
) -> None:
    settings.ILERT_OAUTH_TENANT = "globex"
    account = ConnectedAccount.objects.create(
        user=user, api_url="https://api.ilert.com", tenant_id="initech", username="grace"
    )
    assert host_of(leave(browser, account=account.pk)) == "initech.ilert.com"


@pytest.mark.parametrize(
    "tenant",
    [
        "evil.example/",
        "a.b",
        "-x",
        "x-",
        "x" * 64,
        "a b",
        "acme@evil",
        "acme:80",
        "acme#",
        "acme?",
        "acme\\",
        "acme%2eevil",
        "a\u0441me",
        "\uff41cme",
        "\u212aelvin",
        "ac\u00admm",
        "acme\u3002evil",
        "{tenant}",
    ],
)
def test_a_bad_tenant_is_refused_and_nothing_is_sent(browser: Client, tenant: str) -> None:
    response = browser.post(CONNECT, {"tenant": tenant})
    assert response.status_code == 200
    assert "Enter your ilert address, such as acme.ilert.com, or just" in text_of(response)
    assert started() == []


@pytest.mark.parametrize("pk", ["0", "text", "1; drop table", "99999999999999999999"])
def test_an_account_that_is_gone_is_dropped_with_a_message(browser: Client, pk: str) -> None:
    response = browser.post(CONNECT, {"account": pk})
    assert response.status_code == 200
    assert "The account to reconnect is no longer here" in text_of(response)
    assert "Select a valid choice" not in text_of(response)
    assert started() == []


def test_another_users_account_cannot_be_reconnected(
    other_browser: Client, account: ConnectedAccount
) -> None:
    response = other_browser.post(CONNECT, {"account": account.pk})
    assert response.status_code == 200
    assert "acme" not in text_of(response).replace("for example acme.ilert.com or just acme.", "")
    assert started() == []


def test_a_connect_ends_on_the_accounts_page(browser: Client, connect: Walk, user: User) -> None:
    response = connect()
    assert response["Location"] == ACCOUNTS
    assert "grace @ acme is connected." in landing(browser, response)
    account = ConnectedAccount.objects.get()
    assert (account.user, account.tenant_id, account.username) == (user, "acme", "grace")


def test_the_settings_may_say_where_a_connect_ends(connect: Walk, settings: Any) -> None:
    settings.ILERT_OAUTH_CONNECTED_URL = "/elsewhere/"
    assert connect()["Location"] == "/elsewhere/"
    assert connect(next="/after/")["Location"] == "/after/"


def test_a_deny_leads_back_to_the_connect_page_with_its_next(
    browser: Client, connect: Walk, account: ConnectedAccount, ilert: StandIn
) -> None:
    before = stored()
    response = connect(allow=False, next="/after/?a=1")
    page = landing(browser, response)
    assert DECLINED in page
    assert 'value="/after/?a=1"' in page
    assert "Go to ilert" in page
    assert ilert.token_requests == []
    assert stored() == before


@pytest.mark.parametrize("method", ["head", "put"])
def test_a_callback_by_another_method_tells_no_log_its_code(
    browser: Client, ilert: StandIn, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    response = getattr(Client(), method)("/ilert/callback/?code=the-secret-code&state=the-state")
    assert (response.status_code, response["Allow"]) == (405, "GET")
    [record] = caplog.records
    request = vars(record)["request"]
    assert "the-" not in f"{request} {request.META} {request.GET}"
    assert ilert.token_requests == []


def test_after_a_deny_the_same_is_asked_for_the_same_account_again(
    browser: Client, ilert: StandIn, account: ConnectedAccount, user: User
) -> None:
    asked = {
        "account": account.pk,
        "scopes": signed_scopes.sign(user, "alert:w"),
        "next": "/after/",
    }
    denied: Any = browser.get(authorize(leave(browser, **asked), allow=False))
    page = text_of(browser.get(denied.url))
    assert "Nothing was changed: grace @ acme stays connected." in page
    assert "Reference" not in page
    assert "<h1>Allow more access</h1>" in page
    assert "See, create and edit alerts" in page
    assert 'value="/after/"' in page


@pytest.mark.parametrize("next_url", ["after", "ilert_oauth:nothing"])
def test_a_next_that_is_the_name_of_no_view_does_no_harm(connect: Walk, next_url: str) -> None:
    assert connect(next=next_url)["Location"] == next_url


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("invalid_scope", MISCONFIGURED),
        ("server_error", SERVER_ERROR),
        ("made_up<script>", REJECTED),
        ("", REJECTED),
    ],
)
def test_an_error_of_ilert_leads_back_to_the_connect_page(
    browser: Client, ilert: StandIn, error: str, message: str
) -> None:
    state = query_of(leave(browser))["state"]
    query = {"error": error, "error_description": "<b>words of ilert", "state": state}
    page = landing(browser, browser.get("/ilert/callback/", query))
    assert message in page
    assert "Go to ilert" in page
    assert "made_up" not in page
    assert "words of ilert" not in page
    assert ilert.token_requests == []


@pytest.mark.parametrize("query", [{}, {"code": ""}])
def test_a_missing_code_leads_back_to_the_connect_page(
    browser: Client, ilert: StandIn, account: ConnectedAccount, query: dict[str, str]
) -> None:
    before = stored()
    state = query_of(leave(browser, next="/after/"))["state"]
    response = browser.get("/ilert/callback/", {**query, "state": state})
    page = landing(browser, response)
    assert REJECTED in page
    assert 'value="/after/"' in page
    assert ilert.token_requests == []
    assert stored() == before


def assert_ended(browser: Client, response: Any, ilert: StandIn) -> None:
    assert response["Location"] == ACCOUNTS
    page = landing(browser, response)
    assert ENDED in page
    assert "Connect an ilert account" in page
    assert ilert.token_requests == []
    assert stored() == []


@pytest.mark.parametrize(
    "query", ["", "?", "?state=unknown&code=abc", "?code=abc", "?state=%00%FF"]
)
def test_an_unknown_state_ends_on_the_accounts_page(
    browser: Client, ilert: StandIn, query: str
) -> None:
    leave(browser)
    assert_ended(browser, browser.get("/ilert/callback/" + query), ilert)


def test_a_state_of_another_browser_ends_on_the_accounts_page(
    other_browser: Client, callback_url: str, ilert: StandIn
) -> None:
    leave(other_browser)
    assert_ended(other_browser, other_browser.get(callback_url), ilert)


def test_another_user_of_the_same_browser_cannot_finish(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    kept = browser.session[BROWSER_KEY]
    browser.force_login(User.objects.create_user("other"))
    session = browser.session
    session[BROWSER_KEY] = kept
    session.save()
    assert_ended(browser, browser.get(callback_url), ilert)


def test_a_late_callback_ends_on_the_accounts_page(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    tamper(expires_at=timezone.now() - timedelta(seconds=1))
    assert_ended(browser, browser.get(callback_url), ilert)


def test_a_state_that_failed_cannot_be_used_again(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    ilert.add_fault("token", Fault(503))
    browser.get(callback_url)
    again = browser.get(callback_url)
    assert again["Location"] == ACCOUNTS
    assert ENDED in landing(browser, again)
    assert len(ilert.token_requests) == 1
    assert stored() == []


def test_a_user_who_logged_out_cannot_finish(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    browser.logout()
    assert browser.get(callback_url)["Location"] == "/login/?next=/ilert/"
    assert ilert.token_requests == []


@pytest.mark.django_db
def test_without_a_session_a_repeated_parameter_asks_for_a_login_as_well(client: Client) -> None:
    response = client.get("/ilert/callback/?state=one&state=another")
    assert response["Location"] == "/login/?next=/ilert/"


def test_a_user_who_logged_out_keeps_the_return_url(
    browser: Client, user: User, ilert: StandIn
) -> None:
    leaving: Any = browser.post("/ilert/connect/", {"next": "/reports/"})
    callback_url = authorize(leaving["Location"])
    browser.logout()
    after_login = query_of_location(browser.get(callback_url))["next"]
    browser.force_login(user)
    page = browser.get(after_login).content.decode()
    assert '<a href="/ilert/connect/?next=%2Freports%2F" class="ilert-button">' in page


class LogsOutMeanwhile:
    """As if the user logged out in another tab while this request is on its way."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        assert request.user.is_authenticated
        Session.objects.all().delete()
        return self._get_response(request)


def test_who_logs_out_in_another_tab_meanwhile_is_told_at_the_end(
    browser: Client, ilert: StandIn, settings: Any
) -> None:
    before = settings.MIDDLEWARE
    settings.MIDDLEWARE = [*before, "tests.test_views.LogsOutMeanwhile"]
    slow = Client()
    slow.cookies = browser.cookies
    url = leave(slow)
    settings.MIDDLEWARE = before
    assert browser.get(authorize(url))["Location"] == "/login/?next=/ilert/"
    assert ilert.token_requests == []


ENDPOINTS = ["token", "token_info"]
FAULTS = ["html", "empty", "truncated", "drop", "hang=0.4", *STATUSES]
FAULTS += ["404", "429", "503"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_response_leaves_everything_as_it_was(
    browser: Client,
    connect: Walk,
    account: ConnectedAccount,
    ilert: StandIn,
    settings: Any,
    endpoint: str,
    fault: str,
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (1, 0.15)
    before = stored()
    ilert.add_fault(*parse_fault(f"{endpoint}:{fault}"))
    page = landing(browser, connect(next="/after/"))
    assert any(
        text in page for text in (REJECTED, UNREACHABLE, RATE_LIMITED, SERVER_ERROR, MISCONFIGURED)
    )
    assert 'value="/after/"' in page
    assert "Go to ilert" in page
    assert stored() == before


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        "null",
        '{"access_token": 5}',
        '{"access_token": ""}',
        '{"access_token": "a\\nb"}',
    ],
)
def test_a_response_without_a_usable_token_stores_nothing(
    browser: Client, connect: Walk, ilert: StandIn, body: str
) -> None:
    ilert.add_fault("token", Fault(200, body))
    assert UNREACHABLE in landing(browser, connect())
    assert stored() == []


@pytest.mark.django_db(transaction=True)
def test_who_loses_the_new_grant_with_the_one_it_superseded_is_told_at_once(
    browser: Client, connect: Walk, account: ConnectedAccount, ilert: StandIn, meanwhile: Any
) -> None:
    def end_with_the_old_one(path: str) -> None:
        if path == wire.REVOKE_PATH:
            ilert.add_fault("token_info", Fault(200, '{"active": false}'))

    meanwhile(end_with_the_old_one)
    page = landing(browser, connect(account=account.pk))
    assert "access to the account. Please reconnect it" in page
    assert "Reconnect grace @ acme" in page


@pytest.mark.parametrize("body", ["[]", "{}", '{"active": false}', '{"active": true}'])
def test_a_response_without_an_identity_stores_nothing_and_ends_the_grant(
    browser: Client, connect: Walk, ilert: StandIn, body: str
) -> None:
    ilert.add_fault("token_info", Fault(200, body))
    page = landing(browser, connect())
    assert REJECTED in page or UNREACHABLE in page
    assert stored() == []
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_an_ilert_that_is_down_stores_nothing(
    browser: Client, account: ConnectedAccount, settings: Any
) -> None:
    before = stored()
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:1"
    callback_url = authorize(leave(browser))
    assert UNREACHABLE in landing(browser, browser.get(callback_url))
    assert stored() == before


def test_a_wrong_client_secret_stores_nothing(
    browser: Client, connect: Walk, account: ConnectedAccount, settings: Any
) -> None:
    before = stored()
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    page = landing(browser, connect())
    assert REJECTED in page
    assert "wrong" not in page
    assert stored() == before


@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET", "ENCRYPTION_KEYS"])
@pytest.mark.parametrize("value", [None, 17])
def test_a_missing_or_malformed_setting_stores_nothing(
    browser: Client,
    account: ConnectedAccount,
    callback_url: str,
    ilert: StandIn,
    settings: Any,
    name: str,
    value: Any,
) -> None:
    before = stored()
    setattr(settings, f"ILERT_OAUTH_{name}", value)
    assert MISCONFIGURED in landing(browser, browser.get(callback_url))
    assert stored() == before
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_a_reload_of_the_callback_makes_no_request(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    browser.get(callback_url)
    before, requests_made = stored(), len(ilert.requests)
    again = browser.get(callback_url)
    assert again["Location"] == ACCOUNTS
    assert "grace @ acme is connected." in landing(browser, again)
    assert len(ilert.requests) == requests_made
    assert stored() == before


def test_a_reload_of_the_callback_lands_where_the_first_one_did(
    browser: Client, ilert: StandIn
) -> None:
    url = authorize(leave(browser, next="/after/"))
    assert [browser.get(url)["Location"] for _ in range(2)] == ["/after/"] * 2
    assert len(ilert.token_requests) == 1


def test_a_second_tab_whose_request_was_used_keeps_its_next(
    browser: Client, ilert: StandIn
) -> None:
    url = authorize(leave(browser, next="/after/"))
    AuthorizationRequest.objects.update(consumed_at=timezone.now())
    page = Page(browser.get(url, follow=True).content.decode())
    assert "it has already been used" in page.text
    assert [a.attributes["href"] for a in page.all("a") if a.text == "Back"] == ["/after/"]
    assert ilert.token_requests == []


@pytest.mark.parametrize("next_url", OFF_SITE)
def test_the_accounts_page_leads_nobody_off_the_site(browser: Client, next_url: str) -> None:
    assert ">Back</a>" not in text_of(browser.get(ACCOUNTS, {"next": next_url}))


def test_a_reload_of_the_callback_claims_no_connection_that_has_ended(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    landing(browser, browser.get(callback_url))
    account = ConnectedAccount.objects.get()
    landing(browser, browser.post(f"/ilert/{account.pk}/disconnect/"))
    again = browser.get(callback_url)
    assert again["Location"] == ACCOUNTS
    assert "is connected." not in landing(browser, again)


def test_a_reload_of_the_callback_after_a_delete_ends_on_the_accounts_page(
    browser: Client, callback_url: str, ilert: StandIn
) -> None:
    landing(browser, browser.get(callback_url))
    ConnectedAccount.objects.all().delete()
    again = browser.get(callback_url)
    assert again["Location"] == ACCOUNTS
    assert ENDED in landing(browser, again)
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize("outcome", ["success", "reload", "deny", "unknown state", "logged out"])
def test_the_callback_keeps_its_address_to_itself(
    browser: Client, ilert: StandIn, outcome: str
) -> None:
    url = authorize(leave(browser), allow=outcome != "deny")
    if outcome == "unknown state":
        url += "x"
    if outcome == "reload":
        browser.get(url)
    if outcome == "logged out":
        browser.logout()
    response = browser.get(url)
    assert response["Cache-Control"] == "no-store"
    assert response["Referrer-Policy"] == "no-referrer"
    assert response.status_code == 302
    assert not {"code", "state", "error"}.intersection(query_of_location(response))
    assert all(value not in str(response.serialize_headers()) for value in query_of(url).values())


def test_under_the_middleware_that_asks_for_a_login_the_callback_keeps_its_address_to_itself(
    callback_url: str, settings: Any
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, LOGIN_REQUIRED]
    response = Client().get(callback_url)
    assert response["Location"] == "/login/?next=/ilert/"
    assert (response["Cache-Control"], response["Referrer-Policy"]) == ("no-store", "no-referrer")


def query_of_location(response: Any) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(response["Location"]).query))


def everything_shown(browser: Client, response: Any) -> str:
    shown = [response.serialize_headers().decode(), response.cookies.output(), text_of(response)]
    return "\n".join([*shown, landing(browser, response), json.dumps(dict(browser.session))])


def test_a_connect_shows_and_logs_no_secret(
    browser: Client, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    url = authorize(leave(browser))
    caplog.set_level("DEBUG")
    verifier = started()[0].code_verifier.reveal()
    shown = everything_shown(browser, browser.get(url)) + caplog.text
    account = ConnectedAccount.objects.get()
    secrets = [
        query_of(url)["code"],
        query_of(url)["state"],
        verifier,
        account.access_token.reveal(),
        account.access_token_ciphertext,
        account.refresh_token.reveal(),
        account.refresh_token_ciphertext,
        "the-client-secret",
    ]
    assert [secret for secret in secrets if secret in shown] == []


def test_a_middleware_that_breaks_on_the_way_to_ilert_shows_no_state(
    user: User, settings: Any
) -> None:
    """Error pages, and e-mails to administrators, show the response by its ``repr``."""
    settings.DEBUG = settings.SESSION_SAVE_EVERY_REQUEST = True
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    browser = Client(raise_request_exception=False)
    browser.force_login(user)
    with (
        mock.patch("secrets.token_urlsafe", return_value="a-state-that-nobody-may-see"),
        refused_by_database("UPDATE", "django_session"),
    ):
        page = text_of(browser.post(CONNECT))
    assert "status_code=302" in page
    assert "a-state-that" not in page


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_failed_connect_shows_and_logs_no_secret(
    browser: Client, ilert: StandIn, caplog: pytest.LogCaptureFixture, endpoint: str, status: int
) -> None:
    url = authorize(leave(browser))
    caplog.set_level("DEBUG")
    verifier = started()[0].code_verifier.reveal()
    body = {"code": "words-of-ilert", "error": "words-of-ilert", "active": "words-of-ilert"}
    ilert.add_fault(endpoint, Fault(status, json.dumps([body] if status == 200 else body)))
    shown = everything_shown(browser, browser.get(url)) + caplog.text
    assert "was not connected" in caplog.text
    query = query_of(url)
    secrets = [query["code"], query["state"], verifier, "the-client-secret"]
    assert [secret for secret in [*secrets, "words-of-ilert"] if secret in shown] == []


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_two_tabs_finish_in_either_order_each_at_its_own_next(
    browser: Client, ilert: StandIn, order: list[int]
) -> None:
    leaving = [leave(browser, next=f"/tab-{tab}/") for tab in (0, 1)]
    people = ["grace", "ada"]
    for tab in order:
        back = authorize(leaving[tab], username=people[tab])
        assert browser.get(back)["Location"] == f"/tab-{tab}/"
    assert {account["username"] for account in stored()} == set(people)


@pytest.fixture
def meanwhile(
    ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[str], None]], None]:
    """Acts in the thread that is about to wait for ilert, given the path that is asked for."""

    def do(act: Callable[[str], None]) -> None:
        start, start_tokens = wire.IlertClient._start, wire.IlertClient._start_tokens

        def act_and_start(client: wire.IlertClient, path: str, *args: Any) -> Any:
            act(path)
            return start(client, path, *args)

        def act_and_start_tokens(*args: Any) -> Any:
            act(wire.TOKEN_PATH)
            return start_tokens(*args)

        monkeypatch.setattr(wire.IlertClient, "_start", act_and_start)
        monkeypatch.setattr(wire.IlertClient, "_start_tokens", act_and_start_tokens)

    return do


@pytest.mark.django_db(transaction=True)
def test_a_request_made_in_another_tab_while_a_code_is_exchanged_can_be_finished(
    browser: Client, callback_url: str, meanwhile: Any
) -> None:
    begun: list[str] = []

    def other_tab(path: str) -> None:
        if path == wire.TOKEN_PATH and not begun:
            begun.append(beside(lambda: leave(browser, next="/other-tab/")))

    meanwhile(other_tab)
    assert browser.get(callback_url)["Location"] == ACCOUNTS
    assert browser.get(authorize(begun[0], username="ada"))["Location"] == "/other-tab/"


@pytest.mark.django_db(transaction=True)
def test_a_request_used_in_another_tab_while_a_code_is_exchanged_stays_used(
    browser: Client, callback_url: str, meanwhile: Any
) -> None:
    other_url = authorize(leave(browser), username="ada")
    other_tab: list[Any] = []

    def use(path: str) -> None:
        if path == wire.TOKEN_PATH and not other_tab:
            other_tab.append(None)
            other_tab.append(beside(lambda: browser.get(other_url)))

    meanwhile(use)
    browser.get(callback_url)
    assert len(stored()) == 2
    assert {row.code_verifier_ciphertext for row in started()} == {""}


def test_of_many_tabs_each_can_be_finished(browser: Client, ilert: StandIn) -> None:
    leaving = [leave(browser, next=f"/{number}/") for number in range(11)]
    assert [browser.get(authorize(leaving[number]))["Location"] for number in (0, 10)] == [
        "/0/",
        "/10/",
    ]


def test_looking_at_the_disconnect_page_changes_nothing(
    browser: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    before = stored()
    page = text_of(browser.get(f"/ilert/{account.pk}/disconnect/"))
    assert "Disconnect grace @ acme?" in page
    assert stored() == before
    assert ilert.requests == []


def test_disconnecting_ends_the_grant_and_lands_on_the_accounts_page(
    browser: Client,
    account: ConnectedAccount,
    ilert: StandIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = browser.post(f"/ilert/{account.pk}/disconnect/")
    assert response["Location"] == ACCOUNTS
    assert "grace @ acme is disconnected." in landing(browser, response)
    account.refresh_from_db()
    assert (account.status, account.reason) == (Status.DISCONNECTED, Reason.USER)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_the_receivers_of_a_disconnect_get_its_request(
    browser: Client,
    account: ConnectedAccount,
    sent: list[tuple[str, dict[str, Any]]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        browser.post(f"/ilert/{account.pk}/disconnect/")
    ((name, facts),) = sent
    assert (name, facts["request"].user) == ("account_revoked", account.user)


@pytest.mark.parametrize("times", [1, 2])
def test_disconnecting_leads_back_to_where_it_was_asked_for(
    browser: Client, account: ConnectedAccount, times: int
) -> None:
    for _ in range(times):
        response: Any = browser.post(f"/ilert/{account.pk}/disconnect/?next=/settings/")
        assert response["Location"] == "/settings/"


def test_the_disconnect_page_keeps_its_next(browser: Client, account: ConnectedAccount) -> None:
    page = text_of(browser.get(f"/ilert/{account.pk}/disconnect/?next=/settings/"))
    assert '<input type="hidden" name="next" value="/settings/">' in page
    assert '<a href="/settings/">Back</a>' in page


@pytest.mark.parametrize("name", ["Disconnect", "Choose another"])
def test_links_of_the_accounts_page_lead_back_to_it_with_its_next(
    browser: Client, account: ConnectedAccount, make_account: AccountFactory, name: str
) -> None:
    make_account(username="heidi")
    browser.post("/ilert/choose/", {"account": account.pk})
    here = f"{ACCOUNTS}?next=%2Fsettings%2F"
    [link, *_others] = [it for it in Page.of(browser.get(here)).all("a") if it.text == name]
    page = Page.of(browser.get(link.attributes["href"]))
    [field] = [it for it in page.all("input") if it.attributes.get("name") == "next"]
    assert field.attributes["value"] == here


def test_the_choice_page_hands_its_next_on(browser: Client, account: ConnectedAccount) -> None:
    page = Page.of(browser.get("/ilert/choose/?next=/settings/"))
    [link] = [it for it in page.all("a") if it.text == "Your ilert accounts"]
    assert link.attributes["href"] == f"{ACCOUNTS}?next=%2Fsettings%2F"


def test_a_page_that_is_disconnected_already_leads_back(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(status=Status.DISCONNECTED)
    response: Any = browser.get(f"/ilert/{account.pk}/disconnect/?next=/settings/")
    assert response["Location"] == "/settings/"


@pytest.mark.parametrize("next_url", OFF_SITE[::4])
def test_disconnecting_leads_nobody_off_the_site(
    browser: Client, account: ConnectedAccount, next_url: str
) -> None:
    response: Any = browser.post(f"/ilert/{account.pk}/disconnect/", {"next": next_url})
    assert response["Location"] == ACCOUNTS


def test_disconnecting_twice_is_fine(browser: Client, account: ConnectedAccount) -> None:
    for _ in range(2):
        assert browser.post(f"/ilert/{account.pk}/disconnect/").status_code == 302


def test_disconnecting_works_while_ilert_is_down_and_a_token_unreadable(
    browser: Client,
    make_account: AccountFactory,
    settings: Any,
    django_capture_on_commit_callbacks: Any,
) -> None:
    accounts = [make_account(), spoil(make_account(username="ada"))]
    settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:1"
    for account in accounts:
        with django_capture_on_commit_callbacks(execute=True):
            response = browser.post(f"/ilert/{account.pk}/disconnect/")
        assert "is disconnected." in landing(browser, response)
    assert {row["status"] for row in stored()} == {Status.DISCONNECTED}


def test_the_settings_may_say_where_a_disconnect_ends(
    browser: Client, account: ConnectedAccount, settings: Any
) -> None:
    settings.ILERT_OAUTH_DISCONNECTED_URL = "/elsewhere/"
    assert browser.post(f"/ilert/{account.pk}/disconnect/")["Location"] == "/elsewhere/"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_users_account_cannot_be_found(
    other_browser: Client, account: ConnectedAccount, method: str
) -> None:
    before = stored()
    path = f"/ilert/{account.pk}/disconnect/"
    assert other_browser.generic(method, path).status_code == 404
    assert stored() == before


def test_an_account_that_is_not_there_cannot_be_found(browser: Client) -> None:
    for pk in ("0", "9" * 30):
        assert browser.get(f"/ilert/{pk}/disconnect/").status_code == 404


def test_the_accounts_page_shows_what_is_known_of_each_account(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile source:w brand_new", display_name="Grace <b>Demo")
    make_account(username="ada", status=Status.RECONNECT_REQUIRED, reason=Reason.REVOKED_AT_ILERT)
    make_account(username="linus", status=Status.DISCONNECTED, reason=Reason.ADMIN)
    response = browser.get(ACCOUNTS)
    page = " ".join(text_of(response).split())
    assert [account.username for account in response.context["accounts"]] == [
        "ada",
        "grace",
        "linus",
    ]
    assert "See, create and edit alert sources" in page
    assert "brand_new" in page
    assert "needs reconnecting: access was revoked at ilert" in page
    assert "An administrator of this site disconnected it." in page
    assert b"Grace &lt;b&gt;Demo" in response.content


def test_the_accounts_page_offers_what_can_be_done(
    browser: Client, make_account: AccountFactory
) -> None:
    alive, ended = make_account(), make_account(username="ada", status=Status.DISCONNECTED)
    page = text_of(browser.get(ACCOUNTS))
    assert f"/ilert/{alive.pk}/disconnect/" in page
    assert f"/ilert/{ended.pk}/disconnect/" not in page
    assert page.count("Reconnect</button>") == 1
    assert page.count("Connect again</button>") == 1
    assert f'href="{CONNECT}"' in page


def test_the_accounts_page_shows_only_ones_own(
    other_browser: Client, account: ConnectedAccount
) -> None:
    page = text_of(other_browser.get(ACCOUNTS))
    assert "grace" not in page
    assert "No ilert account is connected yet." in page


@pytest.mark.parametrize("path", [ACCOUNTS, CONNECT, "/ilert/{pk}/disconnect/"])
def test_no_page_holds_a_token_or_is_kept_in_a_cache(
    browser: Client, account: ConnectedAccount, path: str
) -> None:
    response = browser.get(path.format(pk=account.pk))
    assert "no-store" in response["Cache-Control"]
    secrets = [
        account.access_token.reveal(),
        account.refresh_token.reveal(),
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
        "the-client-secret",
    ]
    assert [secret for secret in secrets if secret in text_of(response)] == []


@pytest.mark.parametrize("path", [ACCOUNTS, CONNECT, "/ilert/{pk}/disconnect/"])
def test_a_site_may_put_its_own_base_around_the_pages(
    browser: Client, account: ConnectedAccount, settings: Any, tmp_path: Path, path: str
) -> None:
    base = tmp_path / "ilert_oauth" / "base.html"
    base.parent.mkdir()
    base.write_text("The site's own frame: {% block content %}{% endblock %}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    page = text_of(browser.get(path.format(pk=account.pk)))
    assert page.startswith("The site's own frame: ")
    assert "<h1>" in page


@pytest.mark.parametrize("view", [views.accounts, views.connect, views.callback, views.disconnect])
def test_each_view_runs_outside_of_atomic_requests(view: Any) -> None:
    assert vars(view)["_non_atomic_requests"] == {"default"}


@pytest.fixture
def without_messages(settings: Any) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name != MESSAGES]
    options = {"context_processors": ["django.template.context_processors.request"]}
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"OPTIONS": options}]


def test_django_keeps_messages_at_a_request_by_a_name_that_is_no_api(browser: Client) -> None:
    assert hasattr(browser.get("/ilert/").wsgi_request, "_messages")


@pytest.mark.usefixtures("without_messages")
def test_a_site_without_messages_can_connect_and_disconnect(browser: Client, connect: Walk) -> None:
    assert "grace @ acme" in landing(browser, connect())
    account = ConnectedAccount.objects.get()
    assert browser.post(f"/ilert/{account.pk}/disconnect/").status_code == 302


@pytest.mark.usefixtures("without_messages")
def test_a_site_without_messages_tells_why_nothing_was_connected(
    browser: Client, connect: Walk
) -> None:
    page = landing(browser, connect(allow=False))
    assert "Access was declined at ilert" in page
    assert "Go to ilert" in page


@pytest.mark.usefixtures("without_messages")
def test_a_site_without_messages_tells_each_once(browser: Client, connect: Walk) -> None:
    assert "grace @ acme is connected." in landing(browser, connect())
    assert "grace @ acme is connected." not in browser.get("/ilert/").content.decode()


def test_a_row_whose_key_is_lost_asks_for_a_reconnect(
    browser: Client, account: ConnectedAccount, settings: Any
) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = ["n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="]
    page = browser.get("/ilert/").content.decode()
    assert "cannot be read: reconnect" in page
    assert "Reconnect</button>" in page


@pytest.mark.parametrize("path", ["/ilert/", "/ilert/connect/"])
def test_no_other_site_can_frame_the_pages(browser: Client, path: str) -> None:
    assert browser.get(path)["X-Frame-Options"] == "DENY"


def test_a_next_url_that_would_fill_the_table_is_dropped(browser: Client, ilert: StandIn) -> None:
    leave(browser, next="/" + "a" * 3000)
    assert [row.next_url for row in started()] == [""]
