from __future__ import annotations

import html
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory

from django_ilert_oauth.internal import signed_scopes
from django_ilert_oauth.internal.account_selection import remember
from django_ilert_oauth.models import Status
from tests.conftest import AccountFactory
from tests.support.connect_steps import query_of

EVERY_TAG = """
{% ilert_account as account %}{% ilert_account scopes="source:w" as writer %}
{% ilert_connect_url %}{% ilert_connect_url scopes="alert:w" %}
{% ilert_connect_button %}{% ilert_connect_button scopes="alert:w" %}
"""
WHO = "{% ilert_account scopes='source:w' as account %}{{ account|default:'nobody' }}"


@pytest.fixture
def request_of(user: User) -> HttpRequest:
    request = RequestFactory().get("/page/", {"a": "1"})
    request.user = user
    request.session = {}  # type: ignore[assignment]
    return request


def render(request: HttpRequest, template: str, **context: Any) -> str:
    loaded = Template("{% load ilert_oauth %}" + template)
    return loaded.render(RequestContext(request, context)).strip()


def link_in(button: str) -> str:
    return html.unescape(button.partition('href="')[2].partition('"')[0])


def test_a_matching_account_is_found(request_of: HttpRequest, make_account: AccountFactory) -> None:
    make_account()
    assert render(request_of, WHO) == "grace @ acme"


@pytest.mark.parametrize(
    "columns",
    [
        {"granted_scope": "profile"},
        {"status": Status.DISCONNECTED},
        {"status": Status.RECONNECT_REQUIRED},
        {"api_url": "https://api.elsewhere.example"},
    ],
)
def test_an_account_that_does_not_match_is_not_found(
    request_of: HttpRequest, make_account: AccountFactory, columns: dict[str, Any]
) -> None:
    make_account(**columns)
    assert render(request_of, WHO) == "nobody"


def test_without_scopes_any_connected_account_is_found(
    request_of: HttpRequest, make_account: AccountFactory
) -> None:
    make_account(granted_scope="profile")
    assert render(request_of, "{% ilert_account %}") == "grace @ acme"


def test_a_visitor_has_no_account(request_of: HttpRequest, make_account: AccountFactory) -> None:
    make_account()
    request_of.user = AnonymousUser()
    assert render(request_of, WHO) == "nobody"


def test_of_several_accounts_the_latest_is_found_until_one_is_chosen(
    request_of: HttpRequest, make_account: AccountFactory
) -> None:
    first = make_account()
    make_account(username="ada")
    assert render(request_of, WHO) == "ada @ acme"
    remember(request_of, first)
    assert render(request_of, WHO) == "grace @ acme"


def test_all_tags_of_a_request_take_one_query(
    request_of: HttpRequest, make_account: AccountFactory, django_assert_num_queries: Any
) -> None:
    make_account()
    make_account(username="ada", granted_scope="profile")
    with django_assert_num_queries(1):
        render(request_of, EVERY_TAG * 3)


def test_all_tags_of_a_user_without_accounts_take_one_query(
    request_of: HttpRequest, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        render(request_of, EVERY_TAG * 3)


def test_the_tags_of_a_visitor_take_no_query(
    request_of: HttpRequest, django_assert_num_queries: Any
) -> None:
    request_of.user = AnonymousUser()
    with django_assert_num_queries(0):
        render(request_of, EVERY_TAG)


def test_who_logs_in_during_a_request_is_shown_an_account_of_their_own(
    request_of: HttpRequest, make_account: AccountFactory
) -> None:
    make_account()
    assert render(request_of, WHO) == "grace @ acme"
    request_of.user = User.objects.create_user("other")
    assert render(request_of, WHO) == "nobody"
    request_of.user = User.objects.create_user("third")
    make_account(user=request_of.user, username="ada")
    assert render(request_of, WHO) == "ada @ acme"


def test_the_link_asks_for_the_scopes_and_leads_back(request_of: HttpRequest, user: User) -> None:
    query = query_of(html.unescape(render(request_of, "{% ilert_connect_url scopes='source:w' %}")))
    assert query.keys() == {"next", "scopes"}
    assert query["next"] == "/page/?a=1"
    assert signed_scopes.unsign(user, query["scopes"]) == "source:w"


def test_the_link_may_lead_elsewhere(request_of: HttpRequest) -> None:
    url = render(request_of, "{% ilert_connect_url next_url='/after/' as url %}{{ url }}")
    assert query_of(url) == {"next": "/after/"}


def test_the_link_of_a_visitor_carries_no_scopes(request_of: HttpRequest) -> None:
    request_of.user = AnonymousUser()
    url = render(request_of, "{% ilert_connect_url scopes='source:w' %}")
    assert query_of(url) == {"next": "/page/?a=1"}


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"granted_scope": "profile"}, "Allow more access"),
        ({"status": Status.RECONNECT_REQUIRED}, "Reconnect ilert"),
    ],
)
def test_the_button_reconnects_the_account_that_does_not_match(
    request_of: HttpRequest, make_account: AccountFactory, columns: dict[str, Any], text: str
) -> None:
    account = make_account(**columns)
    button = render(request_of, "{% ilert_connect_button scopes='source:w' %}")
    assert query_of(link_in(button))["account"] == str(account.pk)
    assert f">{text}</a>" in button


@pytest.mark.parametrize("matches", [True, False])
def test_the_button_connects_where_there_is_nothing_to_fix(
    request_of: HttpRequest, make_account: AccountFactory, matches: bool
) -> None:
    if matches:
        make_account()
    button = render(request_of, "{% ilert_connect_button scopes='source:w' %}")
    assert "account" not in query_of(link_in(button))
    assert ">Connect ilert</a>" in button


def test_the_button_may_have_words_of_its_own(request_of: HttpRequest) -> None:
    button = render(request_of, "{% ilert_connect_button text=words %}", words="Come <in>")
    assert ">Come &lt;in&gt;</a>" in button


def test_the_button_escapes_its_address(user: User) -> None:
    request = RequestFactory().get('/page"><script>/', {"a": '"><script>'})
    request.user, request.session = user, {}  # type: ignore[assignment]
    button = render(request, "{% ilert_connect_button scopes='source:w' %}")
    assert "script>" not in button
    assert "&amp;scopes=" in button


@pytest.mark.parametrize(
    "tag", ["ilert_account", "ilert_connect_url", "ilert_connect_button scopes='source:w'"]
)
@pytest.mark.parametrize("context", [{}, {"request": "text"}])
def test_without_the_request_each_tag_says_what_it_needs(tag: str, context: Any) -> None:
    template = Template("{% load ilert_oauth %}{% " + tag + " %}")
    with pytest.raises(ImproperlyConfigured, match=r"context_processors\.request"):
        template.render(Context(context))
