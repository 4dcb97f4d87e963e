from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core import serializers
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.forms import modelform_factory
from django.utils import timezone

from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from tests.support import docs, ilert_guide

ACCESS, REFRESH = ilert_guide.ACCESS_TOKEN, ilert_guide.REFRESH_TOKEN
API_URL = "https://api.ilert.com"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

Make = Callable[..., ConnectedAccount]
rows = ConnectedAccount.objects


@pytest.fixture
def make(user: User) -> Make:
    """A stored account; keywords are columns, times may be given as distance from now."""

    def store(**columns: Any) -> ConnectedAccount:
        columns = {
            "user": user,
            "api_url": API_URL,
            "tenant_id": "acme",
            "username": "grace",
            "access_token": ACCESS,
            "refresh_token": REFRESH,
            "access_token_expires_at": HOUR,
            **columns,
        }
        for name, value in columns.items():
            if isinstance(value, timedelta):
                columns[name] = timezone.now() + value
        return ConnectedAccount.objects.create(**columns)

    return store


def reread(account: ConnectedAccount) -> ConnectedAccount:
    return ConnectedAccount.objects.get(pk=account.pk)


def tokens_of(account: ConnectedAccount) -> tuple[str, str]:
    return account.access_token.reveal(), account.refresh_token.reveal()


def holds_plain_text(shown: str | bytes) -> bool:
    text = shown if isinstance(shown, str) else shown.decode("latin-1")
    return ACCESS in text or REFRESH in text


# Tokens


def test_tokens_given_to_the_constructor_are_stored_encrypted(make: Make) -> None:
    account = reread(make())
    assert tokens_of(account) == (ACCESS, REFRESH)
    assert not holds_plain_text(account.access_token_ciphertext + account.refresh_token_ciphertext)


def test_a_token_that_is_set_is_encrypted_at_once(make: Make) -> None:
    account = make(access_token="", refresh_token="")
    account.access_token, account.refresh_token = ACCESS, REFRESH
    account.save()
    assert tokens_of(reread(account)) == (ACCESS, REFRESH)


def test_no_token_is_an_empty_one(make: Make) -> None:
    account = make(access_token="", refresh_token="")
    assert tokens_of(account) == ("", "")
    assert account.access_token_ciphertext == account.refresh_token_ciphertext == ""


def test_the_plain_text_is_not_kept_on_the_account_nor_in_its_pickle(make: Make) -> None:
    account = make()
    assert account.access_token == ACCESS
    assert account.refresh_token == REFRESH
    assert not holds_plain_text(f"{vars(account)} {account!r} {account}")
    assert not holds_plain_text("".join(map(str, vars(account).values())))
    pickled = pickle.dumps(account)
    assert not holds_plain_text(pickled)
    assert pickle.loads(pickled).access_token == ACCESS  # noqa: S301


@pytest.mark.parametrize("columns", [{}, {"update_fields": ["email"]}])
def test_saving_other_columns_leaves_the_bytes_alone(make: Make, columns: dict[str, Any]) -> None:
    before = make()
    account = reread(before)
    account.email = "grace@acme.example"
    account.save(**columns)
    after = reread(before)
    assert after.email == "grace@acme.example"
    assert after.access_token_ciphertext == before.access_token_ciphertext
    assert after.refresh_token_ciphertext == before.refresh_token_ciphertext


def test_values_and_fixtures_see_only_ciphertext(make: Make) -> None:
    make()
    assert not holds_plain_text(json.dumps(list(ConnectedAccount.objects.values()), default=str))
    assert not holds_plain_text(serializers.serialize("json", ConnectedAccount.objects.all()))


def test_a_dumped_account_opens_where_it_is_loaded(make: Make) -> None:
    account = make()
    dumped = serializers.serialize("json", ConnectedAccount.objects.all())
    ConnectedAccount.objects.all().update(access_token_ciphertext="")
    for loaded in serializers.deserialize("json", dumped):
        loaded.save()
    assert reread(account).access_token == ACCESS


def test_bulk_update_writes_ciphertext_and_knows_no_plain_column(make: Make) -> None:
    account = make(access_token="")
    account.access_token = ACCESS
    ConnectedAccount.objects.bulk_update([account], ["access_token_ciphertext"])
    assert reread(account).access_token == ACCESS
    plain: list[str] = ["access_token"]
    with pytest.raises(FieldDoesNotExist):
        ConnectedAccount.objects.bulk_update([account], plain)


def test_nothing_can_filter_by_a_token() -> None:
    for name in ("access_token", "refresh_token"):
        with pytest.raises(FieldError):
            ConnectedAccount.objects.filter(**{name: ACCESS})


def test_no_form_offers_a_ciphertext() -> None:
    fields = modelform_factory(ConnectedAccount, fields="__all__").base_fields
    assert not [name for name in fields if "token" in name and not name.endswith("_at")]


def test_the_uuid_never_changes(make: Make) -> None:
    account = make()
    before = account.uuid
    account.uuid = uuid4()
    account.save()
    assert reread(account).uuid == before


def test_a_ciphertext_copied_to_another_row_or_column_does_not_open_there(make: Make) -> None:
    victim, thief = make(), make(username="mallory", access_token="")
    thief.access_token_ciphertext = victim.access_token_ciphertext
    thief.save()
    victim.access_token_ciphertext = victim.refresh_token_ciphertext
    for account in (reread(thief), victim):
        with pytest.raises(TokenDecryptionError):
            _ = account.access_token


def test_tokens_stay_readable_whatever_ilert_calls_the_account_and_whosever_it_is(
    make: Make,
) -> None:
    account = make()
    another = User.objects.create_user("another")
    ConnectedAccount.objects.update(username="hopper", tenant_id="globex", user=another)
    assert tokens_of(reread(account)) == (ACCESS, REFRESH)


def test_tokens_do_not_open_beside_another_address(make: Make) -> None:
    """Who can write rows would have them sent there."""
    make()
    ConnectedAccount.objects.update(api_url="https://evil.example")
    assert not ConnectedAccount.objects.get().is_readable


def test_tokens_are_taken_to_another_address_by_encrypting_them_again(make: Make) -> None:
    account = make()
    moving = docs.blocks("python", "docs/guides/keys")[-1]
    exec(moving.replace("https://old.example.com", account.api_url), {})  # noqa: S102
    assert reread(account).api_url == "https://new.example.com"
    assert tokens_of(reread(account)) == (ACCESS, REFRESH)


@pytest.mark.parametrize("name", ["access_token", "refresh_token"])
def test_one_bad_row_never_breaks_a_list(make: Make, name: str) -> None:
    bad, good = make(**{f"{name}_ciphertext": "not Fernet"}), make(username="ada")
    ConnectedAccount.objects.filter(pk=bad.pk).update(**{f"{name}_ciphertext": "not Fernet"})
    listed = {account.pk: account for account in ConnectedAccount.objects.order_by("pk")}
    assert [str(account) for account in listed.values()] == ["grace @ acme", "ada @ acme"]
    assert getattr(listed[good.pk], name) in (ACCESS, REFRESH)
    with pytest.raises(TokenDecryptionError) as caught:
        getattr(listed[bad.pk], name)
    assert "not Fernet" not in str(caught.value)


def test_a_bad_row_can_be_saved_and_given_a_new_token(make: Make) -> None:
    account = make(access_token="")
    account.access_token_ciphertext = "not Fernet"
    account.save()
    account.access_token = ACCESS
    assert account.access_token == ACCESS


# The queryset


def test_connected_leaves_out_what_has_ended(make: Make) -> None:
    for status in Status:
        make(username=status, status=status)
    assert [account.username for account in ConnectedAccount.objects.connected()] == ["connected"]


def test_for_user_knows_only_the_users_own(make: Make, user: User) -> None:
    make(user=User.objects.create_user("another"))
    own = make()
    assert list(ConnectedAccount.objects.for_user(user)) == [own]
    assert list(user.ilert_accounts.all()) == [own]


def test_expiring_finds_what_is_due(make: Make) -> None:
    due: list[dict[str, Any]] = [
        {"access_token_expires_at": 14 * MINUTE},
        {"access_token_expires_at": -DAY},
        {"access_token_expires_at": None},
        {"refresh_token_expires_at": 6 * DAY},
        {"refresh_token_expires_at": 6 * DAY, "refreshed_at": -25 * HOUR},
        {"access_token_expires_at": 3 * HOUR, "refreshed_at": 2 * HOUR},
        {"access_token_expires_at": 3 * HOUR, "connected_at": 2 * HOUR},
    ]
    others: list[dict[str, Any]] = [
        {"access_token_expires_at": 16 * MINUTE},
        {"access_token_expires_at": None, "refresh_token": ""},
        {"access_token_expires_at": -DAY, "status": Status.DISCONNECTED},
        {"access_token_expires_at": -DAY, "status": Status.RECONNECT_REQUIRED},
        {"access_token_expires_at": None, "status": Status.RECONNECT_REQUIRED},
        {"refresh_token_expires_at": 6 * DAY, "refreshed_at": -23 * HOUR},
        {"access_token_expires_at": 3 * HOUR, "refreshed_at": -MINUTE, "connected_at": 2 * HOUR},
        {"refresh_token_expires_at": 8 * DAY},
        {"refresh_token_expires_at": None},
        {"refresh_token_expires_at": 6 * DAY, "status": Status.DISCONNECTED},
    ]
    for number, columns in enumerate((*due, *others)):
        make(username=f"{number:02}", **columns)
    found = ConnectedAccount.objects.expiring(within=15 * MINUTE).order_by("username")
    assert [(due + others)[int(account.username)] for account in found] == due


@pytest.mark.skipif(connection.vendor != "sqlite", reason="each database explains in its own way")
def test_what_is_due_is_found_by_the_indexes_alone(db: None) -> None:
    plan = ConnectedAccount.objects.expiring(within=15 * MINUTE).explain()
    assert "ilert_oauth_access" in plan
    assert "ilert_oauth_grant" in plan
    assert "SCAN" not in plan


def test_the_database_and_the_account_agree_on_scopes(make: Make) -> None:
    granted = ["", "profile", "profile source:w", "source:d", "wildcard", "wildcard:d", "a source"]
    accounts = [make(username=scope or "none", granted_scope=scope) for scope in granted]
    one = ["profile", "source:r", "team:d", "status_page", "ource", "sourc_", "%"]
    every: list[list[Any]] = [[], ["source:w", "profile"], [["source:d"]], *([it] for it in one)]
    for required in every:
        expected = {account for account in accounts if account.has_scopes(*required)}
        assert set(ConnectedAccount.objects.with_scopes(*required)) == expected


def test_with_scopes_wants_all_of_them(make: Make) -> None:
    make(username="one", granted_scope="profile")
    both = make(username="both", granted_scope="source:w profile")
    assert list(ConnectedAccount.objects.with_scopes("profile source")) == [both]


def test_a_search_takes_capitals_and_small_letters_for_the_same(make: Make) -> None:
    grace = make()
    make(username="ada")
    for part in ("GRA", "race"):
        assert list(ConnectedAccount.objects.filter(username__icontains=part)) == [grace]


def test_querysets_can_be_chained(make: Make, user: User) -> None:
    account = make(granted_scope="profile", access_token_expires_at=None)
    rows = ConnectedAccount.objects.for_user(user).with_scopes("profile").expiring(within=MINUTE)
    assert list(rows.connected()) == [account]


# Questions


def test_only_an_account_whose_grant_has_gone_needs_reconnecting() -> None:
    needing = [status for status in Status if ConnectedAccount(status=status).needs_reconnect]
    assert needing == [Status.RECONNECT_REQUIRED]


def test_an_account_says_its_scopes_in_words() -> None:
    account = ConnectedAccount(granted_scope="profile source:w")
    assert [str(sentence) for sentence in account.scope_sentences] == [
        "See your profile",
        "See, create and edit alert sources",
    ]


def test_a_token_is_fresh_while_it_is_known_to_be_good_beyond_the_margin(make: Make) -> None:
    assert make().is_fresh(2 * MINUTE)
    assert make(username="ada", access_token_expires_at=3 * MINUTE).is_fresh(2 * MINUTE)
    stale: list[dict[str, Any]] = [
        {"access_token_expires_at": MINUTE},
        {"access_token_expires_at": None},
        {"access_token": ""},
        {"status": Status.RECONNECT_REQUIRED},
        {"status": Status.DISCONNECTED},
        {"refreshed_at": MINUTE},
        {"connected_at": MINUTE},
    ]
    for number, columns in enumerate(stale):
        assert not make(username=f"{number}", **columns).is_fresh(2 * MINUTE), columns


def test_an_account_knows_whether_it_was_refreshed_lately() -> None:
    distances = {-4 * MINUTE: True, -6 * MINUTE: False, timedelta(seconds=5): True, MINUTE: False}
    for distance, is_lately in distances.items():
        account = ConnectedAccount(refreshed_at=timezone.now() + distance)
        assert account.was_refreshed_within(5 * MINUTE) is is_lately
        assert not account.was_refreshed_within(timedelta(0))
    assert not ConnectedAccount().was_refreshed_within(5 * MINUTE)


def test_a_new_account_is_connected_now_and_has_no_troubles(make: Make) -> None:
    account = make()
    assert (account.status, account.reason, account.last_error) == (Status.CONNECTED, "", "")
    assert timezone.now() - account.connected_at < MINUTE
    assert timezone.now() - account.status_changed_at < MINUTE


def test_the_choices_are_the_documented_ones() -> None:
    assert Status.names == ["CONNECTED", "RECONNECT_REQUIRED", "DISCONNECTED"]
    assert Reason.names == ["USER", "ADMIN", "REVOKED_AT_ILERT", "EXPIRED", "DELETED", "INCIDENT"]
    assert (ConnectedAccount.Status, ConnectedAccount.Reason) == (Status, Reason)


# Uniqueness


def test_a_person_is_connected_once_by_a_user(make: Make) -> None:
    make()
    with pytest.raises(IntegrityError), transaction.atomic():
        make()


def test_another_ilert_tenant_person_or_user_is_another_account(make: Make) -> None:
    make()
    make(api_url="https://eu.ilert.com")
    make(tenant_id="globex")
    make(username="ada")
    make(user=User.objects.create_user("x"))
    assert ConnectedAccount.objects.count() == 5


LOOK_ALIKE = {
    "api_url": ["https://API.ilert.com", "https://api.ilert.com "],
    "tenant_id": ["Acme", "acmé", "acme ", "ａcme"],
    "username": ["Grace", "gráce", "grace ", "ｇrace"],
}


@pytest.mark.parametrize("column", LOOK_ALIKE)
def test_names_that_only_look_alike_are_distinguished_and_each_is_stored_once(
    make: Make, column: str
) -> None:
    first = make()
    for name in LOOK_ALIKE[column]:
        other = {column: name}
        second = make(**other)
        assert ConnectedAccount.objects.get(**other) == second
        assert ConnectedAccount.objects.get(**{column: getattr(first, column)}) == first
        same: dict[str, Any] = {"user": first.user, "api_url": API_URL}
        same |= {"tenant_id": "acme", "username": "grace", **other}
        for write in (
            lambda same=same: ConnectedAccount.objects.create(**same),
            lambda same=same: ConnectedAccount.objects.bulk_create([ConnectedAccount(**same)]),
            lambda other=other: ConnectedAccount.objects.filter(pk=first.pk).update(**other),
        ):
            with pytest.raises(IntegrityError), transaction.atomic():
                write()
        assert ConnectedAccount.objects.get_or_create(**same) == (second, False)


def test_a_name_can_be_compared_with_a_column_of_another_table(make: Make, user: User) -> None:
    make()
    account = make(username=user.username)
    assert list(ConnectedAccount.objects.filter(username=F("user__username"))) == [account]


# What save() leaves out

GRANT = {
    "access_token": "newer-access",
    "refresh_token": "newer-refresh",
    "granted_scope": "source:d",
    "refreshed_at": MINUTE,
    "access_token_expires_at": 2 * HOUR,
}


def refresh_elsewhere(account: ConnectedAccount) -> ConnectedAccount:
    """As another process does meanwhile."""
    row = reread(account)
    for name, value in GRANT.items():
        moment = timezone.now() + value if isinstance(value, timedelta) else value
        setattr(row, name, moment)
    row.save()
    return row


def disconnect_elsewhere(account: ConnectedAccount) -> ConnectedAccount:
    row = reread(account)
    row.status, row.reason = Status.DISCONNECTED, Reason.USER
    row.access_token = row.refresh_token = ""
    row.save()
    return row


def hand_over_and_rename_elsewhere(account: ConnectedAccount) -> ConnectedAccount:
    row = reread(account)
    row.user, row.username = User.objects.create_user("successor"), "hopper"
    row.save()
    return row


def row_of(account: ConnectedAccount) -> dict[str, Any]:
    return dict(ConnectedAccount.objects.values().get(pk=account.pk))


def read_again(account: ConnectedAccount) -> ConnectedAccount:
    account.status, account.last_error = Status.RECONNECT_REQUIRED, "timeout"
    account.refresh_from_db(fields=["status"])
    account.refresh_from_db()
    return account


def saved_before(account: ConnectedAccount) -> ConnectedAccount:
    account.last_error = "timeout"
    account.save(update_fields=["last_error"])
    return account


def created_in_bulk(account: ConnectedAccount) -> ConnectedAccount:
    account.pk, account.uuid, account.username = None, uuid4(), "hopper"
    account.access_token, account.refresh_token = ACCESS, REFRESH
    [created] = rows.bulk_create([account])
    return created


def updated_in_bulk(account: ConnectedAccount) -> ConnectedAccount:
    account.refresh_token = "set"
    rows.bulk_update([account], ["refresh_token_ciphertext"])
    return account


STALE: dict[str, Callable[[ConnectedAccount], ConnectedAccount]] = {
    "created": lambda account: account,
    "created in bulk": created_in_bulk,
    "updated in bulk": updated_in_bulk,
    "read": reread,
    "read again": read_again,
    "read without tokens": lambda account: rows.defer("access_token_ciphertext").get(pk=account.pk),
    "read with names only": lambda account: rows.only("username", "email").get(pk=account.pk),
    "copied": lambda account: copy.deepcopy(copy.copy(reread(account))),
    "unpickled": lambda account: pickle.loads(pickle.dumps(reread(account))),  # noqa: S301
    "saved before": saved_before,
}


#: Ways to save complete objects; Django's own ``asave`` passes all of its keywords.
COMPLETE: list[dict[str, Any]] = [
    {"using": "default"},
    {"force_update": True},
    {"force_insert": False, "force_update": False, "using": None, "update_fields": None},
]


@pytest.mark.parametrize(
    ("read", "change", "options"),
    [
        *((read, refresh_elsewhere, {}) for read in STALE.values()),
        (reread, disconnect_elsewhere, {}),
        (reread, hand_over_and_rename_elsewhere, {}),
        *((reread, refresh_elsewhere, options) for options in COMPLETE),
    ],
    ids=[
        *STALE,
        "disconnected meanwhile",
        "handed over meanwhile",
        "saved by name",
        "forced",
        "saved as asave does",
    ],
)
def test_a_stale_object_brings_nothing_back(
    make: Make,
    read: Callable[[ConnectedAccount], ConnectedAccount],
    change: Callable[[ConnectedAccount], ConnectedAccount],
    options: dict[str, Any],
) -> None:
    stale = read(make())
    change(stale)
    stored = row_of(stale)
    stale.email = "grace@acme.example"
    stale.save(**options)
    assert row_of(stale) == stored | {"email": "grace@acme.example"}


def test_a_stale_object_that_is_saved_as_in_former_times_brings_nothing_back(make: Make) -> None:
    stale = reread(make())
    newer = refresh_elsewhere(stale)
    save: Any = stale.save
    save(False, True)
    assert tokens_of(reread(stale)) == tokens_of(newer)


def test_what_an_object_has_set_itself_is_written(make: Make) -> None:
    stale = reread(make())
    newer = refresh_elsewhere(stale)
    stale.status, stale.reason = Status.DISCONNECTED, Reason.ADMIN
    stale.save()
    row = reread(stale)
    assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.ADMIN)
    assert tokens_of(row) == tokens_of(newer)


def test_what_was_set_once_is_not_written_again(make: Make) -> None:
    account = make()
    account.status = Status.RECONNECT_REQUIRED
    account.save()
    ConnectedAccount.objects.update(status=Status.CONNECTED)
    account.save()
    assert reread(account).status == Status.CONNECTED


def test_columns_that_are_named_are_written_as_named(make: Make) -> None:
    stale = reread(make())
    refresh_elsewhere(stale)
    stale.save(update_fields=["granted_scope"])
    assert reread(stale).granted_scope == ""
    assert reread(stale).access_token == "newer-access"


def test_a_deleted_row_does_not_rise_again(make: Make) -> None:
    stale = reread(make())
    ConnectedAccount.objects.all()._raw_delete("default")
    with pytest.raises(DatabaseError), transaction.atomic():
        stale.save()
    assert not ConnectedAccount.objects.exists()


def test_a_new_object_and_a_copy_under_a_new_key_are_written_completely(make: Make) -> None:
    account = make(granted_scope="profile", last_error="timeout")
    account.pk, account.uuid, account.username = None, uuid4(), "hopper"
    account.access_token = "another"
    account._state.adding = True
    account.save()
    row = reread(account)
    assert (row.granted_scope, row.last_error) == ("profile", "timeout")
    assert row.access_token == "another"


# Revocations that are still to be sent


@pytest.fixture
def pending(make: Make) -> PendingRevocation:
    account = make()
    return PendingRevocation.objects.create(
        account_uuid=account.uuid,
        client_id=account.client_id,
        api_url=account.api_url,
        tenant_id=account.tenant_id,
        username=account.username,
        refresh_token_ciphertext=account.refresh_token_ciphertext,
    )


def test_a_pending_revocation_opens_the_accounts_ciphertext(pending: PendingRevocation) -> None:
    assert PendingRevocation.objects.get().refresh_token == REFRESH
    assert str(pending) == "grace @ acme"
    assert not holds_plain_text(f"{vars(pending)}")


def test_a_pending_revocation_that_cannot_be_read_raises(pending: PendingRevocation) -> None:
    pending.account_uuid = uuid4()
    with pytest.raises(TokenDecryptionError):
        _ = pending.refresh_token


def test_the_status_is_told_in_words(make: Make) -> None:
    ended = make(username="ada", status="reconnect_required", reason="expired")
    disconnected = make(username="x", access_token="", refresh_token="", status="disconnected")
    assert [str(account.status_text) for account in (make(), ended, disconnected)] == [
        "connected",
        "needs reconnecting: access has expired",
        "disconnected",
    ]


def test_tokens_that_no_key_opens_are_told_before_any_status(make: Make, settings: Any) -> None:
    account = make()
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = ["n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="]
    assert not account.is_readable
    assert str(account.status_text) == "cannot be read: reconnect"
