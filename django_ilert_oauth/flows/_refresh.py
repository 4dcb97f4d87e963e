"""Keeping tokens fresh without ever losing one.

One caller wins the lease of an account, asks ilert and writes the response; the others wait for the
row to change and use what is stored. A response is written only over the refresh token that was
sent (compare and swap). No transaction is opened around a request.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from django.db import OperationalError
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.internal.db import has_one_writer
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth.responses import ERROR_CODES, TRANSIENT_CODES
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock
from django_ilert_oauth.signals import account_revoked

from ._client import open_clients, require_client
from ._lease import Snapshot, is_in_use_here, lease_seconds, reload, take_lease
from ._notices import notify_after_commit
from ._refresh_request import Outcome, Requester, refresh_with_lease
from ._steps import Steps, run_now, run_until_pause
from ._transactions import beside_transaction, in_transaction, reconnecting, warn_of_rollback
from ._working_copy import fresh_token, working_copy

#: Seconds to wait for a row that another transaction has locked; no request has been made by then.
LOCK_PATIENCE = 2.0

#: Whether an account needs no refresh at this moment.
Unless = Callable[[ConnectedAccount, datetime], bool]


def get_access_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> str:
    """Returns an access token in plain text, and refreshes it first if it expires too soon.

    A token that is valid for longer than ``margin`` (default: ``ILERT_OAUTH_REFRESH_MARGIN``) is
    returned without a query or a request. If ilert cannot be reached, the stored token is returned
    until it expires. If it was refreshed less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago, it is
    returned as it is.

    Raises ``ReconnectRequiredError``, ``IlertUnavailableError``, ``IlertRejectedError``,
    ``EndpointMismatchError`` or ``TokenDecryptionError``.
    """
    if token := fresh_token(account, margin=margin):
        return token.reveal()
    wanted_margin = conf.refresh_margin if margin is None else margin
    now = timezone.now()

    def is_good(account: ConnectedAccount, database_now: datetime) -> bool:
        nonlocal now
        now = database_now
        return account.is_fresh(wanted_margin, now=now) or is_too_early(account, now)

    try:
        with working_copy(account) as mine:
            outcome = refresh_in_context(mine, is_good)
        conclude(account, outcome)
    except ReconnectRequiredError:
        raise
    except (IlertUnavailableError, IlertRejectedError):
        if not mine.is_fresh(now=now):
            raise
    return mine.access_token.reveal()


def refresh(account: ConnectedAccount, *, force: bool = False) -> ConnectedAccount:
    """Refreshes the account's tokens, and returns the same object with the new ones.

    If the last refresh is less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago, no request is made
    unless ``force`` is true. Raises what ``get_access_token`` raises; no error changes the stored
    tokens, but after ``ReconnectRequiredError`` the account is no longer connected.
    """
    return _refresh_unless(account, _changed_since_first_look() if force else is_too_early)


def refresh_refused(account: ConnectedAccount, refused: Secret) -> ConnectedAccount:
    """Returns the account with another access token than one that ilert has refused with a 401.

    Makes no request where another one is stored; raises as ``refresh`` does.
    """

    def has_other_token(stored: ConnectedAccount, now: datetime) -> bool:
        if stored.access_token != refused:
            return True
        # Where ilert has named no expiry, its 401 does.
        stored.access_token_expires_at = stored.access_token_expires_at or now
        return False

    return _refresh_unless(account, has_other_token)


def refresh_steps(
    account: ConnectedAccount, requester: Requester, unless: Unless, *, may_wait: bool = True
) -> Steps[Outcome]:
    """To be concluded: no signal has been sent yet."""
    waiting = _Waiting(may_wait)
    snapshot = reload(account)
    waiting.note(snapshot)
    while True:
        require_grant(account)
        require_client(account)
        if unless(account, snapshot.now):
            return Outcome()
        if not snapshot.is_leased:
            yield from requester.slot(account)
            if lease := take_lease(snapshot):
                outcome = yield from refresh_with_lease(lease, requester)
                if not outcome.is_empty:
                    return outcome
        yield waiting.pause_after(snapshot)
        snapshot = reload(account)
        waiting.note(snapshot)


def conclude(account: ConnectedAccount, outcome: Outcome) -> None:
    outcome.send_signal(account)
    if outcome.error is not None:
        raise outcome.error


def is_too_early(account: ConnectedAccount, now: datetime) -> bool:
    return account.was_refreshed_within(conf.min_refresh_interval, now=now)


def require_grant(account: ConnectedAccount) -> None:
    if account.status != Status.CONNECTED:
        raise ReconnectRequiredError("Access has ended; the user has to reconnect the account.")


def _refresh_unless(account: ConnectedAccount, unless: Unless) -> ConnectedAccount:
    require_client(account)
    with working_copy(account) as mine:
        outcome = refresh_in_context(mine, unless)
    conclude(account, outcome)
    return account


def _changed_since_first_look() -> Unless:
    seen: set[str] = set()

    def has_changed(account: ConnectedAccount, now: datetime) -> bool:
        seen.add(account.access_token_ciphertext)
        return len(seen) > 1

    return has_changed


def refresh_in_context(account: ConnectedAccount, unless: Unless) -> Outcome:
    """Inside a transaction in a way that survives its rollback; to be concluded."""
    with reconnecting():
        outcome = _ask_in_context(account, unless)
    if outcome.signal is account_revoked:
        notify_after_commit(account)
    return outcome


def _ask_in_context(account: ConnectedAccount, unless: Unless) -> Outcome:
    if not in_transaction():
        return _ask_now(account, unless)
    if has_one_writer(database()):
        outcome = _ask_in_only_writer(account, unless)
    elif outcome_beside := _ask_beside(account, unless):
        outcome_beside.is_committed = True
        return outcome_beside
    else:
        outcome = _ask_now(account, unless)
    if outcome.refreshed:
        warn_of_rollback()
    return outcome


def _ask_now(account: ConnectedAccount, unless: Unless, *, may_wait: bool = True) -> Outcome:
    with open_clients() as client_for:
        return run_now(refresh_steps(account, Requester(client_for), unless, may_wait=may_wait))


def _ask_beside(account: ConnectedAccount, unless: Unless) -> Outcome | None:
    """Keeps no second connection while another caller's lease is waited for."""
    if account.status != Status.CONNECTED:
        # Perhaps ended by the caller's transaction, which another connection does not see.
        reload(account)
        require_grant(account)
    with open_clients() as client_for:
        steps = refresh_steps(account, Requester(client_for), unless)
        run = partial(run_until_pause, steps)
        while isinstance(result := beside_transaction(account, run), float):
            time.sleep(result)
        return result


def _ask_in_only_writer(account: ConnectedAccount, unless: Unless) -> Outcome:
    """Whoever waits inside a transaction may keep the holder of a lease from storing."""
    try:
        return _ask_now(account, unless, may_wait=False)
    except OperationalError as error:
        busy = IlertUnavailableError(f"The database is busy ({type(error).__name__}).", code="busy")
    raise busy


class _Waiting:
    """For the caller that holds the lease; a little longer than a dead one can hold it."""

    def __init__(self, may_wait: bool) -> None:
        self._may_wait = may_wait
        self._deadline = clock() + lease_seconds() + 1
        self._locked_since: float | None = None
        self._pause = 0.0
        self._has_looked = False
        self._error_at: datetime | None = None

    def pause_after(self, snapshot: Snapshot) -> float:
        """Seconds until the next look; ``IlertUnavailableError`` after the deadline."""
        may_wait = self._may_wait and not is_in_use_here(snapshot.account)
        if snapshot.is_leased and (not may_wait or clock() > self._deadline):
            raise IlertUnavailableError("Another caller is refreshing the account.", code="busy")
        if snapshot.is_leased:
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = clock()
        elif clock() > self._locked_since + LOCK_PATIENCE:
            raise IlertUnavailableError(
                f"The row of account {snapshot.account.pk} is locked. Refresh it before, or "
                "outside of, the transaction that locks or changes it.",
                code="row_locked",
            )
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311
        self._pause = min(self._pause * 2, 0.25) or 0.02
        return pause

    def note(self, snapshot: Snapshot) -> None:
        """Raises the error that the holder of the lease has stored meanwhile."""
        account = snapshot.account
        has_failed = account.last_error_at not in (None, self._error_at) and not snapshot.is_leased
        if self._has_looked and has_failed and account.status == Status.CONNECTED:
            is_rejected = account.last_error in ERROR_CODES - TRANSIENT_CODES
            error_class = IlertRejectedError if is_rejected else IlertUnavailableError
            message = "The refresh that this call waited for has failed."
            raise error_class(message, code=account.last_error)
        self._has_looked = True
        self._error_at = account.last_error_at
