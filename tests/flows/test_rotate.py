from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _rotate_keys
from django_ilert_oauth.flows._lease import release
from django_ilert_oauth.internal import crypto, rows
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import held, revocations_sent

pytestmark = pytest.mark.django_db(transaction=True)

NEW = "n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="


@pytest.fixture
def new_key(settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]


@pytest.fixture
def rotated(account: ConnectedAccount, new_key: None) -> ConnectedAccount:
    flows.rotate_keys()
    account.refresh_from_db()
    return account


def keys_of(account: ConnectedAccount) -> list[int]:
    names = ("access_token", "refresh_token")
    texts = {name: getattr(account, f"{name}_ciphertext") for name in names}
    return [crypto.key_number(text, account.place_of(name)) for name, text in texts.items()]


def test_after_a_rotation_the_old_key_may_be_dropped(
    account: ConnectedAccount, new_key: None, settings: Any
) -> None:
    before = (account.access_token, account.refresh_token)
    assert keys_of(account) == [2, 2]
    assert flows.rotate_keys() == flows.RotationResult(rotated=1)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW]
    account.refresh_from_db()
    assert (account.access_token, account.refresh_token) == before
    assert keys_of(account) == [1, 1]


def test_a_second_rotation_writes_nothing(rotated: ConnectedAccount) -> None:
    stored = rotated.access_token_ciphertext
    assert flows.rotate_keys() == flows.RotationResult(current=1)
    rotated.refresh_from_db()
    assert rotated.access_token_ciphertext == stored


def test_one_key_has_nothing_to_rotate(account: ConnectedAccount) -> None:
    assert flows.rotate_keys() == flows.RotationResult(current=1)


def test_a_dry_run_counts_and_writes_nothing(account: ConnectedAccount, new_key: None) -> None:
    before = ConnectedAccount.objects.values().get()
    assert flows.rotate_keys(dry_run=True) == flows.RotationResult(on_old_keys=1)
    assert ConnectedAccount.objects.values().get() == before


def test_every_row_is_reached_across_batches(
    make_account: AccountFactory, new_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 2)
    for number in range(5):
        make_account(username=f"user{number}")
    ConnectedAccount.objects.filter(username="user3").delete()
    assert flows.rotate_keys().current == 5 - 1


def test_a_grant_whose_revocation_is_pending_is_rotated_too(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    refresh_token = account.refresh_token.reveal()
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(account)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    assert flows.rotate_keys() == flows.RotationResult(rotated=1, current=1)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW]
    assert PendingRevocation.objects.get().refresh_token == refresh_token


def test_a_revocation_that_was_given_up_needs_its_key_no_more(
    account: ConnectedAccount, settings: Any
) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW]
    flows.disconnect(account)
    assert PendingRevocation.objects.get().given_up_at
    assert flows.rotate_keys() == flows.RotationResult(current=1)


def test_a_revocation_that_was_given_up_is_taken_up_once_its_key_is_back(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    keys, settings.ILERT_OAUTH_ENCRYPTION_KEYS = settings.ILERT_OAUTH_ENCRYPTION_KEYS, [NEW]
    flows.disconnect(account)
    assert flows.revoke_pending() == flows.RevocationResult()
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = keys
    flows.rotate_keys(dry_run=True)
    assert flows.revoke_pending() == flows.RevocationResult()
    flows.rotate_keys()
    assert flows.revoke_pending().revoked == 1
    assert len(revocations_sent(ilert)) == 1


def test_a_row_that_no_key_opens_is_named_and_left_and_stops_nothing(
    make_account: AccountFactory, new_key: None
) -> None:
    bad = make_account()
    make_account(username="ada")
    ConnectedAccount.objects.filter(pk=bad.pk).update(access_token_ciphertext="gAAAA")
    before = ConnectedAccount.objects.values().get(pk=bad.pk)
    result = flows.rotate_keys()
    assert result.unreadable == [f"ilert account {bad.pk} (grace @ acme)"]
    assert ConnectedAccount.objects.values().get(pk=bad.pk) == before


def stopped_at_write(number: int) -> Any:
    """By Ctrl-C."""
    writes = count(1)

    def watch(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and next(writes) == number:
            raise KeyboardInterrupt
        return execute(sql, *args)

    return connection.execute_wrapper(watch)


def test_a_run_that_was_stopped_in_its_second_batch_is_finished_by_the_next(
    make_account: AccountFactory, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE", 2)
    for number in range(5):
        make_account(username=f"user{number}")
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    with stopped_at_write(3), pytest.raises(KeyboardInterrupt):
        flows.rotate_keys()
    accounts = ConnectedAccount.objects.order_by("pk")
    assert [keys_of(account) for account in accounts.all()] == [[1, 1]] * 2 + [[2, 2]] * 3
    assert flows.rotate_keys() == flows.RotationResult(rotated=3, current=2)
    assert [keys_of(account) for account in accounts.all()] == [[1, 1]] * 5


def meanwhile(act: Any) -> Any:
    """Acts once, before the first write."""
    waiting = [act]

    def watch(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and waiting:
            waiting.pop()()
        return execute(sql, *args)

    return connection.execute_wrapper(watch)


def test_a_token_stored_meanwhile_is_not_overwritten(
    account: ConnectedAccount, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rotate_keys, "PAUSE", 0.01)
    other = ConnectedAccount.objects.get()
    other.refresh_token = "newer-refresh"
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    with meanwhile(other.save):
        assert flows.rotate_keys() == flows.RotationResult(rotated=1)
    account.refresh_from_db()
    assert account.refresh_token == "newer-refresh"
    assert keys_of(account) == [1, 1]


def test_an_account_that_is_being_refreshed_is_waited_for(
    account: ConnectedAccount, new_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = held(account)
    monkeypatch.setattr(_rotate_keys, "PAUSE", 0.01)
    looks: list[None] = []

    def look_twice(seconds: float) -> None:
        looks.append(None)
        if len(looks) == 2:
            release(lease)

    monkeypatch.setattr(time, "sleep", look_twice)
    assert flows.rotate_keys() == flows.RotationResult(rotated=1)
    assert len(looks) == 2


def test_an_account_that_stays_busy_is_counted(
    account: ConnectedAccount, new_key: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(account)
    monkeypatch.setattr(_rotate_keys, "lease_seconds", lambda: -5)
    assert flows.rotate_keys() == flows.RotationResult(on_old_keys=1)


def test_a_refresh_goes_on_after_a_rotation(rotated: ConnectedAccount, ilert: StandIn) -> None:
    flows.refresh(rotated)
    assert len(ilert.token_requests) == 1
    assert keys_of(rotated) == [1, 1]
