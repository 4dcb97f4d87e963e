"""What ilert has given is stored, however the database fails meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.flows import _lease, _refresh, _storing
from django_ilert_oauth.internal.db import update_row
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.transport import clock
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import Acting, beside, stored, stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)

ANY_ERROR = [OperationalError, InterfaceError, DatabaseError, IntegrityError]


@pytest.fixture(autouse=True)
def rotating_and_impatient(
    ilert: StandIn, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Iterator[None]:
    """The old refresh token is dead at once, and a lease lasts for a second."""
    ilert.options.rotate = True
    monkeypatch.setattr(_storing, "PAUSE", 0.01)
    for module in (_storing, _lease):
        monkeypatch.setattr(module, "STORING_SECONDS", 0.2)
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 5)
    yield
    assert _storing.can_store()


class Refusing:
    """Raises for so many of the statements that store tokens."""

    def __init__(self, error: type[Exception] = OperationalError, times: int = 10_000) -> None:
        self._error = error
        self._left = times
        self.on_refusal: Callable[[], object] = lambda: None
        self.connections: list[Any] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "UPDATE" in sql and "refreshed_at" in sql:
            self.connections.append(context["connection"].connection)
            if len(self.connections) <= self._left:
                self.on_refusal()
                raise self._error("the database is away")
        return execute(sql, params, many, context)


@pytest.mark.parametrize("error", ANY_ERROR)
@pytest.mark.parametrize("times", [1, 3])
def test_a_database_that_fails_is_asked_again_on_a_fresh_connection(
    account: ConnectedAccount, ilert: StandIn, error: type[Exception], times: int
) -> None:
    refusing = Refusing(error, times)
    with connection.execute_wrapper(refusing):
        flows.refresh(account)
    assert account.access_token == stored_tokens(account)[0]
    assert len(ilert.token_requests) == 1
    assert len(set(map(id, refusing.connections))) == times + 1


def test_a_database_that_goes_on_failing_is_told_once_the_lease_has_ended(
    account: ConnectedAccount, ilert: StandIn, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.2)
    before = stored_tokens(account)
    with (
        connection.execute_wrapper(Refusing()),
        pytest.raises(IlertUnavailableError) as caught,
    ):
        flows.refresh(account)
    assert caught.value.code == "not_stored"
    assert f"The new tokens of account {account.pk} are lost" in caplog.text
    assert "the database is away" not in caplog.text
    assert stored_tokens(account) == before
    assert ConnectedAccount.objects.unleased().exists()


def test_a_lease_that_ended_while_the_machine_slept_is_no_reason_to_lose_a_token(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(_storing, "clock", lambda: clock() + sum(slept))
    adapter = Acting(after=lambda: slept.append(3600))
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)
    with connection.execute_wrapper(Refusing(times=2)):
        flows.refresh(account)
    assert account.access_token == stored_tokens(account)[0]


def test_data_that_the_database_does_not_take_is_told_at_once(account: ConnectedAccount) -> None:
    refusing = Refusing(DataError)
    with connection.execute_wrapper(refusing), pytest.raises(DataError):
        flows.refresh(account)
    assert len(refusing.connections) == 1
    assert ConnectedAccount.objects.unleased().exists()


def test_inside_a_transaction_nothing_can_be_tried_again(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refresh, "has_one_writer", lambda: True)
    refusing = Refusing()
    with (
        connection.execute_wrapper(refusing),
        pytest.raises(IlertUnavailableError) as caught,
        transaction.atomic(),
    ):
        flows.refresh(account)
    assert caught.value.code == "busy"
    assert len(refusing.connections) == 1


def test_while_the_database_fails_the_process_asks_ilert_for_nothing_more(
    account: ConnectedAccount, make_account: AccountFactory, ilert: StandIn
) -> None:
    other = make_account(username="ada")
    codes: list[str] = []

    def refresh_other() -> None:
        try:
            flows.refresh(other)
        except IlertUnavailableError as error:
            codes.append(error.code)

    refusing = Refusing(times=2)
    refusing.on_refusal = lambda: _storing.can_store() or beside(refresh_other)
    with connection.execute_wrapper(refusing):
        flows.refresh(account)
    assert codes == ["not_stored"]
    assert len(ilert.token_requests) == 1
    assert flows.refresh(other).last_error == ""


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The row is, for so many tries to store tokens."""

    def lock(tries: int) -> None:
        left = iter(range(tries))

        def try_to_write(*args: Any, **kwargs: Any) -> bool:
            return next(left, None) is None and update_row(*args, **kwargs)

        monkeypatch.setattr(_storing, "update_row", try_to_write)

    return lock


def test_a_row_that_is_locked_for_a_while_is_written_then(
    account: ConnectedAccount, locked: Callable[[int], None]
) -> None:
    locked(3)
    flows.refresh(account)
    assert account.access_token == stored_tokens(account)[0]


def test_a_row_that_stays_locked_is_told_once_the_lease_has_ended(
    account: ConnectedAccount,
    locked: Callable[[int], None],
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.2)
    locked(10_000)
    with pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "not_stored"
    assert "the row stayed locked" in caplog.text


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Callable[[str], None]:
    """The refresh token that is stored while the request is under way."""

    def store(token: str) -> None:
        def write() -> None:
            row = ConnectedAccount.objects.get()
            row.refresh_token = token
            row.save()

        adapter = Acting(after=write)
        monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)

    return store


def test_the_token_that_was_sent_is_replaced_although_it_was_encrypted_again_meanwhile(
    account: ConnectedAccount, ilert: StandIn, meanwhile: Callable[[str], None]
) -> None:
    meanwhile(account.refresh_token.reveal())
    flows.refresh(account)
    assert account.refresh_token == stored_tokens(account)[1]
    assert len(ilert.token_requests) == 1


def test_another_token_is_not_replaced(
    expired_account: ConnectedAccount, meanwhile: Callable[[str], None]
) -> None:
    meanwhile("another")
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(expired_account)
    assert stored_tokens(expired_account)[1] == "another"


def test_a_token_that_no_key_opens_is_not_replaced(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    unreadable = {"refresh_token_ciphertext": "broken"}
    adapter = Acting(after=lambda: ConnectedAccount.objects.update(**unreadable))
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)
    with pytest.raises(TokenDecryptionError):
        flows.refresh(account)
    assert stored(account, *unreadable) == unreadable


def test_a_new_connection_that_does_not_see_the_account_stores_nothing_and_says_so(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Refusing(times=1)
    refusing.on_refusal = lambda: beside(
        lambda: ConnectedAccount.objects.filter(pk=account.pk).update(uuid=uuid4())
    )
    with connection.execute_wrapper(refusing), pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "not_stored"
    assert "a new connection does not see the account" in caplog.text
