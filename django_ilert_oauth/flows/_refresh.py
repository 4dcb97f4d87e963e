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
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth.responses import ERROR_CODES, TRANSIENT_CODES
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.oauth.transport import clock

from ._client import open_clients, require_client
from ._lease import STORING_SECONDS, Look, look_at, take_lease
from ._refresh_request import Outcome, Requester, refresh_under
from ._steps import Steps, run_now, run_until_pause
from ._transactions import (
    beside_transaction,
    has_one_writer,
    in_transaction,
    reconnecting,
    warn_of_rollback,
)
from ._working_copy import fresh_token, working_copy

#: Seconds that a row locked by another transaction is waited for; no request has been made by then.
LOCK_PATIENCE = 2.0

#: Whether an account needs no refresh at this moment.
Unless = Callable[[ConnectedAccount, datetime], bool]


def get_access_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> str:
    """Returns a token that is good for longer than the margin (``ILERT_OAUTH_REFRESH_MARGIN``).

    While the stored token is, no query and no request is made. Where ilert cannot be reached, the
    stored token is returned until it expires; where the last refresh is less than
    ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago, it is returned as it is.

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
            outcome = refresh_by(mine, is_good)
        conclude(account, outcome)
    except (IlertUnavailableError, IlertRejectedError):
        if not mine.is_fresh(now=now):
            raise
    return mine.access_token.reveal()


def refresh(account: ConnectedAccount, *, force: bool = False) -> ConnectedAccount:
    """Returns the same account, with the tokens that are stored now.

    No request is made where the last refresh is less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago,
    unless ``force`` is set. Raises what ``get_access_token`` raises; each error but
    ``ReconnectRequiredError`` leaves the stored tokens as they were.
    """
    return _refresh_unless(account, _changed_since_first_look() if force else is_too_early)


def refresh_refused(account: ConnectedAccount, refused: Secret) -> ConnectedAccount:
    """Returns the account with another access token than one that ilert has refused with a 401.

    Makes no request where another one is stored; raises as ``refresh`` does.
    """
    return _refresh_unless(account, lambda stored, _now: stored.access_token != refused)


def refresh_steps(
    account: ConnectedAccount,
    requester: Requester,
    unless: Unless,
    *,
    may_wait: bool = True,
) -> Steps[Outcome]:
    """To be concluded: no signal has been sent yet."""
    waiting = _Waiting(may_wait)
    look = look_at(account)
    waiting.note(look)
    while True:
        require_grant(account)
        require_client(account)
        if unless(account, look.now):
            return Outcome()
        if not look.is_leased:
            yield from requester.slot(account)
            if lease := take_lease(look):
                outcome = yield from refresh_under(lease, requester)
                if not outcome.is_superseded:
                    return outcome
        yield waiting.pause_after(look)
        look = look_at(account)
        waiting.note(look)


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
        outcome = refresh_by(mine, unless)
    conclude(account, outcome)
    return account


def _changed_since_first_look() -> Unless:
    seen: set[str] = set()

    def has_changed(account: ConnectedAccount, now: datetime) -> bool:
        seen.add(account.access_token_ciphertext)
        return len(seen) > 1

    return has_changed


def refresh_by(account: ConnectedAccount, unless: Unless) -> Outcome:
    with reconnecting():
        if not in_transaction():
            return _ask_now(account, unless)
        if has_one_writer():
            outcome = _ask_in_only_writer(account, unless)
        elif outcome_beside := _ask_beside(account, unless):
            outcome_beside.at_once = True
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
        self._deadline = clock() + sum(conf.timeout) + STORING_SECONDS + 1
        self._locked_since: float | None = None
        self._pause = 0.0
        self._has_looked = False
        self._error_at: datetime | None = None

    def pause_after(self, look: Look) -> float:
        """Seconds until the next look. Raises ``IlertUnavailableError`` once it has been enough."""
        if look.is_leased and (not self._may_wait or clock() > self._deadline):
            raise IlertUnavailableError("Another caller is refreshing the account.", code="busy")
        if look.is_leased:
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = clock()
        elif clock() > self._locked_since + LOCK_PATIENCE:
            raise IlertUnavailableError(
                f"The row of account {look.account.pk} is locked. Refresh it before, or outside "
                "of, the transaction that locks or changes it.",
                code="row_locked",
            )
        pause = self._pause * random.uniform(0.5, 1)  # noqa: S311
        self._pause = min(self._pause * 2, 0.25) or 0.02
        return pause

    def note(self, look: Look) -> None:
        """Raises what the one waited for has met meanwhile, by its code."""
        account = look.account
        has_failed = account.last_error_at not in (None, self._error_at) and not look.is_leased
        if self._has_looked and has_failed and account.status == Status.CONNECTED:
            is_rejected = account.last_error in ERROR_CODES - TRANSIENT_CODES
            raise (IlertRejectedError if is_rejected else IlertUnavailableError)(
                "The refresh that this call waited for has failed.", code=account.last_error
            )
        self._has_looked = True
        self._error_at = account.last_error_at
