from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from django_ilert_oauth.flows import lease
from django_ilert_oauth.flows.lease import give_back, new_lease, store_under, take_lease
from django_ilert_oauth.models import ConnectedAccount, DatabaseTime, Status
from tests.conftest import AccountFactory
from tests.flows.beside import at_once, copies, lapse_leases, stored

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STORE_PAUSES", (0, 0, 0))


def lease_columns(account: ConnectedAccount) -> dict[str, Any]:
    return stored(account, "lease_id", "lease_ends_ms")


NO_LEASE = {"lease_id": "", "lease_ends_ms": 0}


def database_ms() -> int:
    row = ConnectedAccount.objects.annotate(now=DatabaseTime()).values_list("now", flat=True)
    return int(row[0])


# Winning one


def test_of_many_callers_one_wins(account: ConnectedAccount) -> None:
    accounts = copies(account, 8)
    won = [
        lease_id for lease_id in at_once(8, lambda number: take_lease(accounts[number])) if lease_id
    ]
    assert won == [stored(account, "lease_id")["lease_id"]]


def test_a_lease_that_has_not_lapsed_is_nobody_else_s(account: ConnectedAccount) -> None:
    assert take_lease(account)
    assert take_lease(account) == ""


def test_a_lapsed_lease_can_be_taken(account: ConnectedAccount) -> None:
    first = take_lease(account)
    lapse_leases()
    second = take_lease(account)
    assert second not in ("", first)


@pytest.mark.parametrize(
    "changed",
    [
        {"access_token_ciphertext": "newer"},
        {"refresh_token_ciphertext": "newer"},
        {"status": Status.DISCONNECTED},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_caller_that_knows_an_older_row_loses(
    account: ConnectedAccount, changed: dict[str, str]
) -> None:
    ConnectedAccount.objects.update(**changed)
    assert take_lease(account) == ""
    assert lease_columns(account) == NO_LEASE


@pytest.mark.parametrize("more", [0, 60])
def test_a_lease_lasts_its_time_by_the_clock_of_the_database(
    account: ConnectedAccount, settings: Any, more: int
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (2, 10)
    before = database_ms()
    ConnectedAccount.objects.update(**new_lease(more))
    after = database_ms()
    length = 1000 * (2 * (2 + 10) + 5 + more)
    ends = lease_columns(account)["lease_ends_ms"]
    assert before + length <= ends <= after + length


def test_two_leases_are_told_apart() -> None:
    assert new_lease()["lease_id"] != new_lease()["lease_id"]


# Giving it back


def test_a_lease_is_given_back_by_its_holder_only(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    give_back("of another", [account.pk])
    assert lease_columns(account)["lease_id"] == lease_id
    give_back(lease_id, [account.pk])
    assert lease_columns(account) == NO_LEASE


def test_a_lease_is_given_back_for_the_accounts_named_only(make_account: AccountFactory) -> None:
    kept, given = make_account(), make_account(username="ada")
    ConnectedAccount.objects.update(lease_id="of-both", lease_ends_ms=2**53)
    give_back("of-both", [given.pk])
    assert lease_columns(kept)["lease_id"] == "of-both"


def test_a_lease_that_cannot_be_given_back_hides_no_other_error(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    with connection.execute_wrapper(Refusing(DatabaseError)):
        give_back(lease_id, [account.pk])


# Storing under it


class Refusing:
    """Raises for so many updates."""

    def __init__(self, error: type[Exception], times: int = 100) -> None:
        self._error = error
        self._left = times
        self.seen = 0

    def __call__(self, execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if sql.startswith("UPDATE"):
            self.seen += 1
            if self.seen <= self._left:
                raise self._error("the database is away")
        return execute(sql, params, *args)


def store(account: ConnectedAccount, lease_id: str, sent: str | None = None) -> bool:
    account.display_name = "stored"
    old = account.refresh_token_ciphertext if sent is None else sent
    return store_under(lease_id, account, old, ["display_name"])


def name_of(account: ConnectedAccount) -> str:
    return str(stored(account, "display_name")["display_name"])


def test_storing_gives_the_lease_back(account: ConnectedAccount) -> None:
    assert store(account, take_lease(account))
    assert name_of(account) == "stored"
    assert lease_columns(account) == NO_LEASE


def test_nothing_is_stored_without_the_lease(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    assert not store(account, "of another")
    assert name_of(account) == ""
    assert lease_columns(account)["lease_id"] == lease_id


def test_nothing_is_stored_over_another_token_than_was_sent(account: ConnectedAccount) -> None:
    assert not store(account, take_lease(account), sent="older")
    assert name_of(account) == ""


def test_only_the_columns_named_are_stored(account: ConnectedAccount) -> None:
    account.email = "not stored"
    store(account, take_lease(account))
    assert stored(account, "email")["email"] == ""


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
@pytest.mark.parametrize("times", [1, 3])
def test_a_database_that_fails_is_asked_again(
    account: ConnectedAccount, error: type[Exception], times: int
) -> None:
    lease_id = take_lease(account)
    with connection.execute_wrapper(Refusing(error, times)):
        assert store(account, lease_id)
    assert name_of(account) == "stored"


def test_a_database_that_goes_on_failing_is_told_in_the_end(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    refusing = Refusing(OperationalError)
    with connection.execute_wrapper(refusing), pytest.raises(OperationalError):
        store(account, lease_id)
    assert refusing.seen == 4


def test_an_error_that_will_not_pass_is_told_at_once(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    refusing = Refusing(DatabaseError)
    with connection.execute_wrapper(refusing), pytest.raises(DatabaseError):
        store(account, lease_id)
    assert refusing.seen == 1


def test_a_transaction_that_has_failed_is_not_tried_again(account: ConnectedAccount) -> None:
    lease_id = take_lease(account)
    refusing = Refusing(OperationalError)
    with (
        connection.execute_wrapper(refusing),
        pytest.raises(OperationalError),
        transaction.atomic(),
    ):
        store(account, lease_id)
    assert refusing.seen == 1


def test_a_transaction_without_autocommit_that_has_failed_is_not_tried_again(
    account: ConnectedAccount,
) -> None:
    lease_id = take_lease(account)
    refusing = Refusing(OperationalError)
    connection.set_autocommit(False)
    try:
        with connection.execute_wrapper(refusing), pytest.raises(OperationalError):
            store(account, lease_id)
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert refusing.seen == 1


# The clock


@pytest.mark.parametrize("zone", ["+00:00", "+09:00"])
def test_the_time_of_the_database_is_milliseconds_since_the_epoch_in_any_time_zone(
    account: ConnectedAccount, zone: str
) -> None:
    commands = {"postgresql": "SET TIME ZONE %s", "mysql": "SET time_zone = %s"}
    with connection.cursor() as cursor:
        if connection.vendor in commands:
            cursor.execute(commands[connection.vendor], [zone])
    try:
        assert abs(database_ms() - timezone.now().timestamp() * 1000) < 60_000
    finally:
        connection.close()


def test_the_time_of_the_database_goes_on_inside_a_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        before = database_ms()
        while database_ms() <= before:
            pass
