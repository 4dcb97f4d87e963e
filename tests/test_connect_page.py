from __future__ import annotations

import html
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from django.conf import settings as site_settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.forms.renderers import get_default_renderer
from django.test import Client, RequestFactory

from django_ilert_oauth import flows
from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount, Status
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support.connect_steps import CONNECT, press, query_of, scopes_asked_at_ilert
from tests.support.guarded_site import GUARDED

FOREIGN = "The link that brought you here was made for somebody else or is incomplete"
OLD = "The link or page that brought you here is more than an hour old."
NEW = '<span class="ilert-badge ilert-new">new</span>'

BAD_TENANT = "Enter your ilert address, such as acme.ilert.com, or just its first part."


def text_of(page: Any) -> str:
    assert page.status_code == 200
    return html.unescape(page.content.decode())


def lines_of(page: Any) -> list[str]:
    """What is asked for, each with its mark."""
    listed = text_of(page).partition('<ul class="ilert-scopes">')[2].partition("</ul>")[0]
    return [line.partition("</li>")[0].strip() for line in listed.split("<li>")[1:]]


def has_tenant_field(page: Any) -> bool:
    return 'name="tenant"' in text_of(page)


def signed(user: User, scopes: str = "source:w") -> str:
    return signed_scopes.sign(user, scopes)


# What is asked for


def test_signed_scopes_are_asked_for_besides_the_usual(browser: Client, user: User) -> None:
    page = browser.get(CONNECT, {"scopes": signed(user)})
    assert lines_of(page) == ["See your profile", f"See, create and edit alert sources {NEW}"]
    assert scopes_asked_at_ilert(browser, page) == {"profile", "source:w"}


def test_the_usual_is_not_marked_as_new(browser: Client) -> None:
    assert lines_of(browser.get(CONNECT)) == ["See your profile"]


def test_an_account_is_asked_for_what_it_has_and_what_is_new(
    browser: Client, user: User, make_account: AccountFactory
) -> None:
    account = make_account(granted_scope="profile alert:w source")
    page = browser.get(f"{CONNECT}?account={account.pk}&scopes={signed(user)}")
    assert lines_of(page) == [
        "See your profile",
        f"See, create and edit alert sources {NEW}",
        "See, create and edit alerts",
    ]
    assert scopes_asked_at_ilert(browser, page) == {"profile", "alert:w", "source:w"}


def test_what_was_asked_for_before_and_not_granted_is_new(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(granted_scope="profile", requested_scope="profile source:w")
    page = browser.get(CONNECT, {"account": account.pk})
    assert lines_of(page)[1] == f"See, create and edit alert sources {NEW}"


def test_an_unknown_scope_is_shown_as_text(browser: Client, user: User) -> None:
    page = browser.get(CONNECT, {"scopes": signed(user, "<b>bold</b>")})
    assert b"&lt;b&gt;bold" in page.content
    assert b"<b>bold" not in page.content


# What nobody signed for this user


def expired(user: User, monkeypatch: pytest.MonkeyPatch) -> str:
    made = signed(user)
    later = time.time() + 3700
    monkeypatch.setattr("django.core.signing.time.time", lambda: later)
    return made


def foreign(user: User, monkeypatch: pytest.MonkeyPatch) -> str:
    return signed(User.objects.create_user("other"))


def forged(user: User, monkeypatch: pytest.MonkeyPatch) -> str:
    return signed(user).replace(":", "A:", 1)


def by_hand(user: User, monkeypatch: pytest.MonkeyPatch) -> str:
    return "source:w"


each_fake = pytest.mark.parametrize("make", [foreign, forged, by_hand])


@each_fake
def test_what_does_not_hold_is_said_and_not_asked_for(
    browser: Client, user: User, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    page = browser.get(CONNECT, {"scopes": make(user, monkeypatch), "next": "/after/"})
    assert FOREIGN in text_of(page)
    assert lines_of(page) == ["See your profile"]
    assert scopes_asked_at_ilert(browser, page) == {"profile"}


@each_fake
def test_a_post_never_asks_for_less_without_a_word(
    browser: Client, user: User, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    page = browser.post(CONNECT, {"scopes": make(user, monkeypatch)})
    assert FOREIGN in text_of(page)
    assert scopes_asked_at_ilert(browser, page) == {"profile"}


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_old_link_or_page_asks_once_more_for_what_it_shows(
    browser: Client, user: User, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    page = getattr(browser, method)(CONNECT, {"scopes": expired(user, monkeypatch)})
    assert OLD in text_of(page)
    assert lines_of(page)[1] == f"See, create and edit alert sources {NEW}"
    assert scopes_asked_at_ilert(browser, page) == {"profile", "source:w"}


def test_without_scopes_there_is_nothing_to_complain_about(browser: Client) -> None:
    assert "The link" not in text_of(browser.get(CONNECT))


def test_a_null_character_is_no_error(browser: Client) -> None:
    assert browser.get(CONNECT, {"scopes": "a\x00b"}).status_code == 200
    assert browser.post(CONNECT, {"scopes": "a\x00b"}).status_code == 200


def test_a_page_that_is_shown_again_keeps_what_was_asked(browser: Client, user: User) -> None:
    again = browser.post(CONNECT, {"scopes": signed(user), "tenant": "not a tenant"})
    assert BAD_TENANT in text_of(again)
    assert scopes_asked_at_ilert(browser, again, tenant="acme") == {"profile", "source:w"}


def test_the_query_of_a_forms_address_counts_where_its_body_says_nothing(
    browser: Client, user: User
) -> None:
    left: Any = browser.post(f"{CONNECT}?scopes={signed(user)}&next=/query/", {"next": "/body/"})
    assert set(query_of(left["Location"])["scope"].split()) == {"profile", "source:w"}
    assert [row.next_url for row in AuthorizationRequest.objects.all()] == ["/body/"]


def test_back_leads_where_the_user_came_from(browser: Client) -> None:
    assert '<a href="/settings/">Back</a>' in text_of(browser.get(f"{CONNECT}?next=/settings/"))
    assert '<a href="/ilert/">Back</a>' in text_of(browser.get(f"{CONNECT}?next=//evil.example"))


@pytest.mark.parametrize(
    "path", ["/without-parentheses/?page=2", "/ilert/", *(f"/{kind}/x/" for kind in GUARDED)]
)
def test_back_leads_to_no_page_that_would_only_send_the_user_here_again(
    browser: Client, settings: Any, path: str
) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"
    url = f"{CONNECT}?{urlencode({'next': path})}"
    assert '<a href="/ilert/">Back</a>' in text_of(browser.get(url))
    before = {"Referer": "http://testserver/about/"}
    page = text_of(browser.get(url, headers=before))
    assert '<a href="http://testserver/about/">Back</a>' in page


@pytest.mark.parametrize(
    "next_url",
    [
        "/without-parentheses/?page=2",
        "http://testserver/without-parentheses/?page=2",
        "/function/x/",
    ],
)
def test_back_leads_to_a_guarded_page_that_was_shown(
    browser: Client, settings: Any, next_url: str
) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"
    before = "http://testserver/without-parentheses/?page=2"
    page = browser.get(CONNECT, {"next": next_url}, headers={"Referer": before})
    assert '/without-parentheses/?page=2">Back</a>' in text_of(page)


@pytest.mark.parametrize("before", ["/login/", "/ilert/connect/"])
def test_back_leads_not_to_a_page_that_was_only_on_the_way(
    browser: Client, settings: Any, before: str
) -> None:
    settings.ROOT_URLCONF = "tests.support.guarded_site"
    headers = {"Referer": f"http://testserver{before}"}
    page = browser.get(f"{CONNECT}?next=/without-parentheses/", headers=headers)
    assert '<a href="/ilert/">Back</a>' in text_of(page)


# Never less than before


def test_who_connects_without_an_account_is_asked_for_what_all_accounts_hold(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile alert:w")
    make_account(granted_scope="profile source", username="heidi")
    page = browser.get(CONNECT)
    assert lines_of(page) == [
        "See your profile",
        "See alert sources",
        "See, create and edit alerts",
    ]
    assert scopes_asked_at_ilert(browser, page) == {"profile", "alert:w", "source"}


@pytest.mark.parametrize(
    "columns",
    [{"status": Status.DISCONNECTED}, {"client_id": "another"}, {"api_url": "https://a.example"}],
)
def test_what_no_account_of_this_client_holds_is_not_asked_for(
    browser: Client, make_account: AccountFactory, columns: dict[str, Any]
) -> None:
    make_account(granted_scope="profile alert:w", **columns)
    assert scopes_asked_at_ilert(browser, browser.get(CONNECT)) == {"profile"}


def test_a_page_of_the_site_may_ask_for_less(
    browser: Client, user: User, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile alert:w")
    request = RequestFactory().get("/")
    request.user, request.session = user, browser.session
    url = flows.start_connect(request, keep_scopes=False)
    assert query_of(url)["scope"] == "profile"


# Who asks, and for which account


def test_the_page_names_the_host_of_a_site_without_a_name(browser: Client) -> None:
    assert "whether testserver may do this" in text_of(browser.get(CONNECT))


@pytest.fixture
def with_sites(settings: Any) -> Any:
    settings.INSTALLED_APPS = [*site_settings.INSTALLED_APPS, "django.contrib.sites"]
    settings.SITE_ID = 7
    from django.contrib.sites import models

    models.SITE_CACHE.clear()
    yield models
    models.SITE_CACHE.clear()
    # The first time, the app has put its model into the admin; the next test has no such app.
    if admin.site.is_registered(models.Site):
        admin.site.unregister(models.Site)


def test_the_page_names_the_site_by_its_name(browser: Client, with_sites: Any) -> None:
    with_sites.SITE_CACHE[7] = with_sites.Site(domain="a.example", name="Tom & Jerry's")
    page = browser.get(CONNECT)
    assert "whether Tom & Jerry's may do this" in text_of(page)
    assert b"Tom &amp; Jerry" in page.content


def test_a_site_whose_row_is_missing_is_named_by_its_host(
    browser: Client, with_sites: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_current(_manager: Any, _request: Any) -> Any:
        raise with_sites.Site.DoesNotExist

    monkeypatch.setattr(with_sites.SiteManager, "get_current", get_current)
    assert "whether testserver may do this" in text_of(browser.get(CONNECT))


def test_a_reconnect_names_the_account_and_its_login(
    browser: Client, account: ConnectedAccount
) -> None:
    page = text_of(browser.get(CONNECT, {"account": account.pk}))
    assert "<h1>Reconnect grace @ acme</h1>" in page
    assert "At ilert, log in as grace:" in page


def test_a_first_connect_names_no_account(browser: Client, account: ConnectedAccount) -> None:
    page = text_of(browser.get(CONNECT))
    assert "<h1>Connect an ilert account</h1>" in page
    assert "grace" not in page


def test_the_form_is_drawn_as_the_sites_renderer_draws_forms(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = get_default_renderer()
    monkeypatch.setattr(renderer, "form_template_name", "django/forms/p.html")
    assert '<p>\n    <label for="id_tenant">' in text_of(browser.get(CONNECT))


# The tenant


def test_a_first_connect_may_name_the_tenant(browser: Client) -> None:
    page = browser.get(CONNECT)
    assert has_tenant_field(page)
    assert press(browser, page, tenant="initech").startswith("https://initech.ilert.com/")


@pytest.mark.parametrize(
    ("typed", "host"),
    [
        ("acme.ilert.com", "acme.ilert.com"),
        ("  https://acme.ilert.com/alerts/?page=2#top ", "acme.ilert.com"),
        ("HTTP://Acme.ilert.com", "acme.ilert.com"),
        ("https://app.ilert.com/login", "app.ilert.com"),
        ("app.ilert.com", "app.ilert.com"),
    ],
)
def test_an_address_of_ilert_is_understood_as_it_is_typed_or_copied(
    browser: Client, typed: str, host: str
) -> None:
    left = press(browser, browser.get(CONNECT), tenant=typed)
    assert urlsplit(left).hostname == host


def test_the_address_of_an_ilert_without_tenants_in_it_names_none(
    browser: Client, ilert: StandIn, settings: Any
) -> None:
    left = press(browser, browser.get(CONNECT), tenant=settings.ILERT_OAUTH_APP_URL)
    assert left.startswith(f"{settings.ILERT_OAUTH_APP_URL}/api/")


@pytest.mark.parametrize("typed", ["acme.ilert.com.evil.example", "https://evil.example/acme"])
def test_an_address_elsewhere_is_refused(browser: Client, typed: str) -> None:
    assert BAD_TENANT in text_of(browser.post(CONNECT, {"tenant": typed}))


def test_a_site_of_one_tenant_does_not_ask_for_it(browser: Client, settings: Any) -> None:
    settings.ILERT_OAUTH_TENANT = "initech"
    page = browser.get(CONNECT)
    assert not has_tenant_field(page)
    assert press(browser, page).startswith("https://initech.ilert.com/")


@pytest.mark.parametrize("status", Status)
def test_a_reconnect_does_not_ask_for_the_tenant(
    browser: Client, make_account: AccountFactory, status: Status, settings: Any
) -> None:
    settings.ILERT_OAUTH_TENANT_URL = "https://{tenant}.ilert.test"
    account = make_account(status=status)
    page = browser.get(CONNECT, {"account": account.pk})
    assert not has_tenant_field(page)
    assert press(browser, page).startswith("https://acme.ilert.test/")


def test_a_reconnect_asks_for_a_tenant_that_is_no_address(
    browser: Client, make_account: AccountFactory
) -> None:
    account = make_account(tenant_id="Not an address")
    assert has_tenant_field(browser.get(CONNECT, {"account": account.pk}))


# How


def test_the_page_has_no_script_and_no_style_of_its_own(
    browser: Client, user: User, account: ConnectedAccount
) -> None:
    page = text_of(browser.get(f"{CONNECT}?account={account.pk}&scopes={signed(user)}")).lower()
    for inline in ("<script", "<style", "style=", "onclick", "javascript:"):
        assert inline not in page


def test_looking_at_the_page_sends_nobody_to_ilert(
    browser: Client, user: User, ilert: StandIn
) -> None:
    assert browser.get(CONNECT, {"scopes": signed(user)}).status_code == 200
    assert ilert.requests == []
    assert "ilert_oauth" not in browser.session
