"""What ilert has given is stored, however the database fails meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)

import django_ilert_oauth
from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.flows import _lease, _refresh, _storing
from django_ilert_oauth.internal.db import update_row
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet
from django_ilert_oauth.oauth.transport import clock
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import beside, stored, stored_tokens, without_autocommit

pytestmark = pytest.mark.django_db(transaction=True)

APP = Path(django_ilert_oauth.__file__).parent
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

    def __init__(self, error: type[BaseException] = OperationalError, times: int = 10_000) -> None:
        self._error = error
        self._left = times
        self.on_failure: Callable[[], object] = lambda: None
        self.connections: list[Any] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "UPDATE" in sql and "refreshed_at" in sql:
            self.connections.append(context["connection"].connection)
            if len(self.connections) <= self._left:
                self.on_failure()
                raise self._error("the database is away")
        return execute(sql, params, many, context)


@pytest.mark.parametrize(
    ("error", "times"), [(error, 3) for error in ANY_ERROR] + [(DatabaseError, 1)]
)
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
    account: ConnectedAccount, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.2)
    before = stored_tokens(account)
    with connection.execute_wrapper(Refusing()), pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "not_stored"
    assert f"The new tokens of account {account.pk} are lost" in caplog.text
    assert "the database is away" not in caplog.text
    assert stored_tokens(account) == before
    assert ConnectedAccount.objects.unleased().exists()


def test_a_lease_that_ended_while_the_machine_slept_is_no_reason_to_lose_a_token(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, during_request: Any
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(_storing, "clock", lambda: clock() + sum(slept))
    during_request(after=lambda: slept.append(3600))
    with connection.execute_wrapper(Refusing(times=2)):
        flows.refresh(account)
    assert account.access_token == stored_tokens(account)[0]


def test_data_that_the_database_does_not_take_is_told_at_once(account: ConnectedAccount) -> None:
    refusing = Refusing(DataError)
    with connection.execute_wrapper(refusing), pytest.raises(DataError):
        flows.refresh(account)
    assert len(refusing.connections) == 1
    assert ConnectedAccount.objects.unleased().exists()


@pytest.mark.parametrize("block", [transaction.atomic, without_autocommit])
def test_inside_a_transaction_nothing_can_be_tried_again(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, block: Callable[[], Any]
) -> None:
    monkeypatch.setattr(_refresh, "has_one_writer", lambda _using: True)
    refusing = Refusing()
    with connection.execute_wrapper(refusing), block():
        with pytest.raises(IlertUnavailableError) as caught:
            flows.refresh(account)
        assert refusing.connections == [connection.connection]
    assert caught.value.code == "busy"


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
    refusing.on_failure = lambda: _storing.can_store() or beside(refresh_other)
    with connection.execute_wrapper(refusing):
        flows.refresh(account)
    assert codes == ["not_stored"]
    assert len(ilert.token_requests) == 1
    assert flows.refresh(other).last_error == ""


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The row is, for so many attempts to store tokens."""

    def lock(attempts: int) -> None:
        left = iter(range(attempts))

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


def test_another_token_is_not_replaced(
    expired_account: ConnectedAccount, during_request: Any
) -> None:
    row = ConnectedAccount.objects.get()
    row.refresh_token = "another"
    during_request(after=row.save)
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(expired_account)
    assert stored_tokens(expired_account)[1] == "another"


def encrypt_again(_settings: Any) -> None:
    row = ConnectedAccount.objects.get()
    row.refresh_token = row.refresh_token.reveal()
    row.save()


def lapse(_settings: Any) -> None:
    ConnectedAccount.objects.update(lease_ends_ms=0, lease_id="")


def lapse_and_rotate(settings: Any) -> None:
    lapse(settings)
    new = "cGFzc3BocmFzZS1mb3ItdGVzdHMtMzItYnl0ZXMtLSE="
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
    assert flows.rotate_keys().rotated == 1


@pytest.mark.parametrize("change", [encrypt_again, lapse, lapse_and_rotate])
def test_the_token_that_was_sent_is_replaced_whatever_was_done_to_its_row_meanwhile(
    account: ConnectedAccount, ilert: StandIn, settings: Any, during_request: Any, change: Any
) -> None:
    before = account.refresh_token
    during_request(after=lambda: change(settings))
    flows.refresh(account)
    assert before != account.refresh_token == stored_tokens(account)[1]
    assert len(ilert.token_requests) == 1


def test_a_token_that_no_key_opens_is_not_replaced(
    account: ConnectedAccount, during_request: Any
) -> None:
    unreadable = {"refresh_token_ciphertext": "broken"}
    during_request(after=lambda: ConnectedAccount.objects.update(**unreadable))
    with pytest.raises(TokenDecryptionError):
        flows.refresh(account)
    assert stored(account, *unreadable) == unreadable


@pytest.mark.parametrize("rotate", [lambda: None, flows.rotate_keys], ids=["lost", "rotated"])
def test_keys_that_change_during_the_request_cost_no_token(
    account: ConnectedAccount,
    during_request: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    rotate: Callable[[], object],
) -> None:
    monkeypatch.setattr(ConnectedAccountQuerySet, "unleased", lambda rows: rows)
    before, after = settings.ILERT_OAUTH_ENCRYPTION_KEYS, [Fernet.generate_key().decode()]

    def change_keys() -> None:
        settings.ILERT_OAUTH_ENCRYPTION_KEYS = after + before
        rotate()
        settings.ILERT_OAUTH_ENCRYPTION_KEYS = after

    during_request(after=change_keys)
    flows.refresh(account)
    assert account.refresh_token == stored_tokens(account)[1]


def test_a_new_connection_that_does_not_see_the_account_stores_nothing_and_says_so(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Refusing(times=1)
    refusing.on_failure = lambda: beside(
        lambda: ConnectedAccount.objects.filter(pk=account.pk).update(uuid=uuid4())
    )
    with connection.execute_wrapper(refusing), pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "not_stored"
    assert "a new connection does not see the account" in caplog.text


class TimeLimitError(Exception):
    """Of a queue: Celery's is no ``BaseException``."""


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, TimeLimitError])
def test_an_interrupt_in_the_midst_of_the_statement_loses_no_token(
    account: ConnectedAccount, interrupt: type[BaseException]
) -> None:
    refusing = Refusing(interrupt, times=1)
    with connection.execute_wrapper(refusing), pytest.raises(interrupt):
        flows.refresh(account, force=True)
    flows.refresh(ConnectedAccount.objects.get(), force=True)


class Interrupting:
    """Traces the app: raises at its line of this number, counted from the response on."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.is_counting = False

    def start(self) -> None:
        self.is_counting = True

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(str(APP)):
            return None
        self._left -= self.is_counting and event == "line"
        if self.is_counting and self._left == 0:
            raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("line", range(1, 150, 9))
def test_an_interrupt_at_any_line_from_the_response_on_loses_no_token(
    account: ConnectedAccount, during_request: Any, line: int
) -> None:
    before, interrupting = stored_tokens(account), Interrupting(line)
    during_request(after=interrupting.start)
    with pytest.raises(KeyboardInterrupt):
        traced(interrupting, lambda: flows.refresh(account, force=True))
    assert stored_tokens(account) != before


def traced(trace: Any, call: Callable[[], object]) -> None:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
