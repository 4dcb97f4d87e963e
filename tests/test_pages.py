"""What the pages say, and how they are built."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import constants
from django.contrib.messages.storage.base import Message
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth.error_messages import explain
from django_ilert_oauth.exceptions import AuthorizationDeniedError, IlertRejectedError
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.templatetags.ilert_oauth_times import ago
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.conftest import AccountFactory, People
from tests.support import docs
from tests.support.html_page import Element, Page

ROOT = Path(__file__).parents[1]
ACCOUNTS, CONNECT, CALLBACK = "/ilert/", "/ilert/connect/", "/ilert/callback/"


def card(browser: Client) -> Page:
    """The only account's card."""
    html = browser.get(ACCOUNTS).content.decode()
    _before, article, rest = html.partition("<article")
    return Page(f"<body>{article}{rest.partition('</article>')[0]}</article></body>")


def columns_of(state: str) -> dict[str, Any]:
    """``unreadable`` needs ``spoil`` besides."""
    return {
        "connected": {},
        "unreadable": {},
        "revoked": {"status": Status.RECONNECT_REQUIRED, "reason": Reason.REVOKED_AT_ILERT},
        "expired": {"status": Status.RECONNECT_REQUIRED, "reason": Reason.EXPIRED},
        "disconnected": {"status": Status.DISCONNECTED, "reason": Reason.USER},
        "disconnected by an administrator": {"status": Status.DISCONNECTED, "reason": Reason.ADMIN},
    }[state]


@pytest.fixture
def make_in_state(make_account: AccountFactory) -> Callable[..., ConnectedAccount]:
    def make(state: str, **columns: Any) -> ConnectedAccount:
        account = make_account(**{**columns_of(state), **columns})
        if account.status == Status.DISCONNECTED:
            account.access_token = account.refresh_token = ""
        if state == "unreadable":
            account.access_token_ciphertext = "broken"
        account.save()
        return account

    return make


# The accounts page


def test_disconnected_accounts_come_last_and_dim(browser: Client, make_in_state: Any) -> None:
    make_in_state("disconnected", username="ada")
    make_in_state("connected", username="grace")
    page = Page.of(browser.get(ACCOUNTS))
    assert page.texts("h2") == ["grace @ acme", "ada @ acme"]
    assert ["ilert-disconnected" in card.classes for card in page.all("article")] == [False, True]


def test_the_chosen_account_is_marked_with_a_way_to_change_it(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account()
    chosen = make_account(username="heidi")
    browser.post("/ilert/choose/", {"account": chosen.pk})
    page = Page.of(browser.get(ACCOUNTS))
    assert page.texts("p", "ilert-chosen") == [
        "This site works with this account for you. Choose another"
    ]
    assert page.text.index("heidi @ acme") < page.text.index("This site works with this account")


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_choice_no_account_is_marked(browser: Client, people: People, count: int) -> None:
    people(count)
    assert Page.of(browser.get(ACCOUNTS)).texts("p", "ilert-chosen") == []


def test_the_choice_page_marks_the_one_chosen_now(browser: Client, people: People) -> None:
    chosen = people(2)[0]
    browser.post("/ilert/choose/", {"account": chosen.pk})
    buttons = Page.of(browser.get("/ilert/choose/")).all("button")
    marked = {b.text: b.attributes.get("aria-current") for b in buttons}
    assert marked == {"user-0 @ acme chosen now": "true", "user-1 @ acme": None}


@pytest.mark.parametrize(
    ("state", "status", "colour", "note"),
    [
        ("connected", "connected", "ilert-connected", "This site may:"),
        (
            "revoked",
            "needs reconnecting: access was revoked at ilert",
            "ilert-reconnect_required",
            "Until it is reconnected, this site can do nothing in ilert for you.",
        ),
        (
            "expired",
            "needs reconnecting: access has expired",
            "ilert-reconnect_required",
            "Until it is reconnected, this site can do nothing in ilert for you.",
        ),
        (
            "unreadable",
            "cannot be read: reconnect",
            "ilert-error",
            "This site can no longer decrypt what it has stored for this account.",
        ),
        (
            "disconnected",
            "disconnected",
            "ilert-disconnected",
            "This site can do nothing in ilert for you.",
        ),
        (
            "disconnected by an administrator",
            "disconnected",
            "ilert-disconnected",
            "An administrator of this site disconnected it.",
        ),
    ],
)
def test_a_card_says_its_state_in_words_and_in_colour(
    browser: Client, make_in_state: Any, state: str, status: str, colour: str, note: str
) -> None:
    make_in_state(state)
    page = card(browser)
    shown = page.one("span", "ilert-badge")
    assert (shown.text, shown.classes) == (status, {"ilert-badge", colour})
    assert note in page.text


@pytest.mark.parametrize(
    ("state", "button", "classes", "links"),
    [
        ("connected", "Reconnect", {"ilert-button", "ilert-quiet"}, ["Disconnect"]),
        ("revoked", "Reconnect", {"ilert-button"}, ["Disconnect"]),
        ("unreadable", "Reconnect", {"ilert-button"}, ["Disconnect"]),
        ("disconnected", "Connect again", {"ilert-button", "ilert-quiet"}, []),
    ],
)
def test_the_first_button_of_a_card_stands_out_where_it_is_needed(
    browser: Client,
    make_in_state: Any,
    state: str,
    button: str,
    classes: set[str],
    links: list[str],
) -> None:
    make_in_state(state)
    page = card(browser)
    first = page.all("button")[0]
    assert (first.text, first.classes) == (button, classes)
    assert page.texts("a") == links


@pytest.mark.parametrize("state", ["connected", "revoked", "unreadable", "disconnected"])
def test_the_button_of_a_card_leads_to_ilert(
    browser: Client, make_in_state: Any, state: str
) -> None:
    make_in_state(state)
    page = card(browser)
    fields = {
        field.attributes["name"]: field.attributes["value"]
        for field in page.all("input")
        if field.attributes["name"] != "csrfmiddlewaretoken"
    }
    response = browser.post(page.one("form").attributes["action"], fields)
    assert "/t/acme/api/developers/oauth2/authorize?" in response["Location"]


def test_a_card_names_the_person_and_the_tenant(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(display_name="Grace Hopper")
    page = card(browser)
    assert page.texts("h2") == ["grace @ acme"]
    assert page.texts("p", "ilert-name") == ["Grace Hopper"]


def test_a_card_says_in_words_what_the_site_may_do(
    browser: Client, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile source:w")
    assert card(browser).texts("li") == ["See your profile", "See, create and edit alert sources"]


@pytest.mark.parametrize("state", ["revoked", "unreadable", "disconnected"])
def test_a_card_promises_nothing_that_the_site_can_not_do(
    browser: Client, make_in_state: Any, state: str
) -> None:
    make_in_state(state)
    assert card(browser).texts("li") == []
    assert "This site may:" not in card(browser).text


def test_a_card_without_rights_lists_none(browser: Client, make_account: AccountFactory) -> None:
    account = make_account()
    ConnectedAccount.objects.update(granted_scope="")
    assert account.status == Status.CONNECTED
    assert "This site may:" not in card(browser).text


def facts(page: Page) -> dict[str, str]:
    return dict(zip(page.texts("dt"), page.texts("dd"), strict=True))


def test_times_are_relative_with_the_exact_time_beside(
    browser: Client, make_account: AccountFactory
) -> None:
    connected_at = timezone.now() - timedelta(days=3)
    make_account(
        connected_at=connected_at, refreshed_at=timezone.now() - timedelta(minutes=3, seconds=5)
    )
    page = card(browser)
    connected, refreshed = page.all("time")
    assert (connected.text, refreshed.text) == ("3 days ago", "3 minutes ago")
    exact = connected.attributes["title"]
    assert exact.endswith(" UTC")
    assert str(connected_at.year) in exact
    assert page.texts("span", "ilert-exact")[0] == f"({exact})"
    shown = datetime.fromisoformat(connected.attributes["datetime"])
    assert shown.replace(tzinfo=None) == connected_at.replace(tzinfo=None, microsecond=0)


@pytest.mark.parametrize(
    ("state", "labels"),
    [
        ("connected", ["Connected"]),
        ("unreadable", ["Connected"]),
        ("revoked", ["Connected", "Access ended"]),
        ("disconnected", ["Connected", "Disconnected"]),
    ],
)
def test_a_card_says_when_what_happened(
    browser: Client, make_in_state: Any, state: str, labels: list[str]
) -> None:
    long_ago = timezone.now() - timedelta(days=800)
    account = make_in_state(
        state, connected_at=long_ago, status_changed_at=long_ago + timedelta(days=400)
    )
    told = facts(card(browser))
    assert list(told) == labels
    assert told["Connected"].startswith("2 years ago")
    assert [told[label][:10] for label in labels[1:]] == ["1 year ago"] * len(labels[1:])
    account.refreshed_at = timezone.now()
    account.save()
    assert facts(card(browser))["Last refreshed"].startswith("just now")


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-90), "just now"),
        (timedelta(seconds=5), "just now"),
        (timedelta(seconds=65), "1 minute ago"),
        (timedelta(minutes=59, seconds=50), "59 minutes ago"),
        (timedelta(minutes=61), "1 hour ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(hours=25), "1 day ago"),
        (timedelta(days=29, hours=5), "29 days ago"),
        (timedelta(days=31), "1 month ago"),
        (timedelta(days=364), "12 months ago"),
        (timedelta(days=366), "1 year ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(age: timedelta, words: str) -> None:
    assert ago(timezone.now() - age) == words


def test_large_numbers_of_accounts_are_not_written_with_separators(
    browser: Client, make_account: AccountFactory, settings: Any
) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    settings.NUMBER_GROUPING = 3
    make_account(pk=1234567)
    page = card(browser)
    assert "1234567" in [field.attributes["value"] for field in page.all("input")]
    assert page.one("h2").attributes["id"] == "ilert-account-1234567"


def test_an_empty_page_explains_and_invites(browser: Client) -> None:
    page = Page.of(browser.get(ACCOUNTS))
    assert page.texts("h2") == ["No ilert account is connected yet."]
    assert "you can disconnect the account here at any time" in page.text
    link = page.one("a")
    assert (link.text, link.attributes["href"]) == ("Connect an ilert account", CONNECT)


def test_who_has_an_account_may_connect_another(browser: Client, account: ConnectedAccount) -> None:
    page = Page.of(browser.get(ACCOUNTS))
    assert [link.attributes["href"] for link in page.all("a", "ilert-button")] == [CONNECT]
    assert page.texts("a", "ilert-button") == ["Connect another ilert account"]


def test_the_number_of_queries_does_not_grow_with_the_accounts(
    browser: Client, make_in_state: Any
) -> None:
    counts = []
    for names in ["ab", "cdefghijklmn"]:
        for number, name in enumerate(names):
            make_in_state(["connected", "revoked", "unreadable"][number % 3], username=name)
        with CaptureQueriesContext(connection) as queries:
            page = Page.of(browser.get(ACCOUNTS))
        counts.append(len(queries))
    assert len(page.all("article")) == 14
    assert counts[0] == counts[1]


# Failures at the callback


def callback_with(browser: Client, **query: str) -> Page:
    """The page that the user ends on when ilert sends this back."""
    leaving: Any = browser.post(CONNECT)
    state = dict(parse_qsl(urlsplit(leaving["Location"]).query))["state"]
    return Page.of(browser.get(CALLBACK, {"state": state, **query}, follow=True))


def alert(page: Page) -> str:
    [message] = [element for element in page.elements if element.attributes.get("role") == "alert"]
    return message.text


ERROR_MESSAGES = {
    "access_denied": "Access was declined at ilert",
    "server_error": "ilert is having problems right now.",
    "temporarily_unavailable": "ilert is having problems right now.",
    "invalid_client": "This site is not set up correctly for ilert",
    "invalid_request": "This site is not set up correctly for ilert",
    "invalid_scope": "This site is not set up correctly for ilert",
    "unauthorized_client": "This site is not set up correctly for ilert",
    "unsupported_response_type": "This site is not set up correctly for ilert",
    "something_new": "ilert did not accept the request",
}


@pytest.mark.parametrize("code", ERROR_MESSAGES)
def test_what_ilert_sends_back_has_a_message_without_its_code(
    browser: Client, ilert: StandIn, code: str
) -> None:
    page = callback_with(browser, error=code, error_description="words of ilert")
    assert alert(page).startswith(ERROR_MESSAGES[code])
    assert code not in page.html
    assert "words of ilert" not in page.html


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(429), "ilert is too busy to respond right now."),
        (Fault(503), "ilert is having problems right now."),
        (Fault(drop=True), "ilert could not be reached."),
        (Fault(200, "<html>"), "ilert could not be reached."),
        (Fault(401, '{"code": "invalid_client"}'), "This site is not set up correctly for ilert"),
        (Fault(400, '{"code": "invalid_grant"}'), "ilert did not accept the request"),
        (Fault(400, '{"code": "access_denied"}'), "ilert did not accept the request"),
    ],
)
def test_what_goes_wrong_between_the_servers_has_a_message(
    browser: Client, ilert: StandIn, fault: Fault, message: str
) -> None:
    ilert.add_fault("token", fault)
    page = callback_with(browser, code="the-code")
    assert alert(page).startswith(message)
    assert page.texts("button") == ["Go to ilert"]


def test_a_denial_between_the_servers_is_not_laid_to_the_user() -> None:
    code = "access_denied"
    rejected, denied = IlertRejectedError("", code=code), AuthorizationDeniedError("", code=code)
    assert explain(rejected) != explain(denied)


def test_a_used_request_and_one_that_expired_are_distinguished(
    browser: Client, ilert: StandIn
) -> None:
    leaving: Any = browser.post(CONNECT)
    url = authorize(leaving["Location"])
    ilert.add_fault("token", Fault(503))
    browser.get(url, follow=True)
    used = alert(Page.of(browser.get(url, follow=True)))
    assert used.startswith("This request to connect has ended: it has already been used.")
    unknown = alert(Page.of(browser.get(CALLBACK, {"state": "unknown"}, follow=True)))
    assert unknown.startswith("This request to connect has ended: it took more than ten minutes")


def test_who_is_logged_out_meanwhile_is_told_after_the_next_login(
    browser: Client, user: User, ilert: StandIn
) -> None:
    leaving: Any = browser.post(CONNECT)
    url = authorize(leaving["Location"])
    browser.logout()
    browser.get(url)
    browser.force_login(user)
    page = Page.of(browser.get(ACCOUNTS))
    assert alert(page).startswith("You were no longer logged in here")


def test_a_reference_leads_from_the_page_to_the_log(
    browser: Client, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    references = []
    for error in ("access_denied", "invalid_scope"):
        caplog.clear()
        text = alert(callback_with(browser, error=error))
        [reference] = re.findall(r" Reference: ([0-9a-f]{8})$", text)
        [line] = [line for line in caplog.messages if reference in line]
        assert line.startswith("An ilert account was not connected: ")
        assert line.endswith(f"({error}, reference {reference})")
        references.append(reference)
    assert len(set(references)) == 2


def test_every_way_to_fail_has_a_reference_in_the_log(
    browser: Client, ilert: StandIn, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ILERT_OAUTH_CLIENT_ID = None
    page = Page.of(browser.post(CONNECT, follow=True))
    [reference] = re.findall(r"Reference: ([0-9a-f]{8})$", alert(page))
    assert "This site is not set up correctly for ilert" in page.text
    assert "ILERT_OAUTH_CLIENT_ID" not in page.html
    assert f"ILERT_OAUTH_CLIENT_ID is not set. (setting, reference {reference})" in caplog.text


# Disconnecting


def test_the_disconnect_page_says_what_stops_and_what_may_go_on(
    browser: Client, account: ConnectedAccount
) -> None:
    page = Page.of(browser.get(f"/ilert/{account.pk}/disconnect/"))
    assert "what it does there on your behalf stops working" in page.text
    assert page.texts("li") == ["See your profile", "See, create and edit alert sources"]
    assert "up to an hour" in page.text
    button = page.one("button")
    assert (button.text, button.classes) == ("Disconnect", {"ilert-button", "ilert-danger"})
    assert [(a.text, a.attributes["href"]) for a in page.all("a")] == [("Back", ACCOUNTS)]


def test_the_disconnect_page_lists_no_rights_where_there_are_none(
    browser: Client, account: ConnectedAccount
) -> None:
    ConnectedAccount.objects.update(granted_scope="")
    page = Page.of(browser.get(f"/ilert/{account.pk}/disconnect/"))
    assert page.texts("li") == []
    assert "It may then no longer:" not in page.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_disconnected_already_is_not_asked_again(
    browser: Client, make_in_state: Any, method: str
) -> None:
    account = make_in_state("disconnected")
    response: Any = browser.generic(method, f"/ilert/{account.pk}/disconnect/")
    assert response.status_code == 302
    assert response["Location"] == ACCOUNTS
    page = Page.of(browser.get(ACCOUNTS))
    assert page.one("p", "ilert-info").text == "grace @ acme is disconnected already."


# How every page is built


@pytest.fixture
def pages(browser: Client, make_in_state: Any) -> dict[str, Page]:
    """Each page in each of its states, with messages of each kind."""
    shown = {"empty": Page.of(browser.get(ACCOUNTS))}
    for number, state in enumerate(["connected", "revoked", "unreadable", "disconnected"]):
        made = make_in_state(state, username=f"user-{number}", display_name="Grace <b>Hopper")
        browser.get(f"/ilert/{made.pk}/disconnect/")
    browser.get(CALLBACK, {"state": "unknown"})
    shown["accounts"] = Page.of(browser.get(ACCOUNTS))
    alive = ConnectedAccount.objects.connected().latest("pk")
    shown["disconnect"] = Page.of(browser.get(f"/ilert/{alive.pk}/disconnect/"))
    shown["connect"] = Page.of(browser.get(CONNECT))
    shown["choose"] = Page.of(browser.get("/ilert/choose/"))
    context = {"account": alive, "connect_url": CONNECT, "sentences": ["See alerts"]}
    shown["less"] = Page(render_to_string("ilert_oauth/scopes_missing.html", context))
    shown["failed"] = callback_with(browser, error="access_denied")
    shown["refused"] = Page.of(browser.post(CONNECT, {"tenant": "no.host", "account": "0"}))
    shown["reconnect"] = Page.of(browser.get(CONNECT, {"account": alive.pk}))
    browser.post(f"/ilert/{alive.pk}/disconnect/")
    shown["disconnected"] = Page.of(browser.get(ACCOUNTS))
    return shown


def strangers(page: Page, element: Element) -> list[str]:
    """What a Content-Security-Policy of ``default-src 'self'`` would not let pass."""
    inline = [name for name in element.attributes if name == "style" or name.startswith("on")]
    links = [element.attributes.get(name, "") for name in ("src", "href", "action", "srcset")]
    away = [link for link in links if link and not re.match(r"/(?!/)", link)]
    return [*inline, *away, *({element.tag} & {"style", "script", "iframe", "object", "base"})]


def test_no_page_needs_more_than_its_own_site(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        found = [(element, strangers(page, element)) for element in page.elements]
        assert [item for item in found if item[1]] == [], name


def test_the_style_sheet_fetches_nothing() -> None:
    style = ROOT / "django_ilert_oauth/static/ilert_oauth/style.css"
    assert not re.search(r"url\(|@import|https?:|//", style.read_text())


def test_each_page_has_its_language_its_title_and_its_landmark(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert page.one("html").attributes["lang"] == "en-us", name
        assert page.one("title").text, name
        outside = [e for e in page.elements if "body" in e.ancestors and "main" not in e.ancestors]
        assert [element.tag for element in outside] == ["main"], name


def test_headings_begin_with_one_h1_and_skip_no_level(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
        assert levels.count(1) == 1, name
        assert levels[0] == 1, name
        assert all(after - before <= 1 for before, after in pairwise(levels)), name


def test_ids_are_used_once_and_what_is_referred_to_is_there(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
        assert len(ids) == len(set(ids)), name
        referring = ("aria-labelledby", "aria-describedby", "for")
        referred = {
            target
            for element in page.elements
            for attribute in referring
            for target in element.attributes.get(attribute, "").split()
        }
        assert referred <= set(ids), name


def test_each_field_that_is_seen_has_a_label(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        labelled = {label.attributes["for"] for label in page.all("label")}
        fields = [e for e in page.all("input") if e.attributes.get("type") != "hidden"]
        assert all(field.attributes.get("id") in labelled for field in fields), name


def test_links_lead_on_and_buttons_send_forms(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert all(link.attributes.get("href") for link in page.all("a")), name
        assert all("form" in button.ancestors for button in page.all("button")), name


def test_the_role_of_a_message_matches_its_weight(pages: dict[str, Page]) -> None:
    roles = {
        next(iter(element.classes - {"ilert-message"})): element.attributes["role"]
        for page in pages.values()
        for element in page.all("p", "ilert-message")
    }
    assert roles == {
        "ilert-error": "alert",
        "ilert-info": "status",
        "ilert-success": "status",
        "ilert-warning": "alert",
    }


@pytest.mark.parametrize(
    ("level", "class_name", "role"),
    [
        (constants.DEBUG, "ilert-info", "status"),
        (constants.INFO, "ilert-info", "status"),
        (constants.SUCCESS, "ilert-success", "status"),
        (constants.WARNING, "ilert-warning", "alert"),
        (constants.ERROR, "ilert-error", "alert"),
        (constants.ERROR + 5, "ilert-error", "alert"),
    ],
)
def test_a_message_is_coloured_by_its_level_whatever_the_site_calls_it(
    level: int, class_name: str, role: str
) -> None:
    message = Message(level, "Careful & calm", extra_tags="danger")
    context = {"messages": [message], "DEFAULT_MESSAGE_LEVELS": constants.DEFAULT_LEVELS}
    shown = Page(render_to_string("ilert_oauth/messages.html", context)).one("p")
    assert (shown.text, shown.attributes) == (
        "Careful & calm",
        {"class": f"ilert-message {class_name}", "role": role},
    )


# A site's own elements and frame


@pytest.mark.parametrize(
    ("element", "pages_with_one"),
    [
        ("button", {"empty", "accounts", "disconnect", "connect", "choose", "less", "failed"}),
        ("card", {"empty", "accounts", "disconnect", "connect", "choose", "less", "failed"}),
        ("badge", {"accounts", "choose", "disconnected"}),
        ("message", {"accounts", "failed", "refused", "disconnected"}),
    ],
)
def test_one_file_of_the_site_restyles_an_element_on_every_page(
    own_template: Any, request: Any, element: str, pages_with_one: set[str]
) -> None:
    own_template(
        f"ilert_oauth/elements/{element}.html",
        '<em class="mine"{% if href %} data-href="{{ href }}"{% endif %}{{ attrs }}>'
        "{{ content }}</em>",
    )
    shown: dict[str, Page] = request.getfixturevalue("pages")
    assert pages_with_one - {name for name, page in shown.items() if page.all("em")} == set()
    for name, page in shown.items():
        left = [e for e in page.elements if f"ilert-{element}" in e.classes or e.tag == element]
        assert left == [], name


SITE_BASE = """<!doctype html>
<title>{% block title %}{% endblock %} - My site</title>
{% block style %}{% endblock %}
<nav>My site</nav>
{% block messages %}{% include "ilert_oauth/messages.html" %}{% endblock %}
<main class="ilert-page">{% block content %}{% endblock %}</main>
"""


@pytest.fixture
def own_template(settings: Any, tmp_path: Path) -> Callable[[str, str], None]:
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]

    def write(name: str, source: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)

    return write


@pytest.fixture
def own_base(own_template: Any) -> Callable[..., None]:
    def write(source: str, **others: str) -> None:
        own_template("ilert_oauth/base.html", source)
        for name, other in others.items():
            own_template(f"{name}.html", other)

    return write


def test_one_file_of_the_site_frames_every_page(own_base: Any, request: Any) -> None:
    own_base(SITE_BASE)
    shown: dict[str, Page] = request.getfixturevalue("pages")
    for name, page in shown.items():
        assert page.one("nav").text == "My site", name
        assert page.one("title").text.removesuffix(" - My site"), name
        assert page.one("h1").ancestors[-1] == "main", name
        assert page.all("link") == [], name
    assert len(shown["accounts"].all("article")) == 4
    assert alert(shown["failed"])


def test_a_base_may_fill_the_blocks_of_the_apps_own(own_base: Any, browser: Client) -> None:
    own_base(
        '{% extends "ilert_oauth/base.html" %}'
        '{% block head %}<meta name="mine">{% endblock %}'
        "{% block header %}<nav>My site</nav>{% endblock %}"
        "{% block footer %}<footer>Imprint</footer>{% endblock %}"
    )
    page = Page.of(browser.get(ACCOUNTS))
    assert {"name": "mine"} in [meta.attributes for meta in page.all("meta")]
    body = [element.tag for element in page.elements if element.ancestors == ("html", "body")]
    assert body == ["nav", "main", "footer"]
    assert page.one("h1").text == "Your ilert accounts"


def test_the_frame_that_the_guide_shows_works(own_base: Any, browser: Client) -> None:
    [example] = [
        block for block in docs.blocks("html+django", "docs/guides/templates") if "extends" in block
    ]
    site = "<title>{% block title %}{% endblock %}</title>{% block head %}{% endblock %}"
    own_base(example, base=f"{site}<main>{{% block main %}}{{% endblock %}}</main>")
    page = Page.of(browser.get(CALLBACK, {"state": "unknown"}, follow=True))
    assert page.one("title").text == "Your ilert accounts"
    assert page.one("link").attributes["href"] == "/static/ilert_oauth/style.css"
    assert page.one("div", "ilert-page").text.startswith(alert(page))


def test_the_blocks_of_the_base_are_those_that_the_reference_names() -> None:
    base = ROOT / "django_ilert_oauth/templates/ilert_oauth/base.html"
    blocks = re.findall(r"{% block (\w+) %}", base.read_text())
    assert list(docs.rows("Block")) == blocks


def test_the_variables_that_the_reference_names_are_those_of_the_style_sheet() -> None:
    style = (ROOT / "django_ilert_oauth/static/ilert_oauth/style.css").read_text()
    root = style.partition(":where(:root) {")[2].partition("}")[0]
    named = docs.text("docs/reference/templates")
    assert set(re.findall(r"``(--ilert-[\w-]+)``", named)) == set(
        re.findall(r"--[\w-]+(?=:)", root)
    )
