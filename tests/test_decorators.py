from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from django_ilert_oauth.decorators import connect_url, ilert_account_required
from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import StandIn
from ilert_standin.browser import authorize
from ilert_standin.oauth import Grants
from tests.conftest import AccountFactory, spoil
from tests.support import guarded_site
from tests.support.connect_steps import (
    CONNECT,
    go_through_ilert,
    is_sent_to_connect,
    press,
    query_of,
)

GUARDED = [f"/{kind}/it/" for kind in guarded_site.GUARDED]
JSON = {"Accept": "application/json"}
LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

each_kind = pytest.mark.parametrize("path", GUARDED)


@pytest.fixture(autouse=True)
def guarded(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"


@pytest.fixture
def grants_only(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """ilert gives this, whatever it is asked for."""
    issue = Grants.issue_code

    def limit(scope: str) -> None:
        monkeypatch.setattr(
            Grants,
            "issue_code",
            lambda self, person, _asked, challenge: issue(self, person, scope, challenge),
        )

    return limit


def asked_of(browser: Client, response: Any) -> str:
    user = User.objects.get(pk=browser.session["_auth_user_id"])
    return signed_scopes.unsign(user, query_of(response["Location"])["scopes"])


# Who gets in


@each_kind
def test_a_user_with_an_matching_account_gets_in(
    browser: Client, account: ConnectedAccount, path: str
) -> None:
    response = browser.get(path)
    assert (response.status_code, response.content) == (200, b"it works with grace @ acme")


@each_kind
def test_an_asynchronous_server_serves_every_kind_of_view(
    user: User, account: ConnectedAccount, path: str
) -> None:
    client = AsyncClient()
    client.force_login(user)
    response = async_to_sync(client.get)(path)
    assert response.content == b"it works with grace @ acme"


@each_kind
def test_an_asynchronous_server_sends_away_from_every_kind_of_view(user: User, path: str) -> None:
    client = AsyncClient()
    client.force_login(user)
    assert is_sent_to_connect(async_to_sync(client.get)(path))


@pytest.mark.parametrize("path", ["/without-parentheses/", "/called/"])
def test_without_scopes_any_connected_account_matches(
    browser: Client, make_account: AccountFactory, path: str
) -> None:
    make_account(granted_scope="profile")
    assert b"works with grace @ acme" in browser.get(path).content


@pytest.mark.parametrize("path", ["/without-parentheses/", "/called/"])
def test_without_scopes_no_account_does_not_match(browser: Client, path: str) -> None:
    response = browser.get(path)
    assert query_of(response["Location"]) == {"next": path}


def test_a_higher_level_of_the_scope_matches(browser: Client, make_account: AccountFactory) -> None:
    make_account(granted_scope="source:d")
    assert browser.get("/function/it/").status_code == 200


def test_the_scopes_may_be_any_iterable(account: ConnectedAccount) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("in")

    guarded = ilert_account_required(view, scopes=(scope for scope in ["source:w", "profile"]))
    for _ in range(2):
        request = RequestFactory().get("/")
        request.user, request.session = account.user, {}  # type: ignore[assignment]
        assert guarded(request).content == b"in"


def test_a_view_stays_what_it_was() -> None:
    assert iscoroutinefunction(guarded_site.async_function)
    assert not iscoroutinefunction(guarded_site.function)
    assert guarded_site.function.__name__ == "function"
    assert guarded_site.async_function.__name__ == "async_function"


def test_getting_in_takes_one_query_of_accounts(browser: Client, account: ConnectedAccount) -> None:
    with CaptureQueriesContext(connection) as queries:
        browser.get("/function/it/")
    assert len([q for q in queries if "connectedaccount" in q["sql"]]) == 1


# Who is sent to log in


@each_kind
def test_a_visitor_is_sent_to_log_in_and_back(db: None, path: str) -> None:
    response = Client().get(f"{path}?a=1")
    assert response.status_code == 302
    assert response["Location"] == f"/login/?next={path}%3Fa%3D1"


def test_a_login_page_elsewhere_is_told_the_complete_address(db: None, settings: Any) -> None:
    settings.LOGIN_URL = "https://sso.example/login/"
    response = Client().get("/function/it/")
    assert response["Location"] == (
        "https://sso.example/login/?next=http%3A//testserver/function/it/"
    )


# Who is sent to connect


@each_kind
def test_a_user_without_an_account_is_sent_to_connect(browser: Client, path: str) -> None:
    response = browser.get(f"{path}?a=1")
    assert is_sent_to_connect(response)
    query = query_of(response["Location"])
    assert (query["next"], "account" in query) == (f"{path}?a=1", False)
    assert asked_of(browser, response) == "source:w"


@each_kind
def test_who_connects_comes_back_and_gets_in(browser: Client, ilert: StandIn, path: str) -> None:
    landed = go_through_ilert(browser, browser.get(f"{path}?a=1"))
    assert landed == f"{path}?a=1"
    assert browser.get(landed).content == b"it works with grace @ acme"


def test_an_account_of_another_user_does_not_match(db: None, account: ConnectedAccount) -> None:
    other = Client()
    other.force_login(User.objects.create_user("other"))
    assert "account" not in query_of(other.get("/function/it/")["Location"])


def test_a_disconnected_account_counts_for_none(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(status=Status.DISCONNECTED)
    response = browser.get("/function/it/")
    assert "account" not in query_of(response["Location"])


def test_an_account_without_the_scope_is_extended(
    browser: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(granted_scope="profile alert:w")
    sent = browser.get("/function/it/")
    assert query_of(sent["Location"])["account"] == str(account.pk)
    landed = go_through_ilert(browser, sent)
    assert browser.get(landed).status_code == 200
    account.refresh_from_db()
    assert set(account.granted_scope.split()) == {"profile", "alert:w", "source:w"}


def needing_reconnection(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    return make_account(status=Status.RECONNECT_REQUIRED, reason=Reason.REVOKED_AT_ILERT)


def unreadable(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    return spoil(make_account())


def of_another_ilert(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    return make_account(api_url="https://api.elsewhere.example")


def of_another_client(make_account: AccountFactory, settings: Any) -> ConnectedAccount:
    return make_account(client_id="another-client")


each_unusable = pytest.mark.parametrize(
    "make_unusable", [needing_reconnection, unreadable, of_another_ilert, of_another_client]
)


@each_unusable
def test_an_unusable_account_is_reconnected(
    browser: Client, make_account: AccountFactory, settings: Any, make_unusable: Any
) -> None:
    account = make_unusable(make_account, settings)
    sent = browser.get("/function/it/")
    assert query_of(sent["Location"])["account"] == str(account.pk)
    landed = go_through_ilert(browser, sent)
    assert browser.get(landed).content == b"it works with grace @ acme"


@each_unusable
def test_an_unusable_account_does_not_stand_in_the_way_of_another(
    browser: Client, make_account: AccountFactory, settings: Any, make_unusable: Any
) -> None:
    make_unusable(make_account, settings)
    make_account(username="ada")
    assert browser.get("/function/it/").content == b"it works with ada @ acme"


def test_a_connected_account_is_extended_rather_than_another_reconnected(
    browser: Client, make_account: AccountFactory, settings: Any
) -> None:
    connected = make_account(granted_scope="profile", username="ada")
    needing_reconnection(make_account, settings)
    sent = browser.get("/function/it/")
    assert query_of(sent["Location"])["account"] == str(connected.pk)


# Who granted less


def test_who_grants_less_is_told_and_not_sent_round(
    browser: Client, ilert: StandIn, grants_only: Callable[[str], None]
) -> None:
    grants_only("profile")
    landed = go_through_ilert(browser, browser.get("/function/it/"))
    response = browser.get(landed)
    assert response.status_code == 403
    page = response.content.decode()
    assert "grace @ acme is connected, but ilert has not let this site" in page
    assert "See, create and edit alert sources" in page


def test_the_page_tells_only_what_is_missing(browser: Client, make_account: AccountFactory) -> None:
    make_account(granted_scope="source:w", requested_scope="source:w alert:w")
    page = browser.get("/greedy/").content.decode()
    assert "See, create and edit alerts" in page
    assert "alert sources" not in page


def test_who_granted_less_is_told_again_at_each_later_visit(
    browser: Client, ilert: StandIn, user: User, grants_only: Callable[[str], None]
) -> None:
    grants_only("profile")
    landed = go_through_ilert(browser, browser.get("/function/it/"))
    browser.get(landed)
    later = Client()
    later.force_login(user)
    assert [browser.get(landed).status_code, later.get(landed).status_code] == [403, 403]


def test_the_button_asks_again_and_may_succeed(
    browser: Client, ilert: StandIn, grants_only: Callable[[str], None]
) -> None:
    grants_only("profile")
    landed = go_through_ilert(browser, browser.get("/function/it/"))
    page = browser.get(landed)
    assert page.context["connect_url"] in html.unescape(page.content.decode())
    grants_only("profile source:w")
    landed = go_through_ilert(browser, {"Location": page.context["connect_url"]})
    assert browser.get(landed).content == b"it works with grace @ acme"


def test_who_granted_less_is_asked_once_for_what_was_never_asked_for(
    browser: Client, ilert: StandIn, grants_only: Callable[[str], None]
) -> None:
    grants_only("profile")
    go_through_ilert(browser, browser.get("/function/it/"))
    sent = browser.get("/greedy/")
    assert is_sent_to_connect(sent)
    assert browser.get(go_through_ilert(browser, sent)).status_code == 403


def test_who_comes_back_as_somebody_else_with_less_is_not_sent_round(
    browser: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    grants_only: Callable[[str], None],
) -> None:
    make_account(granted_scope="profile")
    grants_only("profile")
    landed = go_through_ilert(browser, browser.get("/function/it/"), username="ada")
    response = browser.get(landed)
    assert response.status_code == 403
    assert b"ada @ acme" in response.content


def test_who_comes_back_as_somebody_else_with_less_after_a_choice_is_not_sent_round(
    browser: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    grants_only: Callable[[str], None],
) -> None:
    remembered = make_account(granted_scope="profile")
    make_account(granted_scope="profile", username="linus")
    browser.post("/ilert/choose/", {"account": remembered.pk})
    grants_only("profile")
    sent = browser.get("/function/it/")
    assert query_of(sent["Location"])["account"] == str(remembered.pk)
    landed = go_through_ilert(browser, sent, username="ada")
    assert browser.get(landed).status_code == 403


def test_who_denies_ends_on_the_connect_page(browser: Client, ilert: StandIn) -> None:
    page = browser.get(browser.get("/function/it/")["Location"])
    denied: Any = browser.get(authorize(press(browser, page), allow=False))
    assert is_sent_to_connect(denied)
    assert browser.get(denied["Location"]).status_code == 200


# Several accounts


def test_who_has_several_matching_accounts_is_asked_which(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account()
    make_account(username="ada")
    response = browser.get("/function/it/?a=1")
    assert response.status_code == 302
    assert response["Location"].startswith("/ilert/choose/?")
    assert query_of(response["Location"])["next"] == "/function/it/?a=1"


def test_of_several_accounts_the_only_one_that_matches_is_taken(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile")
    make_account(username="ada")
    assert browser.get("/function/it/").content == b"it works with ada @ acme"


# Requests that no link can repeat


def test_after_a_post_the_user_comes_back_to_the_page_before(browser: Client) -> None:
    response = browser.post("/posted/", headers={"Referer": "http://testserver/form/?a=1"})
    assert query_of(response["Location"])["next"] == "http://testserver/form/?a=1"


@pytest.mark.parametrize(
    "referer", [None, "", "https://evil.example/", "javascript:alert(1)", "//evil.example"]
)
def test_after_a_post_from_elsewhere_the_user_comes_back_to_the_accounts(
    browser: Client, referer: str | None
) -> None:
    response = browser.post("/posted/", headers={"Referer": referer} if referer else {})
    assert query_of(response["Location"])["next"] == "/ilert/"


def test_a_visitor_who_posts_comes_back_to_the_page_before(db: None) -> None:
    response = Client().post("/posted/", headers={"Referer": "http://testserver/form/"})
    assert response["Location"] == "/login/?next=http%3A//testserver/form/"


# Programs


PROGRAMS: list[dict[str, Any]] = [
    {"headers": JSON},
    {"headers": {"Accept": "application/json, text/html;q=0.9"}},
    {"content_type": "application/json", "data": {}},
    {"headers": {"Accept": "*/*", "Sec-Fetch-Mode": "cors"}},
    {"headers": {"Accept": "*/*", "Sec-Fetch-Mode": "same-origin"}},
    {"headers": {"Accept": "*/*", "X-Requested-With": "XMLHttpRequest"}},
    {"headers": {"Accept": "application/json, text/html", "Sec-Fetch-Mode": "cors"}},
]
BROWSERS: list[dict[str, Any]] = [
    {},
    {"headers": {"Accept": "*/*"}},
    {"headers": {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}},
    {"headers": {"Accept": "text/html, application/json;q=0.9"}},
    {"headers": {"Accept": "image/png"}},
    {"headers": {"Accept": "*/*", "Sec-Fetch-Mode": "navigate"}},
    {"headers": {"Accept": "*/*", "Sec-Fetch-Mode": "no-cors"}},
    {"headers": {"Accept": "*/*", "X-Requested-With": "com.example.browser"}},
    {"headers": {"Accept": "text/html, */*;q=0.5", "Sec-Fetch-Mode": "cors"}},
    {"headers": {"Accept": "text/html, */*", "X-Requested-With": "XMLHttpRequest"}},
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_gets_json(browser: Client, program: Any) -> None:
    response = browser.post("/posted/", **program)
    assert response.status_code == 401
    assert response.json()["error"] == "account_required"


@pytest.mark.parametrize("kind", BROWSERS)
def test_anything_else_is_redirected(browser: Client, kind: Any) -> None:
    assert is_sent_to_connect(browser.get("/function/it/", **kind))


@pytest.fixture
def login_required(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, LOGIN_REQUIRED]


def test_views_of_the_site_need_a_login_under_its_middleware(
    db: None, login_required: None
) -> None:
    assert Client().get("/plain/", headers=JSON).status_code == 302


@pytest.mark.parametrize("path", [path for path in GUARDED if "method" not in path])
def test_under_the_middleware_that_asks_for_a_login_a_program_gets_its_401(
    db: None, login_required: None, path: str
) -> None:
    assert Client().get(path, headers=JSON).json()["error"] == "login_required"


@pytest.mark.parametrize("path", [path for path in GUARDED if "method" in path])
def test_a_class_of_which_a_method_is_guarded_is_left_to_that_middleware(
    db: None, login_required: None, path: str
) -> None:
    assert Client().get(path, headers=JSON).status_code == 302


@each_kind
def test_a_program_without_a_user_is_told_where_to_log_in(
    db: None, settings: Any, path: str
) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if name != LOGIN_REQUIRED]
    response = Client().get(path, headers=JSON)
    assert response.status_code == 401
    assert response.json() == {
        "error": "login_required",
        "login_url": "/login/?next=/ilert/",
        "connect_url": "/ilert/connect/?next=%2Filert%2F",
    }


@each_unusable
def test_a_program_with_an_unusable_account_is_told_to_reconnect(
    browser: Client, make_account: AccountFactory, settings: Any, make_unusable: Any
) -> None:
    account = make_unusable(make_account, settings)
    response = browser.get("/function/it/", headers=JSON)
    assert response.status_code == 401
    body = response.json()
    assert body["error"] == "reconnect_required"
    assert query_of(body["connect_url"])["account"] == str(account.pk)


@pytest.mark.parametrize("requested", ["profile", "profile source:w alert:w"])
def test_a_program_is_told_the_scopes_that_are_missing(
    browser: Client, make_account: AccountFactory, requested: str
) -> None:
    make_account(granted_scope="profile alert:w", requested_scope=requested)
    response = browser.get("/greedy/", headers=JSON)
    assert response.status_code == 403
    body = response.json()
    assert (body["error"], body["missing_scopes"]) == ("insufficient_scope", ["source:w"])
    assert body["connect_url"].startswith(CONNECT)


def test_a_program_is_told_where_its_user_can_choose(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account()
    make_account(username="ada")
    response = browser.get("/function/it/", headers=JSON)
    assert response.status_code == 403
    body = response.json()
    assert body["error"] == "account_choice_required"
    assert body["choose_url"].startswith("/ilert/choose/?")


def test_the_user_of_a_program_comes_back_to_the_page_it_runs_on(browser: Client) -> None:
    headers = JSON | {"Referer": "http://testserver/dashboard/"}
    body = browser.get("/function/it/", headers=headers).json()
    assert query_of(body["connect_url"])["next"] == "http://testserver/dashboard/"


@pytest.mark.parametrize("headers", [{}, JSON])
@pytest.mark.parametrize("who", ["visitor", "nobody connected", "granted less", "several"])
def test_no_cache_keeps_what_a_user_was_told(
    browser: Client, make_account: AccountFactory, who: str, headers: dict[str, str]
) -> None:
    if who == "granted less":
        make_account(granted_scope="profile", requested_scope="source:w")
    if who == "several":
        make_account()
        make_account(username="ada")
    client = Client() if who == "visitor" else browser
    response = client.get("/function/it/", headers=headers)
    assert response.status_code in (302, 401, 403)
    assert "no-store" in response["Cache-Control"]
    looked_at = {"Accept", "Sec-Fetch-Mode", "X-Requested-With", "Cookie"}
    assert looked_at <= {name.strip() for name in response["Vary"].split(",")}


# Links of a site's own


@pytest.fixture
def request_of(user: User) -> HttpRequest:
    request = RequestFactory().get("/page/", {"a": "1"})
    request.user = user
    return request


def test_a_link_asks_for_scopes_and_leads_back_to_its_page(request_of: HttpRequest) -> None:
    query = query_of(connect_url(request_of, scopes="source:w"))
    assert query.keys() == {"next", "scopes"}
    assert query["next"] == "/page/?a=1"
    assert signed_scopes.unsign(request_of.user, query["scopes"]) == "source:w"


def test_a_link_may_lead_elsewhere_and_name_an_account(
    request_of: HttpRequest, account: ConnectedAccount
) -> None:
    url = connect_url(request_of, next_url="/after/", account=account)
    assert query_of(url) == {"next": "/after/", "account": str(account.pk)}
    assert connect_url(request_of, next_url="") == CONNECT
