from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import display_for_value
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth.admin import ConnectedAccountAdmin, actions
from django_ilert_oauth.flows._lease import look_at, take_lease
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from ilert_standin import StandIn
from ilert_standin.faults import Fault
from tests.conftest import AccountFactory, People, spoil
from tests.support.request_monitor import RequestMonitor

LIST = "/admin/ilert_oauth/connectedaccount/"
REVOCATIONS = "/admin/ilert_oauth/pendingrevocation/"
ACTIONS = {
    "refresh_accounts": "refresh_connectedaccount",
    "check_accounts": "check_connectedaccount",
    "disconnect_accounts": "disconnect_connectedaccount",
    "delete_selected": "delete_connectedaccount",
}

Staff = Callable[..., Client]


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def staff(db: None) -> Staff:
    def make(*permissions: str) -> Client:
        user = User.objects.create_user("staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return make


def page(client: Client, path: str = LIST, **query: Any) -> str:
    response = client.get(path, query)
    assert response.status_code == 200
    return " ".join(html.unescape(response.content.decode()).split())


def ask(client: Client, action: str, *accounts: ConnectedAccount, **form: Any) -> Any:
    """The page that asks once more."""
    chosen = {"action": action, "_selected_action": [account.pk for account in accounts], **form}
    response = client.post(LIST, chosen, follow=True)
    assert response.status_code == 200
    return response


def act(client: Client, action: str, *accounts: ConnectedAccount, **form: Any) -> Any:
    """The page that comes after the action."""
    return ask(client, action, *accounts, post="yes", **form)


def said(response: Any, level: str) -> list[str]:
    return [str(message) for message in response.context["messages"] if message.tags == level]


def pages_of(account: ConnectedAccount) -> list[str]:
    return [LIST, *(f"{LIST}{account.pk}/{name}/" for name in ("change", "history", "delete"))]


@pytest.mark.parametrize("number", range(4))
def test_no_page_shows_a_token(root: Client, account: ConnectedAccount, number: int) -> None:
    shown = page(root, pages_of(account)[number])
    assert "grace @ acme" in shown
    secrets = [
        account.access_token,
        account.refresh_token,
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
    ]
    assert [secret for secret in map(str, secrets) if secret in shown] == []
    assert "ciphertext" not in shown


def test_nobody_adds_an_account(root: Client, account: ConnectedAccount) -> None:
    assert f"{LIST}add/" not in page(root)
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(f"{LIST}add/", {"username": "mallory"}).status_code == 403
    assert ConnectedAccount.objects.count() == 1


def test_nobody_changes_an_account(root: Client, account: ConnectedAccount) -> None:
    path = f"{LIST}{account.pk}/change/"
    assert "<input" not in page(root, path).partition("connectedaccount_form")[2].replace(
        '<input type="hidden"', ""
    )
    assert root.post(path, {"username": "mallory"}).status_code == 403
    account.refresh_from_db()
    assert account.username == "grace"


def test_an_account_is_shown_with_all_that_may_be_shown(
    root: Client, make_account: AccountFactory
) -> None:
    account = make_account(
        display_name="Grace Demo", email="grace@acme.example", ilert_user_id=4711
    )
    shown = page(root, f"{LIST}{account.pk}/change/")
    for text in ["site-user", "Grace Demo", "grace@acme.example", "4711", "profile source:w"]:
        assert text in shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "reconnect_required"}, ["ada"]),
        ({"reason__exact": "revoked_at_ilert"}, ["ada"]),
        ({"tenant_id": "globex"}, ["linus"]),
        ({"error": "server_error"}, ["linus"]),
        ({"error": "day"}, ["linus"]),
        ({"expiring": "overdue"}, ["grace"]),
        ({"expiring": "grant-1d"}, []),
        ({"expiring": "grant-30d"}, ["linus"]),
        ({"expiring": "nonsense"}, ["linus", "ada", "grace"]),
        ({"q": "ada"}, ["ada"]),
        ({"q": "globex"}, ["linus"]),
        ({"q": "Amazing"}, ["grace"]),
        ({"q": "other-user"}, ["linus"]),
        ({"q": "other@site"}, ["linus"]),
        ({"q": "nobody"}, []),
    ],
)
def test_accounts_are_found_by_filter_and_search(
    root: Client, make_account: AccountFactory, query: dict[str, str], found: list[str]
) -> None:
    now = timezone.now()
    make_account(display_name="Amazing Grace", access_token_expires_at=now)
    make_account(
        username="ada",
        status=Status.RECONNECT_REQUIRED,
        reason=Reason.REVOKED_AT_ILERT,
        access_token_expires_at=now,
        refresh_token_expires_at=now,
        last_error="invalid_grant",
        last_error_at=now - timedelta(days=2),
    )
    make_account(
        username="linus",
        tenant_id="globex",
        user=User.objects.create_user("other-user", "other@site.example"),
        access_token_expires_at=now + timedelta(hours=2),
        refresh_token_expires_at=now + timedelta(days=29),
        last_error="server_error",
        last_error_at=now - timedelta(hours=23),
    )
    response = root.get(LIST, query)
    assert [account.username for account in response.context["cl"].queryset] == found


def test_the_list_offers_its_filters(root: Client, account: ConnectedAccount) -> None:
    shown = page(root)
    for title in ("status", "reason", "expiry", "last error"):
        assert f"By {title}" in shown


@pytest.mark.parametrize("query", [{}, {"expiring": "overdue", "_facets": "True"}])
def test_the_number_of_queries_does_not_grow_with_the_list(
    root: Client, account: ConnectedAccount, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    number_of = crypto.key_number

    def count(ciphertext: str, identity: Any) -> int:
        opened.append(ciphertext)
        return number_of(ciphertext, identity)

    monkeypatch.setattr(crypto, "key_number", count)
    counts = []
    for total in (10, 300):
        fill_up(account, total)
        opened.clear()
        with CaptureQueriesContext(connection) as queries:
            page(root, **query)
        counts.append(len(queries))
        assert len(opened) <= 2 * 100
    assert counts[0] == counts[1]


def fill_up(account: ConnectedAccount, total: int) -> None:
    """With strangers of as many tenants as there are accounts."""
    missing = range(ConnectedAccount.objects.count(), total)
    users = User.objects.bulk_create(User(username=f"person-{number}") for number in missing)
    columns = {
        "api_url": account.api_url,
        "username": "ada",
        "connected_at": account.connected_at,
        "access_token_expires_at": account.access_token_expires_at,
        "access_token_ciphertext": "gAAAA",
        "refresh_token_ciphertext": "gAAAA",
    }
    ConnectedAccount.objects.bulk_create(
        ConnectedAccount(user=user, tenant_id=f"tenant-{user.pk}", **columns) for user in users
    )


# Filters


def links(shown: str) -> list[str]:
    return re.findall(r'href="\?([^"]*)"', shown)


def test_each_error_there_is_can_be_filtered_by(root: Client, make_account: AccountFactory) -> None:
    make_account(last_error="timeout")
    make_account(username="ada")
    offered = {link for link in links(page(root)) if link.startswith("error=")}
    assert offered == {"error=day", "error=timeout"}


def test_users_without_an_e_mail_are_searched_by_name_only(
    root: Client, account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "EMAIL_FIELD", "telephone")
    assert "grace @ acme" in page(root, q="site-user")


# The picture of health


def health(client: Client) -> dict[str, int]:
    """The number behind each link above the list."""
    shown = page(client)
    found = re.findall(r'<a href="\?([^"]*)"><strong>(\d+)</strong>', shown)
    return {query: int(count) for query, count in found}


def test_the_picture_of_health_counts_and_leads_to_what_it_counts(
    root: Client, make_account: AccountFactory
) -> None:
    now = timezone.now()
    make_account(access_token_expires_at=now - timedelta(minutes=5), last_error_at=now)
    make_account(
        username="ada",
        access_token_expires_at=now + timedelta(minutes=50),
        refresh_token_expires_at=now + timedelta(days=20),
        last_error="timeout",
        last_error_at=now - timedelta(hours=20),
    )
    make_account(username="linus", status=Status.RECONNECT_REQUIRED, access_token_expires_at=now)
    make_account(username="hopper", status=Status.DISCONNECTED, refresh_token_expires_at=now)
    counts = health(root)
    assert counts == {
        "status__exact=connected": 2,
        "status__exact=reconnect_required": 1,
        "expiring=overdue": 1,
        "expiring=grant-30d": 1,
        "error=day": 1,
    }
    for query, count in counts.items():
        assert root.get(f"{LIST}?{query}").context["cl"].result_count == count


def test_the_picture_of_health_takes_one_query(root: Client, account: ConnectedAccount) -> None:
    with CaptureQueriesContext(connection) as queries:
        page(root)
    asked = [query["sql"] for query in queries if "COUNT" in query["sql"] and "n1" in query["sql"]]
    assert len(asked) == 1


def test_the_picture_of_health_shows_no_more_than_the_list(
    root: Client, make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_account()
    make_account(username="ada")
    own = ConnectedAccount.objects.filter(username="ada")
    monkeypatch.setattr(ConnectedAccountAdmin, "get_queryset", lambda self, request: own.all())
    assert health(root)["status__exact=connected"] == 1


@pytest.mark.parametrize("path", ["", "?_popup=1"])
def test_pages_of_ours_bring_no_style_and_no_script_in_line(
    root: Client, account: ConnectedAccount, path: str
) -> None:
    asking = ask(root, "disconnect_accounts", account).content.decode()
    detail = root.get(f"{LIST}{account.pk}/change/").content.decode()
    for shown in (root.get(LIST + path).content.decode(), asking, detail):
        assert " style=" not in shown
        assert " onclick=" not in shown
        assert 'href="/static/ilert_oauth/admin.css"' in shown
    assert ("ilert-health" in root.get(LIST + path).content.decode()) is (path == "")


# One account


@pytest.mark.parametrize(
    ("access_token", "said_of_it"),
    [
        (lambda text: text, "stored, encrypted with an old key: run rotate_ilert_keys"),
        (lambda text: "broken", "stored, encrypted; cannot be read: no configured key opens it"),
        (lambda text: "", "none"),
    ],
)
def test_a_token_is_told_by_the_key_that_it_is_under(
    root: Client,
    account: ConnectedAccount,
    settings: Any,
    access_token: Callable[[str], str],
    said_of_it: str,
) -> None:
    new_key = "n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    account.refresh_token = str(account.refresh_token)
    account.access_token_ciphertext = access_token(account.access_token_ciphertext)
    account.save()
    shown = page(root, f"{LIST}{account.pk}/change/")
    assert f'<div class="readonly">{said_of_it}</div>' in shown
    assert '<div class="readonly">stored, encrypted with the first key</div>' in shown


def test_the_page_of_an_account_is_about_identity_access_and_health(
    root: Client, account: ConnectedAccount
) -> None:
    shown = page(root, f"{LIST}{account.pk}/change/")
    titles = re.findall(r'class="fieldset-heading">([^<]*)<', shown)
    assert titles == ["Identity", "Access", "Health", "History"]


def test_what_the_site_may_do_is_told_in_words(root: Client, account: ConnectedAccount) -> None:
    assert "<li>See, create and edit alert sources</li>" in page(
        root, f"{LIST}{account.pk}/change/"
    )
    assert 'title="See, create and edit alert sources"' in page(root)


def test_an_account_without_scopes_may_do_nothing(root: Client, account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(granted_scope="")
    assert '<div class="readonly">nothing</div>' in page(root, f"{LIST}{account.pk}/change/")


def test_the_list_shows_times_as_distances_with_the_exact_time_on_hovering(
    root: Client, make_account: AccountFactory
) -> None:
    now = timezone.now()
    account = make_account(
        access_token_expires_at=now + timedelta(minutes=30, seconds=30),
        refreshed_at=now - timedelta(hours=3),
        last_error="timeout",
        last_error_at=now - timedelta(days=2),
    )
    shown = page(root).replace("\xa0", " ")
    for distance in (">in 30 minutes<", ">3 hours ago<", ">2 days ago<"):
        assert distance in shown
    assert f'title="{display_for_value(account.refreshed_at, "")}"' in shown


def test_a_state_has_its_reason_beside_it(root: Client, make_account: AccountFactory) -> None:
    make_account(status=Status.RECONNECT_REQUIRED, reason=Reason.EXPIRED)
    shown = page(root)
    assert '<span class="ilert-state ilert-reconnect_required">needs reconnecting</span>' in shown
    assert '<span class="ilert-reason">access has expired</span>' in shown


def test_buttons_of_an_account_are_those_that_fit_its_state(
    root: Client, account: ConnectedAccount
) -> None:
    expected = {
        Status.CONNECTED: ["refresh_accounts", "check_accounts", "disconnect_accounts"],
        Status.RECONNECT_REQUIRED: ["disconnect_accounts"],
        Status.DISCONNECTED: [],
    }
    for status, names in expected.items():
        ConnectedAccount.objects.update(status=status)
        assert buttons(root, account) == names


def buttons(client: Client, account: ConnectedAccount) -> list[str]:
    shown = page(client, f"{LIST}{account.pk}/change/")
    return re.findall(r'<input type="hidden" name="action" value="([^"]*)">', shown)


def test_who_may_only_look_sees_no_action_anywhere(staff: Staff, account: ConnectedAccount) -> None:
    client = staff("view_connectedaccount")
    shown = page(client)
    assert "grace @ acme" in shown
    assert 'name="action"' not in shown
    assert buttons(client, account) == []
    assert page(client, f"{LIST}{account.pk}/history/")


def test_an_action_from_the_page_of_an_account_leads_back_to_it(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    path = f"{LIST}{account.pk}/change/"
    asked = ask(root, "check_accounts", account, from_account=account.pk)
    assert f'<a class="button" href="{path}">' in asked.content.decode()
    response = act(root, "check_accounts", account, from_account=account.pk)
    assert response.request["PATH_INFO"] == path
    assert len(said(response, "success")) == 1


def test_nobody_is_led_to_another_account_than_the_one_acted_on(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    account, other = make_account(), make_account(username="ada")
    response = act(root, "check_accounts", account, from_account=other.pk)
    assert response.request["PATH_INFO"] == LIST


def test_the_list_leads_to_connecting_an_account_of_one_s_own(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    assert f'href="/ilert/connect/?next={LIST}"' in page(root)
    settings.ROOT_URLCONF = "tests.support.admin_urls"
    assert "Connect your own account" not in page(root)


# Actions


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts", "disconnect_accounts"])
def test_an_action_is_asked_once_more_before_anything_is_done(
    root: Client, make_account: AccountFactory, ilert: StandIn, action: str
) -> None:
    accounts = [make_account(), make_account(username="ada")]
    ended = make_account(username="linus", status=Status.DISCONNECTED)
    before = list(ConnectedAccount.objects.values())
    shown = " ".join(ask(root, action, *accounts, ended).content.decode().split())
    assert "2 accounts" in shown
    assert "1 of the chosen accounts is not connected and will be skipped." in shown
    assert "grace @ acme" in shown
    assert "linus @ acme" not in shown
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []


def test_the_page_that_asks_can_be_confirmed(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account()
    make_account(username="ada")
    shown = ask(root, "disconnect_accounts", account).content.decode()
    form = shown[shown.index('<form method="post">') :].partition("</form>")[0]
    fields = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form))
    root.post(LIST, fields)
    connected = ConnectedAccount.objects.connected()
    assert [str(account) for account in connected] == ["ada @ acme"]


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts", "disconnect_accounts"])
def test_nothing_is_asked_where_no_account_is_connected(
    root: Client, make_account: AccountFactory, ilert: StandIn, action: str
) -> None:
    response = ask(root, action, make_account(status=Status.DISCONNECTED))
    assert said(response, "warning") == ["None of the chosen accounts is connected."]
    assert ilert.requests == []


@pytest.mark.parametrize(
    ("action", "command", "form"),
    [
        ("check_accounts", "check_ilert_accounts", {}),
        ("check_accounts", "check_ilert_accounts", {"post": "yes"}),
        ("disconnect_accounts", "disconnect_ilert_accounts --reason admin", {"post": "yes"}),
    ],
)
def test_more_than_a_request_can_hold_is_left_to_the_command(
    root: Client,
    account: ConnectedAccount,
    ilert: StandIn,
    action: str,
    command: str,
    form: dict[str, str],
) -> None:
    fill_up(account, actions.MAX_ACCOUNTS + 1)
    before = list(ConnectedAccount.objects.values())
    with CaptureQueriesContext(connection) as queries:
        response = ask(root, action, account, select_across="1", **form)
    shown = " ".join(response.content.decode().split())
    assert "You chose 101 accounts. At most 100 can be chosen at once" in shown
    assert f"manage.py {command}<" in shown
    assert len(queries) < 20
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []


def test_all_accounts_of_all_pages_can_be_chosen(
    root: Client, make_account: AccountFactory, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConnectedAccountAdmin, "list_per_page", 2)
    accounts = [make_account(username=f"user-{number}") for number in range(5)]
    shown = ask(root, "check_accounts", accounts[0], select_across="1").content.decode()
    assert shown.count('name="_selected_action"') == 5


@pytest.mark.parametrize(("per_minute", "count"), [(0, 100), (600, 100), (60, 20), (1, 1)])
def test_no_request_waits_long_for_a_low_rate_limit(
    settings: Any, per_minute: int, count: int
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = per_minute
    assert actions.max_accounts() == count


@pytest.mark.django_db(transaction=True)
def test_an_action_works_on_a_site_with_a_transaction_for_each_request(
    root: Client, account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    response = act(root, "refresh_accounts", account)
    assert said(response, "success") == ["1 account was refreshed. (grace @ acme)"]


def test_failures_are_counted_by_their_codes(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    names = ["good", "gone", "down", "lost", "foreign", "odd", "fine"]
    accounts = [make_account(username=name) for name in names]
    ilert.revoke_app("acme", "gone")
    ConnectedAccount.objects.filter(username="lost").update(refresh_token_ciphertext="broken")
    ConnectedAccount.objects.filter(username="foreign").update(api_url="https://other.invalid")
    for fault in (Fault(), Fault(), Fault(503), Fault(400, '{"code": "invalid_request"}')):
        ilert.add_fault("token", fault)
    response = act(root, "refresh_accounts", *accounts)
    assert said(response, "success") == ["2 accounts were refreshed. (good @ acme, fine @ acme)"]
    assert said(response, "error") == [
        "1 account failed: invalid_grant. (gone @ acme)",
        "1 account failed: server_error. (down @ acme)",
        "1 account failed: token_unreadable. (lost @ acme)",
        "1 account failed: endpoint_mismatch. (foreign @ acme)",
        "1 account failed: invalid_request. (odd @ acme)",
    ]
    assert said(response, "warning") == []


def test_many_accounts_are_counted_and_not_named(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    accounts = [make_account(username=f"user-{number}") for number in range(6)]
    assert said(act(root, "check_accounts", *accounts), "success") == [
        "6 accounts were checked with ilert."
    ]


def test_an_account_that_another_caller_refreshes_is_skipped(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    assert take_lease(look_at(account))
    response = act(root, "refresh_accounts", account)
    assert said(response, "warning") == ["1 account was skipped. (grace @ acme)"]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("secret", "fault", "note"),
    [
        ("wrong", Fault(), "ilert refused every grant, so no account was marked."),
        ("the-client-secret", Fault(drop=True), "ilert cannot be reached. All tokens are kept."),
    ],
)
def test_a_run_that_ends_early_says_why(
    root: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    settings: Any,
    secret: str,
    fault: Fault,
    note: str,
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 0
    settings.ILERT_OAUTH_CLIENT_SECRET = secret
    ilert.add_fault("token", fault, times=None)
    accounts = [make_account(username=f"user-{number}") for number in range(12)]
    response = act(root, "refresh_accounts", *accounts)
    assert said(response, "error")[-1].startswith(note)
    assert ConnectedAccount.objects.connected().count() == 12


@pytest.mark.django_db(transaction=True)
def test_an_administrator_is_told_which_grants_are_not_revoked_yet(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(503))
    response = act(root, "disconnect_accounts", account)
    assert said(response, "success") == ["1 account was disconnected. (grace @ acme)"]
    [warning] = said(response, "warning")
    assert warning.startswith("1 grant is not revoked at ilert yet: refresh_ilert_tokens will try")
    assert PendingRevocation.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_administrator_is_told_which_grants_cannot_be_revoked(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    response = act(root, "disconnect_accounts", spoil(account))
    assert said(response, "error") == [
        "1 grant cannot be revoked from here: have its user remove this app in ilert."
    ]
    assert said(response, "warning") == []


@pytest.mark.django_db(transaction=True)
def test_a_grant_that_is_revoked_at_ilert_is_not_mentioned(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    response = act(root, "disconnect_accounts", account)
    assert said(response, "error") == said(response, "warning") == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["disconnect_accounts", "delete_selected"])
def test_a_hundred_accounts_do_not_wait_for_ilert_one_by_one(
    root: Client, people: People, monitor: RequestMonitor, action: str
) -> None:
    accounts = people(actions.MAX_ACCOUNTS)
    monitor.on_arrival = lambda count: time.sleep(0.05)
    response = act(root, action, *accounts)
    assert monitor.max_concurrent > 1
    left = PendingRevocation.objects.count()
    assert [warning.split()[0] for warning in said(response, "warning")] == [str(left)] * bool(left)


@pytest.mark.django_db(transaction=True)
def test_who_deletes_is_told_which_grants_are_not_revoked_yet(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(503), times=None)
    one, *many = (make_account(username=name) for name in ("grace", "ada", "linus"))
    deleted = root.post(f"{LIST}{one.pk}/delete/", {"post": "yes"}, follow=True)
    [warning] = said(deleted, "warning")
    assert warning.startswith("1 grant is not revoked at ilert yet")
    [warning] = said(act(root, "delete_selected", *many), "warning")
    assert warning.startswith("2 grants are not revoked at ilert yet")


# Pending revocations


@pytest.fixture
def pending(account: ConnectedAccount) -> PendingRevocation:
    return PendingRevocation.objects.create(
        account_uuid=account.uuid,
        client_id="the-client",
        api_url=account.api_url,
        tenant_id="acme",
        username="grace",
        refresh_token_ciphertext=account.refresh_token_ciphertext,
        attempts=3,
        created_at=timezone.now() - timedelta(days=2),
        last_error="server_error",
        last_error_at=timezone.now() - timedelta(hours=1),
        next_attempt_at=timezone.now() + timedelta(minutes=8, seconds=30),
    )


def pages_of_revocation(pending: PendingRevocation) -> list[str]:
    names = ("change", "history", "delete")
    return [REVOCATIONS, *(f"{REVOCATIONS}{pending.pk}/{name}/" for name in names)]


@pytest.mark.parametrize("number", range(4))
def test_no_page_of_a_pending_revocation_shows_a_token(
    root: Client, pending: PendingRevocation, number: int
) -> None:
    shown = page(root, pages_of_revocation(pending)[number])
    assert "grace @ acme" in shown
    secrets = [pending.refresh_token.reveal(), pending.refresh_token_ciphertext, "ciphertext"]
    assert [secret for secret in secrets if secret in shown] == []


def test_a_pending_revocation_is_shown_with_its_attempts(
    root: Client, pending: PendingRevocation
) -> None:
    shown = page(root, REVOCATIONS).replace("\xa0", " ")
    for text in (pending.api_url, ">2 days ago<", ">3<", "server_error", ">in 8 minutes<"):
        assert text in shown


def test_a_pending_revocation_that_was_not_tried_is_sent_by_the_next_run(
    root: Client, pending: PendingRevocation
) -> None:
    PendingRevocation.objects.update(next_attempt_at=None, last_error="", last_error_at=None)
    assert "at the next run" in page(root, REVOCATIONS)


@pytest.mark.parametrize("next_attempt_at", [None, timezone.now()])
def test_a_revocation_that_was_given_up_says_what_is_left_to_do(
    root: Client, pending: PendingRevocation, next_attempt_at: Any
) -> None:
    PendingRevocation.objects.update(
        given_up_at=timezone.now() - timedelta(hours=3), next_attempt_at=next_attempt_at
    )
    shown = page(root, REVOCATIONS).replace("\xa0", " ")
    assert ">3 hours ago</time>: if the grant is still alive, have the user remove" in shown
    assert '<td class="field-next_attempt">-</td>' in shown


def test_nobody_adds_or_changes_a_pending_revocation(
    root: Client, pending: PendingRevocation
) -> None:
    assert root.post(f"{REVOCATIONS}add/", {"username": "mallory"}).status_code == 403
    changed = root.post(f"{REVOCATIONS}{pending.pk}/change/", {"username": "mallory"})
    assert changed.status_code == 403
    pending.refresh_from_db()
    assert pending.username == "grace"


def test_a_pending_revocation_is_not_found_by_its_ciphertext(
    root: Client, pending: PendingRevocation
) -> None:
    found = root.get(REVOCATIONS, {"refresh_token_ciphertext__startswith": "gAAAA"})
    assert found.status_code == 400


def test_pending_revocations_are_found_by_tenant_username_and_whether_they_were_given_up(
    root: Client, pending: PendingRevocation
) -> None:
    for query in ({"q": "acme"}, {"q": "grace"}, {"given_up_at__isempty": "1"}):
        assert "grace @ acme" in page(root, REVOCATIONS, **query)
    for query in ({"q": "globex"}, {"given_up_at__isempty": "0"}):
        assert "grace @ acme" not in page(root, REVOCATIONS, **query)


def test_deleting_a_pending_revocation_needs_the_permission_and_says_what_it_means(
    staff: Staff, pending: PendingRevocation
) -> None:
    client = staff("view_pendingrevocation", "delete_pendingrevocation")
    path = f"{REVOCATIONS}{pending.pk}/delete/"
    chosen = {"action": "delete_selected", "_selected_action": [pending.pk]}
    many = client.post(REVOCATIONS, chosen).content.decode()
    for shown in (page(client, path), many):
        assert "The grant will not be revoked at ilert" in shown
    client.post(path, {"post": "yes"})
    assert not PendingRevocation.objects.exists()


def test_who_may_only_look_at_pending_revocations_deletes_none(
    staff: Staff, pending: PendingRevocation
) -> None:
    client = staff("view_pendingrevocation")
    assert "grace @ acme" in page(client, REVOCATIONS)
    assert client.post(f"{REVOCATIONS}{pending.pk}/delete/", {"post": "yes"}).status_code == 403
    assert PendingRevocation.objects.count() == 1


# History


@pytest.mark.parametrize(
    ("action", "entry"),
    [
        ("refresh_accounts", "Refreshed."),
        ("check_accounts", "Checked with ilert."),
        ("disconnect_accounts", "Disconnected."),
    ],
)
def test_an_action_is_in_the_history_of_the_account(
    root: Client, account: ConnectedAccount, ilert: StandIn, action: str, entry: str
) -> None:
    act(root, action, account)
    shown = page(root, f"{LIST}{account.pk}/history/")
    assert entry in shown
    assert "root" in shown


def test_a_failure_is_in_the_history_of_the_account(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", Fault(503))
    act(root, "refresh_accounts", account)
    shown = page(root, f"{LIST}{account.pk}/history/")
    assert "Failed: server_error" in shown


def test_the_history_takes_one_query_whatever_is_written(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    accounts = [make_account(username=f"user-{number}") for number in range(5)]
    with CaptureQueriesContext(connection) as queries:
        act(root, "check_accounts", *accounts)
    written = [query["sql"] for query in queries if query["sql"].startswith("INSERT INTO")]
    assert len([sql for sql in written if "django_admin_log" in sql]) == 1
    assert LogEntry.objects.count() == 5


def test_refresh_refreshes_even_what_was_refreshed_just_now(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    before = account.access_token_ciphertext
    for count in (1, 2):
        response = act(root, "refresh_accounts", account)
        assert said(response, "success") == ["1 account was refreshed. (grace @ acme)"]
        assert said(response, "error") == []
        assert len(ilert.token_requests) == count
    account.refresh_from_db()
    assert account.access_token_ciphertext != before


def test_check_asks_ilert_and_stores_the_scope(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(granted_scope="profile")
    ConnectedAccount.objects.update(granted_scope="out of date")
    assert said(act(root, "check_accounts", account), "success") == [
        "1 account was checked with ilert. (grace @ acme)"
    ]
    account.refresh_from_db()
    assert account.granted_scope == "profile"
    assert ilert.token_requests == []


def test_disconnect_names_the_administrator_as_the_reason(
    root: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    sent: list[tuple[str, dict[str, Any]]],
    django_capture_on_commit_callbacks: Any,
) -> None:
    accounts = [make_account(), make_account(username="ada")]
    with django_capture_on_commit_callbacks(execute=True):
        response = act(root, "disconnect_accounts", *accounts)
    assert said(response, "success") == ["2 accounts were disconnected. (grace @ acme, ada @ acme)"]
    rows = ConnectedAccount.objects.values_list("status", "reason")
    assert set(rows) == {(Status.DISCONNECTED, Reason.ADMIN)}
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert [facts["request"].user.username for _name, facts in sent] == ["root", "root"]


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_failures_are_named_and_stop_none_of_the_others(
    root: Client, make_account: AccountFactory, ilert: StandIn, action: str
) -> None:
    accounts = [make_account(username=name) for name in ("ada", "grace", "linus")]
    spoil(accounts[1])
    response = act(root, action, *accounts)
    assert said(response, "error") == ["1 account failed: token_unreadable. (grace @ acme)"]
    assert said(response, "success")[0].startswith("2 accounts were ")


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_no_success_is_claimed_where_all_failed(
    root: Client, account: ConnectedAccount, action: str
) -> None:
    response = act(root, action, spoil(account))
    assert len(said(response, "error")) == 1
    assert said(response, "success") == []


def test_a_grant_that_is_gone_is_named(
    root: Client, account: ConnectedAccount, make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    healthy = make_account(username="ada")
    (error,) = said(act(root, "refresh_accounts", account, healthy), "error")
    assert error == "1 account failed: invalid_grant. (grace @ acme)"
    account.refresh_from_db()
    assert account.status == Status.RECONNECT_REQUIRED


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_messages_hold_nothing_that_ilert_said(
    root: Client, account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    body = '{"code": "words-of-ilert", "error": "words-of-ilert"}'
    for endpoint in ("token", "token_info"):
        ilert.add_fault(endpoint, Fault(400, body))
    response = act(root, action, account)
    assert len(said(response, "error")) == 1
    assert "words-of-ilert" not in response.content.decode()


def test_deleting_one_account_ends_its_grant(
    root: Client,
    account: ConnectedAccount,
    ilert: StandIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        root.post(f"{LIST}{account.pk}/delete/", {"post": "yes"})
    assert not ConnectedAccount.objects.exists()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_deleting_many_accounts_ends_their_grants(
    root: Client,
    make_account: AccountFactory,
    ilert: StandIn,
    django_capture_on_commit_callbacks: Any,
) -> None:
    accounts = [make_account(username=name) for name in ("grace", "ada")]
    with django_capture_on_commit_callbacks(execute=True):
        act(root, "delete_selected", *accounts)
    assert not ConnectedAccount.objects.exists()
    for name in ("grace", "ada"):
        assert ilert.live_refresh_tokens("acme", name) == 0


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_needs_a_permission_of_its_own(
    staff: Staff, account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    others = [permission for name, permission in ACTIONS.items() if name != action]
    client = staff("view_connectedaccount", "change_connectedaccount", *others)
    assert f'<option value="{action}">' not in page(client)
    before = list(ConnectedAccount.objects.values())
    act(client, action, account)
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_needs_no_other_permission(
    staff: Staff, account: ConnectedAccount, action: str
) -> None:
    client = staff("view_connectedaccount", ACTIONS[action])
    offered = [name for name in ACTIONS if f'<option value="{name}">' in page(client)]
    assert offered == [action]
    before = list(ConnectedAccount.objects.values())
    response = act(client, action, account)
    assert len(said(response, "success")) == 1
    if action != "check_accounts":
        assert list(ConnectedAccount.objects.values()) != before


def test_staff_without_the_permission_see_nothing(staff: Staff, account: ConnectedAccount) -> None:
    client = staff()
    assert [client.get(path).status_code for path in pages_of(account)] == [403] * 4


def test_a_user_who_is_no_staff_sees_nothing(browser: Client, account: ConnectedAccount) -> None:
    assert [browser.get(path).status_code for path in pages_of(account)] == [302] * 4


def test_a_row_whose_key_is_lost_says_so_on_every_page(
    root: Client, account: ConnectedAccount
) -> None:
    spoil(account)
    assert "cannot be read: reconnect" in page(root)
    assert "cannot be read: reconnect" in page(root, f"{LIST}{account.pk}/change/")
    for path in pages_of(account):
        assert "grace @ acme" in page(root, path)


# Deleting


def shown_before_deleting(client: Client, account: ConnectedAccount) -> list[str]:
    many = ask(client, "delete_selected", account).content.decode()
    return [page(client, f"{LIST}{account.pk}/delete/"), " ".join(many.split())]


def test_who_deletes_is_told_that_the_grant_ends(root: Client, account: ConnectedAccount) -> None:
    for shown in shown_before_deleting(root, account):
        assert "Deleting also revokes the access to ilert" in shown


def test_who_deletes_is_told_that_the_grant_lives_on_where_it_does(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    settings.ILERT_OAUTH_REVOKE_ON_DELETE = False
    for shown in shown_before_deleting(root, account):
        assert "Deleting does not revoke the access at ilert" in shown
        assert "also revokes" not in shown


def test_the_client_is_a_column_where_there_is_more_than_one(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    assert "column-client" not in page(root)
    staging = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "x"}
    settings.ILERT_OAUTH_CLIENTS = {"staging": staging}
    assert '<td class="field-client">default</td>' in page(root)
    ConnectedAccount.objects.update(client_id="staging-client")
    assert '<td class="field-client">staging</td>' in page(root)
    ConnectedAccount.objects.update(client_id="gone")
    assert '<td class="field-client">not configured</td>' in page(root)


def test_no_filter_is_for_a_reason_that_no_row_has(root: Client, account: ConnectedAccount) -> None:
    shown = page(root)
    assert "reason__exact=admin" in shown
    assert "reason__exact=deleted" not in shown


@pytest.mark.parametrize("is_readable", [True, False])
def test_what_a_site_may_do_is_nothing_where_it_can_do_nothing(
    root: Client, make_account: AccountFactory, *, is_readable: bool
) -> None:
    status = Status.DISCONNECTED if is_readable else Status.CONNECTED
    account = make_account(granted_scope="source:w", status=status)
    if not is_readable:
        spoil(account)
    assert "See, create and edit" not in page(root, f"{LIST}{account.pk}/change/")


def test_who_deletes_comes_back_to_the_list(staff: Staff, account: ConnectedAccount) -> None:
    client = staff("view_connectedaccount", "delete_connectedaccount")
    left: Any = client.post(
        f"{LIST}{account.pk}/delete/?_changelist_filters=q%3Dgrace", {"post": "yes"}
    )
    assert left["Location"] == f"{LIST}?q=grace"


def test_who_deletes_in_a_pop_up_stays_there(root: Client, account: ConnectedAccount) -> None:
    left = root.post(f"{LIST}{account.pk}/delete/", {"post": "yes", "_popup": "1"})
    assert left.status_code == 200


def test_the_page_that_asks_has_the_breadcrumbs_of_the_admin(
    root: Client, account: ConnectedAccount
) -> None:
    form = {"action": "disconnect_accounts", "_selected_action": account.pk}
    shown = html.unescape(root.post(LIST, form).content.decode())
    trail = shown.partition('<div class="breadcrumbs">')[2].partition("</div>")[0]
    steps = " ".join(re.sub("<[^>]*>", "", trail).split())
    assert steps == "Home › ilert accounts › Ilert accounts › Disconnect"
