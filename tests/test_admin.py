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

from django_ilert_oauth.admin import ConnectedAccountAdmin, actions, model_admin
from django_ilert_oauth.flows._lease import reload, take_lease
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.models import ConnectedAccount, LastRun, PendingRevocation, Reason, Status
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
def staff(db: None) -> Staff:
    """Logged in with these permissions only."""

    def make(*permissions: str) -> Client:
        user, _ = User.objects.get_or_create(username="staff", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client = Client()
        client.force_login(user)
        return client

    return make


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


def page(client: Client, path: str = LIST, **query: Any) -> str:
    response = client.get(path, query)
    assert response.status_code == 200
    return text_of(response)


def text_of(response: Any) -> str:
    return " ".join(html.unescape(response.content.decode()).replace("\xa0", " ").split())


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


def pages_of(row: ConnectedAccount | PendingRevocation) -> list[str]:
    """The list, and of the row: its page, its history, and the page that asks before deleting."""
    changelist = f"/admin/ilert_oauth/{row._meta.model_name}/"
    names = ("change", "history", "delete")
    return [changelist, *(f"{changelist}{row.pk}/{name}/" for name in names)]


def change_page(client: Client, account: ConnectedAccount) -> str:
    return page(client, f"{LIST}{account.pk}/change/")


def test_no_page_shows_a_token(
    root: Client, account: ConnectedAccount, pending: PendingRevocation
) -> None:
    secrets = [account.access_token.reveal(), account.access_token_ciphertext]
    secrets += [account.refresh_token.reveal(), account.refresh_token_ciphertext, "ciphertext"]
    for path in (*pages_of(account), *pages_of(pending)):
        shown = page(root, path)
        assert "grace @ acme" in shown
        assert [secret for secret in secrets if secret in shown] == []


def test_nobody_adds_or_changes_an_account_or_a_pending_revocation(
    root: Client, account: ConnectedAccount, pending: PendingRevocation
) -> None:
    assert f"{LIST}add/" not in page(root)
    form = change_page(root, account).partition("connectedaccount_form")[2]
    assert re.findall(r'<input (?!type="hidden")', form) == []
    for row in (account, pending):
        changelist, change, *_others = pages_of(row)
        for path in (f"{changelist}add/", change):
            assert root.post(path, {"username": "mallory"}).status_code == 403
        row.refresh_from_db()
        assert (row.username, type(row)._default_manager.count()) == ("grace", 1)


def test_the_page_of_an_account_shows_identity_access_and_health(
    root: Client, make_account: AccountFactory
) -> None:
    shown = change_page(
        root,
        make_account(display_name="Grace Demo", email="grace@acme.example", ilert_user_id=4711),
    )
    titles = re.findall(r'class="fieldset-heading">([^<]*)<', shown)
    assert titles == ["Identity", "Access", "Health", "History"]
    for text in ["site-user", "Grace Demo", "grace@acme.example", "4711", "profile source:w"]:
        assert text in shown
    assert "<li>See, create and edit alert sources</li>" in shown


def test_accounts_are_found_by_filter_and_search(
    root: Client, make_account: AccountFactory
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
    expected = {
        "status__exact=reconnect_required": ["ada"],
        "reason__exact=revoked_at_ilert": ["ada"],
        "tenant_id=globex": ["linus"],
        "error=server_error": ["linus"],
        "error=any": ["linus", "ada"],
        "expiring=overdue": ["grace"],
        "expiring=grant-1d": [],
        "expiring=grant-30d": ["linus"],
        "expiring=nonsense": ["linus", "ada", "grace"],
        "q=ada": ["ada"],
        "q=globex": ["linus"],
        "q=Amazing": ["grace"],
        "q=other-user": ["linus"],
        "q=other@site": ["linus"],
        "q=nobody": [],
    }
    found = {query: root.get(f"{LIST}?{query}").context["cl"].queryset for query in expected}
    assert {query: [row.username for row in rows] for query, rows in found.items()} == expected


def test_the_lists_offer_filters_for_what_there_is(
    root: Client, make_account: AccountFactory, pending: PendingRevocation
) -> None:
    make_account(username="ada", last_error="timeout", last_error_at=timezone.now())
    shown = page(root)
    for title in ("status", "reason", "expiry", "last error"):
        assert f"By {title}" in shown
    assert "reason__exact=admin" in shown
    assert "reason__exact=deleted" not in shown
    assert error_filters(shown) == {"error=any", "error=timeout"}
    PendingRevocation.objects.create(last_error="", account_uuid=pending.account_uuid)
    assert error_filters(page(root, REVOCATIONS)) == {"error=any", "error=server_error"}


def error_filters(shown: str) -> set[str]:
    return set(re.findall(r'href="\?(error=[^"]*)"', shown))


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


def test_users_without_an_e_mail_are_searched_by_name_only(
    root: Client, account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "EMAIL_FIELD", "telephone")
    assert "grace @ acme" in page(root, q="site-user")


# The picture of health


def health(client: Client) -> dict[str, int]:
    """The number behind each link above the list."""
    found = re.findall(r'<a href="\?([^"]*)"><strong>(\d+)</strong>', page(client))
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
    make_account(username="elsewhere", client_id="another", access_token_expires_at=now)
    counts = health(root)
    assert counts == {
        "status__exact=connected": 3,
        "status__exact=reconnect_required": 1,
        "expiring=overdue": 1,
        "expiring=grant-30d": 1,
        "status__exact=connected&error=any": 1,
    }
    for query, count in counts.items():
        assert root.get(f"{LIST}?{query}").context["cl"].result_count == count


def test_the_bar_of_dates_reads_each_account_and_is_left_out_of_a_long_list(
    root: Client, account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "When the accounts were connected:" in page(root)
    monkeypatch.setattr(model_admin, "MAX_DATED", 0)
    assert "When the accounts were connected:" not in page(root)


IDLE = "nothing has refreshed any for an hour"


@pytest.mark.parametrize(
    ("runs", "is_idle"),
    [
        ({"refresh": 70, "queue": 80, "check": 50}, True),
        ({"refresh": 50, "queue": 80}, False),
        ({"queue": 50}, False),
    ],
    ids=["late", "command", "queue"],
)
def test_the_list_warns_where_tokens_expire_and_nothing_runs(
    root: Client, account: ConnectedAccount, runs: dict[str, int], is_idle: bool
) -> None:
    assert IDLE not in page(root)
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now() - timedelta(minutes=5))
    assert IDLE in page(root)
    for kind, minutes in runs.items():
        LastRun.objects.create(kind=kind, at=timezone.now() - timedelta(minutes=minutes))
    assert (IDLE in page(root)) is is_idle


def test_the_picture_of_health_shows_no_more_than_the_list(
    root: Client, make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_account()
    make_account(username="ada")
    own = ConnectedAccount.objects.filter(username="ada")
    monkeypatch.setattr(ConnectedAccountAdmin, "get_queryset", lambda self, request: own.all())
    assert health(root)["status__exact=connected"] == 1


def test_pages_of_ours_bring_no_style_and_no_script_in_line(
    root: Client, account: ConnectedAccount
) -> None:
    changelist, popup = page(root), page(root, _popup="1")
    asking = text_of(ask(root, "disconnect_accounts", account))
    for shown in (changelist, popup, asking, change_page(root, account)):
        assert " style=" not in shown
        assert " onclick=" not in shown
        assert 'href="/static/ilert_oauth/admin.css"' in shown
    assert ("ilert-health" in changelist, "ilert-health" in popup) == (True, False)


# One account


def test_a_token_is_told_by_the_key_that_it_is_under(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    new_key = "n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    account.refresh_token = str(account.refresh_token)
    account.save()
    expected = {
        account.access_token_ciphertext: "stored, encrypted with an old key: run rotate_ilert_keys",
        "broken": "stored, encrypted; cannot be read: no configured key decrypts it",
        "": "none",
    }
    for ciphertext, text in expected.items():
        ConnectedAccount.objects.update(access_token_ciphertext=ciphertext)
        shown = change_page(root, account)
        assert f'<div class="readonly">{text}</div>' in shown
        assert '<div class="readonly">stored, encrypted with the first key</div>' in shown


@pytest.mark.parametrize(
    "columns",
    [{"granted_scope": ""}, {"status": "disconnected"}, {"access_token_ciphertext": "broken"}],
    ids=str,
)
def test_a_site_may_do_nothing_without_scopes_a_grant_and_tokens_that_open(
    root: Client, account: ConnectedAccount, columns: dict[str, str]
) -> None:
    ConnectedAccount.objects.update(**columns)
    assert '<div class="readonly">nothing</div>' in change_page(root, account)


def test_the_list_explains_times_and_scopes_on_hovering_and_a_state_by_its_reason(
    root: Client, make_account: AccountFactory
) -> None:
    now = timezone.now()
    account = make_account(
        access_token_expires_at=now + timedelta(minutes=30, seconds=30),
        refreshed_at=now - timedelta(hours=3),
        last_error="timeout",
        last_error_at=now - timedelta(days=2),
        status=Status.RECONNECT_REQUIRED,
        reason=Reason.EXPIRED,
    )
    shown = page(root)
    assert '<span class="ilert-state ilert-reconnect_required">needs reconnecting</span>' in shown
    assert '<span class="ilert-reason">access has expired</span>' in shown
    for distance in (">in 30 minutes<", ">3 hours ago<", ">2 days ago<"):
        assert distance in shown
    assert f'title="{display_for_value(account.refreshed_at, "")}"' in shown
    assert 'title="See, create and edit alert sources"' in shown


def test_buttons_of_an_account_match_its_state(root: Client, account: ConnectedAccount) -> None:
    expected = {
        Status.CONNECTED: ["refresh_accounts", "check_accounts", "disconnect_accounts"],
        Status.RECONNECT_REQUIRED: ["disconnect_accounts"],
        Status.DISCONNECTED: [],
    }
    for status, names in expected.items():
        ConnectedAccount.objects.update(status=status)
        assert buttons(root, account) == names


def buttons(client: Client, account: ConnectedAccount) -> list[str]:
    pattern = r'<input type="hidden" name="action" value="([^"]*)">'
    return re.findall(pattern, change_page(client, account))


def test_who_may_only_look_sees_no_action_anywhere(staff: Staff, account: ConnectedAccount) -> None:
    client = staff("view_connectedaccount")
    shown = page(client)
    assert "grace @ acme" in shown
    assert 'name="action"' not in shown
    assert buttons(client, account) == []
    assert page(client, f"{LIST}{account.pk}/history/")


def test_an_action_from_the_page_of_an_account_leads_back_to_it_and_to_no_other(
    root: Client, make_account: AccountFactory
) -> None:
    account, other = make_account(), make_account(username="ada")
    path = f"{LIST}{account.pk}/change/"
    asked = ask(root, "check_accounts", account, from_account=account.pk)
    assert f'<a class="button" href="{path}">' in text_of(asked)
    for from_account, end in ((account, path), (other, LIST)):
        response = act(root, "check_accounts", account, from_account=from_account.pk)
        assert (response.request["PATH_INFO"], len(said(response, "success"))) == (end, 1)


def test_the_list_leads_to_connecting_an_account_of_one_s_own(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    assert f'href="/ilert/connect/?next={LIST}"' in page(root)
    settings.ROOT_URLCONF = "tests.support.admin_urls"
    assert "Connect your own account" not in page(root)


# Actions


def test_an_action_is_asked_once_more_before_anything_is_done(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    accounts = [make_account(), make_account(username="ada")]
    ended = make_account(username="linus", status=Status.DISCONNECTED)
    before = list(ConnectedAccount.objects.values())
    shown = text_of(ask(root, "disconnect_accounts", *accounts, ended))
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


def test_nothing_is_asked_where_no_account_is_connected(
    root: Client, make_account: AccountFactory, ilert: StandIn
) -> None:
    response = ask(root, "check_accounts", make_account(status=Status.DISCONNECTED))
    assert said(response, "warning") == ["None of the chosen accounts is connected."]
    assert ilert.requests == []


def test_more_than_a_request_can_hold_is_left_to_the_command(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    fill_up(account, actions.MAX_ACCOUNTS + 1)
    before = list(ConnectedAccount.objects.values())
    with CaptureQueriesContext(connection) as queries:
        response = act(root, "disconnect_accounts", account, select_across="1")
    shown = text_of(response)
    assert "You chose 101 accounts. At most 100 can be chosen at once" in shown
    assert "manage.py disconnect_ilert_accounts --reason admin<" in shown
    assert len(queries) < 20
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []


def test_all_accounts_of_all_pages_can_be_chosen(
    root: Client, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConnectedAccountAdmin, "list_per_page", 2)
    asking = ask(root, "check_accounts", people(3)[0], select_across="1")
    assert text_of(asking).count('name="_selected_action"') == 3


def test_no_request_waits_long_for_a_low_rate_limit(settings: Any) -> None:
    counts = {}
    for settings.ILERT_OAUTH_REQUESTS_PER_MINUTE in (0, 600, 60, 1):
        counts[settings.ILERT_OAUTH_REQUESTS_PER_MINUTE] = actions.max_accounts()
    assert counts == {0: 100, 600: 100, 60: 20, 1: 1}


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


def test_many_accounts_are_counted_and_not_named_and_logged_by_one_query(
    root: Client, people: People
) -> None:
    accounts = people(6)
    with CaptureQueriesContext(connection) as queries:
        response = act(root, "check_accounts", *accounts)
    assert said(response, "success") == ["6 accounts were checked with ilert."]
    inserts = [it["sql"] for it in queries if it["sql"].startswith("INSERT INTO")]
    assert len([sql for sql in inserts if "django_admin_log" in sql]) == 1
    assert LogEntry.objects.count() == 6


def test_an_account_that_another_caller_refreshes_is_skipped(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    assert take_lease(reload(account))
    response = act(root, "refresh_accounts", account)
    assert said(response, "warning") == ["1 account was skipped. (grace @ acme)"]
    assert not LogEntry.objects.exists()


def test_a_run_that_ends_early_says_why_and_claims_no_success(
    root: Client, people: People, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 0
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    response = act(root, "refresh_accounts", *people(12))
    note = "ilert refused every grant, so no account was marked."
    assert said(response, "error")[-1].startswith(note)
    assert said(response, "success") == []
    assert ConnectedAccount.objects.connected().count() == 12


@pytest.mark.django_db(transaction=True)
def test_an_administrator_is_told_which_grants_are_not_or_cannot_be_revoked(
    root: Client, people: People, ilert: StandIn
) -> None:
    lost, waiting = people(2)
    ilert.add_fault("revoke", Fault(503))
    response = act(root, "disconnect_accounts", spoil(lost), waiting)
    assert said(response, "success")[0].startswith("2 accounts were disconnected.")
    [warning], [error] = said(response, "warning"), said(response, "error")
    assert warning.startswith("1 grant is not revoked at ilert yet: refresh_ilert_tokens will try")
    assert error.startswith("1 grant cannot be revoked from here: have its user remove this app")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["disconnect_accounts", "delete_selected"])
def test_grants_are_revoked_several_at_a_time(
    root: Client, people: People, ilert: StandIn, monitor: RequestMonitor, action: str
) -> None:
    accounts = people(6)
    monitor.on_arrival = lambda count: time.sleep(0.05)
    response = act(root, action, *accounts)
    assert monitor.max_concurrent > 1
    assert said(response, "warning") == []
    assert [ilert.live_refresh_tokens("acme", account.username) for account in accounts] == [0] * 6


@pytest.mark.django_db(transaction=True)
def test_who_deletes_is_told_which_grants_are_not_revoked_yet(
    root: Client, people: People, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(503), times=None)
    one, *many = people(3)
    deleted = root.post(f"{LIST}{one.pk}/delete/", {"post": "yes"}, follow=True)
    [warning] = said(deleted, "warning")
    assert warning.startswith("1 grant is not revoked at ilert yet")
    [warning] = said(act(root, "delete_selected", *many), "warning")
    assert warning.startswith("2 grants are not revoked at ilert yet")
    assert not ConnectedAccount.objects.exists()


# Pending revocations


def test_a_pending_revocation_is_shown_with_its_attempts(
    root: Client, pending: PendingRevocation
) -> None:
    shown = page(root, REVOCATIONS)
    for text in (pending.api_url, ">2 days ago<", ">3<", "server_error", ">in 8 minutes<"):
        assert text in shown
    PendingRevocation.objects.update(next_attempt_at=None)
    assert "at the next run" in page(root, REVOCATIONS)


def test_a_revocation_that_was_given_up_says_what_is_left_to_do(
    root: Client, pending: PendingRevocation
) -> None:
    for next_attempt_at in (None, timezone.now()):
        PendingRevocation.objects.update(
            given_up_at=timezone.now() - timedelta(hours=3), next_attempt_at=next_attempt_at
        )
        shown = page(root, REVOCATIONS)
        assert ">3 hours ago</time>: if the grant is still valid, have the user remove" in shown
        assert '<td class="field-next_attempt">-</td>' in shown


def test_pending_revocations_are_found_by_name_and_error_and_not_by_ciphertext(
    root: Client, pending: PendingRevocation
) -> None:
    given_up = "given_up_at__isempty"
    for query in ({"q": "acme"}, {"q": "grace"}, {"error": "server_error"}, {given_up: "1"}):
        assert "grace @ acme" in page(root, REVOCATIONS, **query)
    for query in ({"q": "globex"}, {given_up: "0"}):
        assert "grace @ acme" not in page(root, REVOCATIONS, **query)
    found = root.get(REVOCATIONS, {"refresh_token_ciphertext__startswith": "gAAAA"})
    assert found.status_code == 400


def test_deleting_a_pending_revocation_needs_the_permission_and_says_what_it_means(
    staff: Staff, pending: PendingRevocation
) -> None:
    changelist, *_others, path = pages_of(pending)
    client = staff("view_pendingrevocation")
    assert "grace @ acme" in page(client, changelist)
    assert client.post(path, {"post": "yes"}).status_code == 403
    client = staff("view_pendingrevocation", "delete_pendingrevocation")
    chosen = {"action": "delete_selected", "_selected_action": [pending.pk]}
    for shown in (page(client, path), text_of(client.post(changelist, chosen))):
        assert "The grant will not be revoked at ilert" in shown
    client.post(path, {"post": "yes"})
    assert not PendingRevocation.objects.exists()


# History


def test_what_came_of_each_action_is_in_the_history_of_the_account(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", Fault(503))
    act(root, "refresh_accounts", account)
    for action in ("refresh_accounts", "check_accounts", "disconnect_accounts"):
        act(root, action, account)
    shown = page(root, f"{LIST}{account.pk}/history/")
    entries = ["Failed: server_error", "Refreshed.", "Checked with ilert.", "Disconnected."]
    assert [text for text in ("root", *entries) if text not in shown] == []


def test_refresh_refreshes_even_what_was_refreshed_just_now(
    root: Client, account: ConnectedAccount, ilert: StandIn
) -> None:
    for count in (1, 2):
        response = act(root, "refresh_accounts", account)
        assert said(response, "success") == ["1 account was refreshed. (grace @ acme)"]
        assert said(response, "error") == []
        assert len(ilert.token_requests) == count


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


@pytest.mark.django_db(transaction=True)
def test_disconnect_names_the_administrator_as_the_reason(
    root: Client, people: People, ilert: StandIn, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    response = act(root, "disconnect_accounts", *people(2))
    success = "2 accounts were disconnected. (user-0 @ acme, user-1 @ acme)"
    assert [str(message) for message in response.context["messages"]] == [success]
    rows = ConnectedAccount.objects.values_list("status", "reason")
    assert set(rows) == {(Status.DISCONNECTED, Reason.ADMIN)}
    assert ilert.live_refresh_tokens("acme", "user-0") == 0
    assert [facts["request"].user.username for _name, facts in sent] == ["root", "root"]


@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_a_failure_is_told_without_the_words_of_ilert_and_stops_none_of_the_others(
    root: Client, people: People, ilert: StandIn, action: str
) -> None:
    for endpoint in ("token", "token_info"):
        ilert.add_fault(endpoint, Fault(400, '{"code": "words-of-ilert", "error": "words"}'))
    response = act(root, action, *people(3))
    assert len(said(response, "error")) == 1
    assert said(response, "success")[0].startswith("2 accounts were ")
    assert "words-of-ilert" not in text_of(response)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_needs_its_own_permission_and_no_other(
    staff: Staff, account: ConnectedAccount, ilert: StandIn, action: str
) -> None:
    others = [permission for name, permission in ACTIONS.items() if name != action]
    client = staff("view_connectedaccount", "change_connectedaccount", *others)
    assert f'<option value="{action}">' not in page(client)
    before = list(ConnectedAccount.objects.values())
    act(client, action, account)
    assert list(ConnectedAccount.objects.values()) == before
    assert ilert.requests == []
    client = staff("view_connectedaccount", ACTIONS[action])
    offered = [name for name in ACTIONS if f'<option value="{name}">' in page(client)]
    assert offered == [action]
    assert len(said(act(client, action, account), "success")) == 1
    if action != "check_accounts":
        assert list(ConnectedAccount.objects.values()) != before


def test_who_has_no_permission_or_is_no_staff_sees_nothing(
    staff: Staff, browser: Client, account: ConnectedAccount
) -> None:
    client = staff()
    assert [client.get(path).status_code for path in pages_of(account)] == [403] * 4
    assert [browser.get(path).status_code for path in pages_of(account)] == [302] * 4


def test_a_row_whose_key_is_lost_says_so_and_has_all_its_pages(
    root: Client, account: ConnectedAccount
) -> None:
    changelist, change, *others = (page(root, path) for path in pages_of(spoil(account)))
    for shown in (changelist, change):
        assert "cannot be read: reconnect" in shown
    for shown in (changelist, change, *others):
        assert "grace @ acme" in shown


# Deleting


@pytest.mark.parametrize(
    ("is_revoked", "text"),
    [
        (True, "Deleting also revokes the access to ilert"),
        (False, "Deleting does not revoke the access at ilert"),
    ],
)
def test_who_deletes_is_told_whether_the_grant_ends(
    root: Client, account: ConnectedAccount, settings: Any, is_revoked: bool, text: str
) -> None:
    settings.ILERT_OAUTH_REVOKE_ON_DELETE = is_revoked
    one = page(root, f"{LIST}{account.pk}/delete/")
    for shown in (one, text_of(ask(root, "delete_selected", account))):
        assert text in shown
        assert ("also revokes" in shown) is is_revoked


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


def test_who_deletes_comes_back_to_the_list_or_stays_in_a_pop_up(
    staff: Staff, people: People
) -> None:
    client = staff("view_connectedaccount", "delete_connectedaccount")
    one, two = (f"{LIST}{account.pk}/delete/" for account in people(2))
    left: Any = client.post(f"{one}?_changelist_filters=q%3Dgrace", {"post": "yes"})
    assert left["Location"] == f"{LIST}?q=grace"
    assert client.post(two, {"post": "yes", "_popup": "1"}).status_code == 200


def test_the_page_that_asks_has_the_breadcrumbs_of_the_admin(
    root: Client, account: ConnectedAccount
) -> None:
    ours, djangos = (
        breadcrumbs(ask(root, action, account))
        for action in ("disconnect_accounts", "delete_selected")
    )
    assert ours == djangos.replace("Delete multiple objects", "Disconnect")


def breadcrumbs(response: Any) -> str:
    [trail] = re.findall(r'class="breadcrumbs">(.*?)</(?:div|ol)>', text_of(response))
    return str(trail)


def test_who_uses_an_admin_of_the_site_stays_in_it(
    root: Client, account: ConnectedAccount, settings: Any
) -> None:
    settings.ROOT_URLCONF = "tests.support.own_admin_urls"
    own = LIST.replace("admin", "operations", 1)
    chosen = {"_selected_action": account.pk, "from_account": account.pk}
    asking = [root.post(own, {"action": action, **chosen}) for action in ACTIONS]
    paths = [own, *(f"{own}{account.pk}/{name}/" for name in ("change", "delete"))]
    for response in (*map(root.get, paths), *asking):
        assert response.status_code == 200
        assert '="/admin/' not in response.content.decode()
    deleted: Any = root.post(paths[-1], {"post": "yes"})
    assert deleted["Location"] == own
