"""Keeping tokens fresh without ever losing one.

One caller wins the lease of an account, asks ilert and writes the answer; the others wait for the
row to change and use what is stored. The answer is written only under the lease and over the
refresh token that was sent (compare and swap). No transaction is opened around a request.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta

from django.db.models import Q

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import (
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.models import ConnectedAccount, DatabaseTime, Status
from django_ilert_oauth.oauth_answers import ERROR_CODES, TRANSIENT_CODES

from .apart import Side, committing_apart, must_commit_apart, warn_of_rollback
from .base import account_rows, require_same_ilert
from .lease import lease_seconds, take_lease
from .renewal import GRANT_COLUMNS, Outcome, use_lease
from .shared import fresh_token, own_copy


def get_access_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> str:
    """A token good for longer than the margin (``ILERT_OAUTH_REFRESH_MARGIN``).

    Without a query or a request while the stored one is. Where ilert cannot be reached, the stored
    token is returned as long as it is good at all; where ilert was asked less than
    ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago, as it is. Raises ``ReconnectRequiredError``,
    ``IlertUnavailableError``, ``IlertRejectedError``, ``EndpointMismatchError`` or
    ``TokenDecryptionError``.
    """
    if token := fresh_token(account, margin=margin):
        return token
    wanted_margin = conf.refresh_margin if margin is None else margin
    try:
        with own_copy(account) as mine:
            outcome = renew(mine, unless=lambda a: a.is_fresh(wanted_margin) or is_too_early(a))
        conclude(account, outcome)
    except (IlertUnavailableError, IlertRejectedError):
        if not mine.is_fresh():
            raise
    return mine.access_token


def refresh(account: ConnectedAccount, *, force: bool = False) -> ConnectedAccount:
    """The same account, with the tokens that are stored now.

    Makes no request where the last refresh is less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago,
    unless forced. Raises as ``get_access_token`` does; everything but ``ReconnectRequiredError``
    leaves the stored tokens as they were.
    """
    require_same_ilert(account)
    with own_copy(account) as mine:
        if force:
            reread(mine)
            before = mine.access_token_ciphertext
            outcome = renew(mine, unless=lambda a: a.access_token_ciphertext != before)
        else:
            outcome = renew(mine, unless=is_too_early)
    conclude(account, outcome)
    return account


def renew(
    account: ConnectedAccount,
    *,
    unless: Callable[[ConnectedAccount], bool],
    use: Callable[[ConnectedAccount, str], Outcome] = use_lease,
) -> Outcome:
    """To be concluded: nothing has been announced yet."""
    in_transaction = must_commit_apart()
    wait = Wait()
    # A second connection is opened only where a look at the row says that the lease is free, and
    # no refresh is put off only because of what this object remembers.
    look_first = in_transaction or account.status != Status.CONNECTED or unless(account)
    leased = reread(account) if look_first else False
    while True:
        require_grant(account)
        if unless(account):
            return Outcome()
        if leased:
            wait.before_next_look()
            leased = reread(account)
        else:
            outcome, leased = _refresh_under_lease(account, in_transaction, use)
            if outcome is not None:
                return outcome
            wait.before_next_look()
        wait.note(account, leased)


def conclude(account: ConnectedAccount, outcome: Outcome) -> None:
    outcome.announce(account)
    if outcome.error is not None:
        raise outcome.error


def is_too_early(account: ConnectedAccount) -> bool:
    return account.was_refreshed_within(conf.min_refresh_interval)


def require_grant(account: ConnectedAccount) -> None:
    if account.status != Status.CONNECTED:
        raise ReconnectRequiredError("Access has ended; the user has to reconnect the account.")


class Wait:
    """For the caller that holds the lease; a little longer than a dead one can hold it."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + lease_seconds() + 1
        self._pause = 0.0
        self._looks = 0
        self._error_at: datetime | None = None

    def before_next_look(self) -> None:
        if time.monotonic() > self._deadline:
            raise IlertUnavailableError("Another process holds on to the account.", code="busy")
        time.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311
        self._pause = min(self._pause * 2, 0.25) or 0.02

    def note(self, account: ConnectedAccount, leased: bool) -> None:
        """Raises what the one waited for has met meanwhile, by its code."""
        has_failed = account.last_error_at not in (None, self._error_at) and not leased
        if self._looks and has_failed and account.status == Status.CONNECTED:
            is_refusal = account.last_error in ERROR_CODES - TRANSIENT_CODES
            raise (IlertRejectedError if is_refusal else IlertUnavailableError)(
                "The refresh that this call waited for has failed.", code=account.last_error
            )
        self._looks += 1
        self._error_at = account.last_error_at


def _refresh_under_lease(
    account: ConnectedAccount,
    in_transaction: bool,
    use: Callable[[ConnectedAccount, str], Outcome],
) -> tuple[Outcome | None, bool]:
    """The outcome and whether another caller holds the lease.

    Without an outcome, or with one that another caller has beaten, the account is read anew: on the
    connection used here, since the caller's transaction may see only what was there before.
    """
    with committing_apart(account) if in_transaction else nullcontext(Side.NONE) as side:
        if side is Side.TAKEN:
            return None, True
        outcome = _ask_once(account, use)
        if outcome.is_beaten:
            return None, reread(account)
        outcome.at_once = side is Side.OPEN
        return outcome, False


def _ask_once(
    account: ConnectedAccount, use: Callable[[ConnectedAccount, str], Outcome]
) -> Outcome:
    lease_id = take_lease(account)
    if not lease_id:
        return Outcome()
    warn_of_rollback()
    return use(account, lease_id)


def reread(account: ConnectedAccount) -> bool:
    """Whether another caller holds the lease."""
    row = (
        account_rows()
        .filter(pk=account.pk)
        .annotate(leased=Q(lease_ends_ms__gt=DatabaseTime()))
        .values(*GRANT_COLUMNS, "leased")
        .first()
    )
    if row is None:
        raise ReconnectRequiredError("The account was deleted; the user has to connect again.")
    for name in GRANT_COLUMNS:
        setattr(account, name, row[name])
    return bool(row["leased"])
