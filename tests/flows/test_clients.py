"""Several clients at once: each grant belongs to the one that it was given to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client as Browser

from django_ilert_oauth import flows
from django_ilert_oauth.decorators import connect_url
from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    IlertRejectedError,
    ReconnectRequiredError,
)
from django_ilert_oauth.flows._bulk import client_state
from django_ilert_oauth.flows._bulk.client_state import client_states
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.testing import connected_account
from ilert_standin import Client, StandIn
from ilert_standin.browser import authorize
from tests.conftest import CALLBACK, AccountFactory
from tests.flows.conftest import RequestMaker
from tests.support.connect_steps import CONNECT, press, query_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def staging(ilert: StandIn, settings: Any) -> dict[str, Any]:
    """The settings of a second client, which the stand-in knows, too."""
    ilert.options.more_clients = [Client("staging-client", "staging-secret", [CALLBACK])]
    client = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "staging-secret"}
    settings.ILERT_OAUTH_CLIENTS = {"staging": client}
    return client


@pytest.fixture
def make_staging(ilert: StandIn, user: User) -> AccountFactory:
    def make(username: str = "ada", **columns: Any) -> ConnectedAccount:
        tokens = ilert.issue_tokens("acme", username, client_id="staging-client")
        known: dict[str, Any] = {kind: tokens[kind] for kind in ("access_token", "refresh_token")}
        columns = {"username": username, "client": "staging", **known, **columns}
        return connected_account(user, **columns)

    return make


def clients_asked(ilert: StandIn) -> list[str]:
    return [made.form["client_id"] for made in ilert.token_requests]


def asked_at(url: str) -> str:
    return query_of(url)["client_id"]


def run(**options: Any) -> flows.BulkResult:
    chosen = {"per_minute": 0, "concurrency": 1, **options}
    return flows.refresh_many(ConnectedAccount.objects.all(), **chosen)


def test_an_account_is_connected_by_the_client_that_is_named(
    make_request: RequestMaker, ilert: StandIn
) -> None:
    url = flows.start_connect(make_request(), client="staging")
    assert asked_at(url) == "staging-client"
    account = flows.finish_connect(make_request(authorize(url)))
    assert account.client_id == "staging-client"
    assert clients_asked(ilert) == ["staging-client"]
    assert [account] == list(ConnectedAccount.objects.of_client("staging"))
    assert not ConnectedAccount.objects.of_client("default").exists()


def test_the_browser_goes_to_the_urls_of_the_client(
    make_request: RequestMaker, staging: dict[str, Any]
) -> None:
    staging |= {"APP_URL": "https://app.example", "TENANT_URL": "https://{tenant}.example"}
    request = make_request()
    assert flows.start_connect(request, client="staging").startswith("https://app.example/")
    url = flows.start_connect(request, client="staging", tenant="acme")
    assert url.startswith("https://acme.example/")


def test_an_account_is_reconnected_by_its_own_client_or_where_that_is_gone_by_the_default(
    make_request: RequestMaker, make_staging: AccountFactory, settings: Any
) -> None:
    account = make_staging()
    assert asked_at(flows.start_connect(make_request(), account=account)) == "staging-client"
    settings.ILERT_OAUTH_CLIENTS = {}
    assert asked_at(flows.start_connect(make_request(), account=account)) == "the-client"


def test_a_client_that_is_not_there_connects_nobody(make_request: RequestMaker) -> None:
    with pytest.raises(ImproperlyConfigured, match="no client 'nobody'"):
        flows.start_connect(make_request(), client="nobody")
    with pytest.raises(ImproperlyConfigured, match="no client 'nobody'"):
        ConnectedAccount.objects.of_client("nobody")


def test_a_signed_link_names_the_client_of_the_connect_page(
    make_request: RequestMaker, browser: Browser
) -> None:
    page: Any = browser.get(connect_url(make_request(), client="staging"))
    assert "has expired" not in page.content.decode()
    assert asked_at(press(browser, page)) == "staging-client"


def test_a_query_made_by_hand_names_no_client(browser: Browser) -> None:
    page = browser.get(CONNECT, {"client": "staging", "scopes": "staging"})
    assert asked_at(press(browser, page)) == "the-client"


def test_who_declined_is_asked_again_for_the_same_client(
    make_request: RequestMaker, browser: Browser
) -> None:
    page = browser.get(connect_url(make_request(), client="staging"))
    back: Any = browser.get(authorize(press(browser, page), allow=False))
    assert asked_at(press(browser, browser.get(back["Location"]))) == "staging-client"


def test_each_is_refreshed_checked_and_revoked_with_its_own_client(
    make_account: AccountFactory, make_staging: AccountFactory, ilert: StandIn
) -> None:
    ours, theirs = make_account(), make_staging()
    for account in (ours, theirs):
        flows.refresh(account, force=True)
        flows.check(account)
        flows.disconnect(account)
    assert clients_asked(ilert) == ["the-client", "staging-client"]
    assert ilert.live_refresh_tokens("acme", "ada") == 0


def test_a_grant_whose_client_is_gone_is_neither_sent_nor_marked(
    make_staging: AccountFactory, settings: Any, ilert: StandIn
) -> None:
    account = make_staging()
    settings.ILERT_OAUTH_CLIENTS = {}
    calls: list[Callable[[ConnectedAccount], Any]] = [
        flows.get_access_token,
        flows.refresh,
        flows.check,
    ]
    for call in calls:
        with pytest.raises(EndpointMismatchError, match="Add its client to ILERT_OAUTH_CLIENTS"):
            call(account)
    assert run().failures == {account.pk: "endpoint_mismatch"}
    checked = flows.check_many(ConnectedAccount.objects.all(), per_minute=0)
    assert checked.failures == {account.pk: "endpoint_mismatch"}
    account.refresh_from_db()
    assert (account.status, account.last_error, ilert.requests) == (Status.CONNECTED, "", [])


def test_an_account_that_another_client_has_taken_over_meanwhile_is_asked_for_by_that_one(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account()
    tokens = ilert.issue_tokens("acme", "grace", client_id="staging-client")
    stored = ConnectedAccount.objects.get()
    stored.client_id, stored.refresh_token = "staging-client", str(tokens["refresh_token"])
    stored.save()
    flows.refresh(account, force=True)
    assert clients_asked(ilert) == ["staging-client"]


def test_a_run_asks_for_each_account_by_its_own_client(
    make_account: AccountFactory, make_staging: AccountFactory, ilert: StandIn
) -> None:
    make_account(), make_staging()
    assert run() == flows.BulkResult(refreshed=2)
    assert clients_asked(ilert) == ["the-client", "staging-client"]
    result = flows.check_many(ConnectedAccount.objects.all(), per_minute=0)
    assert (result.checked, result.failed) == (2, 0)


def test_a_client_that_ilert_does_not_know_holds_up_no_other(
    make_account: AccountFactory,
    make_staging: AccountFactory,
    ilert: StandIn,
    staging: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    staging["CLIENT_SECRET"] = "wrong"
    ilert.options.client_error = "invalid_client"
    refused, _never_asked = make_staging("ada"), make_staging("bob")
    make_account(), make_account(username="eve")
    assert run() == flows.BulkResult(
        refreshed=2, failures={refused.pk: "invalid_client"}, stopped="invalid_client"
    )
    assert clients_asked(ilert) == ["staging-client", "the-client", "the-client"]
    assert "for the client staging: invalid_client" in caplog.text


def test_what_is_under_way_for_a_client_that_ilert_does_not_know_is_given_up(
    make_account: AccountFactory,
    make_staging: AccountFactory,
    ilert: StandIn,
    staging: dict[str, Any],
) -> None:
    staging["CLIENT_SECRET"] = "wrong"
    ilert.options.client_error = "invalid_client"
    for number in range(6):
        make_staging(f"user-{number}")
    make_account()
    result = run(concurrency=7, per_minute=600)
    assert (result.refreshed, result.stopped) == (1, "invalid_client")
    assert clients_asked(ilert).count("staging-client") < 6


def test_a_success_of_one_client_says_nothing_about_the_credentials_of_another(
    make_account: AccountFactory, make_staging: AccountFactory, staging: dict[str, Any]
) -> None:
    staging["CLIENT_SECRET"] = "wrong"
    refused = make_staging()
    make_account()
    result = run()
    assert (result.refreshed, result.stopped) == (1, "credentials")
    assert result.failures == {refused.pk: "invalid_grant"}
    assert ConnectedAccount.objects.connected().count() == 2


def test_an_ilert_that_is_away_holds_up_no_other(
    make_account: AccountFactory,
    make_staging: AccountFactory,
    staging: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_state, "OUTAGE", 2)
    staging["API_URL"] = "http://127.0.0.1:9"
    for name in ("ada", "bob", "eve"):
        make_staging(name)
    make_account()
    result = run()
    assert (result.refreshed, result.failed, result.stopped) == (1, 2, "outage")


def test_clients_of_one_ilert_share_its_rate_limit(settings: Any) -> None:
    elsewhere = {"CLIENT_ID": "x", "CLIENT_SECRET": "x", "API_URL": "https://api.example"}
    settings.ILERT_OAUTH_CLIENTS |= {"elsewhere": elsewhere}
    with client_states(None, mark_ended=False) as by_key:
        states = {it.name: it for it in by_key.values()}
    assert states["default"].limiter is states["staging"].limiter
    assert states["default"].limiter is not states["elsewhere"].limiter
    assert len({id(it.guard) for it in states.values()}) == 3


def test_a_secret_changes_without_downtime(
    make_account: AccountFactory, ilert: StandIn, settings: Any
) -> None:
    ilert.options.client_error = "invalid_client"
    settings.ILERT_OAUTH_CLIENT_SECRET = ["the-next-secret", "the-client-secret"]
    make_account(), make_account(username="eve"), make_account(username="bob")
    assert run() == flows.BulkResult(refreshed=3)
    secrets = [made.form["client_secret"] for made in ilert.token_requests]
    assert secrets == ["the-next-secret", *["the-client-secret"] * 3]


def test_only_a_client_that_is_refused_is_tried_with_another_secret(
    make_account: AccountFactory, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = ["the-client-secret", "the-next-secret"]
    account = make_account()
    ilert.revoke_app("acme", "grace")
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account)
    assert len(ilert.token_requests) == 1


def test_a_client_whose_secrets_are_all_refused_is_refused(
    make_account: AccountFactory, ilert: StandIn, settings: Any
) -> None:
    ilert.options.client_error = "invalid_client"
    settings.ILERT_OAUTH_CLIENT_SECRET = ["one", "two"]
    with pytest.raises(IlertRejectedError) as raised:
        flows.refresh(make_account())
    assert raised.value.code == "invalid_client"
    assert len(ilert.token_requests) == 2


def reconnect(account: ConnectedAccount, connect: Callable[..., Any]) -> None:
    connect(account=account.pk)
    account.refresh_from_db()
    assert account.client_id == "staging-client"


@pytest.mark.parametrize(
    "end",
    [
        reconnect,
        lambda account, _connect: flows.disconnect(account),
        lambda account, _connect: account.user.delete(),
    ],
    ids=["reconnect", "disconnect", "delete"],
)
def test_a_copy_of_a_site_with_a_client_of_its_own_ends_no_grant_of_the_site(
    account: ConnectedAccount,
    connect: Callable[..., Any],
    ilert: StandIn,
    settings: Any,
    staging: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    end: Callable[..., object],
) -> None:
    settings.ILERT_OAUTH_CLIENTS = {}
    settings.ILERT_OAUTH_CLIENT_ID = staging["CLIENT_ID"]
    settings.ILERT_OAUTH_CLIENT_SECRET = staging["CLIENT_SECRET"]
    token = account.refresh_token.reveal()
    end(account, connect)
    assert token in ilert.ledger().values()
    assert "stays valid at ilert: its client is not configured" in caplog.text


def test_settings_that_are_malformed_keep_no_grant_alive(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "no URL"
    account.delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 0
