from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth.flows import _working_copy
from django_ilert_oauth.flows._working_copy import fresh_token, working_copy
from django_ilert_oauth.models import ConnectedAccount, Status


def test_what_happens_to_the_copy_is_seen_once_it_is_complete(account: ConnectedAccount) -> None:
    before = account.access_token
    with working_copy(account) as mine:
        mine.access_token = "new"
        mine.status = Status.RECONNECT_REQUIRED
        assert (account.access_token, account.status) == (before, Status.CONNECTED)
    assert account.access_token == "new"
    assert account.status == Status.RECONNECT_REQUIRED


def test_what_happened_before_an_error_is_seen_too(account: ConnectedAccount) -> None:
    with pytest.raises(ValueError, match="failure"), working_copy(account) as mine:
        mine.last_error = "timeout"
        raise ValueError("failure")
    assert account.last_error == "timeout"


def test_what_the_copy_did_not_change_stays_as_others_made_it(account: ConnectedAccount) -> None:
    with working_copy(account) as mine:
        account.access_token = "from another thread"
        mine.last_error = "busy"
    assert account.access_token == "from another thread"
    assert account.last_error == "busy"


def test_the_token_is_taken_over_before_its_expiry(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that sees the new expiry gets the new token with it."""
    written: list[str] = []
    with working_copy(account) as mine:
        mine.access_token = "new"
        mine.access_token_expires_at = None
        monkeypatch.setattr(
            ConnectedAccount, "__setattr__", lambda self, name, value: written.append(name)
        )
    monkeypatch.undo()
    assert written[:2] == ["access_token_ciphertext", "access_token_expires_at"]


def test_no_query_for_deferred_columns_holds_up_other_threads(account: ConnectedAccount) -> None:
    partial = ConnectedAccount.objects.only("pk").get()
    locked: list[bool] = []

    def note(execute: Any, *args: Any) -> Any:
        locked.append(_working_copy._guard.locked())
        return execute(*args)

    with connection.execute_wrapper(note):
        assert fresh_token(partial) == account.access_token
    assert locked
    assert not any(locked)


def test_a_token_that_is_wiped_at_that_moment_is_none(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wipe(self: ConnectedAccount, margin: object) -> bool:
        self.access_token_ciphertext = ""
        return True

    monkeypatch.setattr(ConnectedAccount, "is_fresh", wipe)
    assert fresh_token(account) is None


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_meanwhile_can_copy_too() -> None:
    is_held = threading.Event()

    def hold() -> None:
        with _working_copy._guard:
            is_held.set()
            time.sleep(0.2)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    child = os.fork()
    if child == 0:
        os._exit(not _working_copy._guard.acquire(timeout=5))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    holder.join()
