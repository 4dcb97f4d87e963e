"""Whom a run believes: that grants have ended, or that its own credentials are wrong.

No code is documented for a wrong client secret; it may look like ``invalid_grant``. So:

- Once one account of the run has been refreshed, the credentials are right and every
  ``invalid_grant``, earlier ones included, ends its grant.
- Until then each is deferred: noted on the account, which stays connected.
- A run in which every grant is refused marks no account.
- ``mark_ended`` settles it: then each ``invalid_grant`` is believed.
- ``invalid_client`` ends a run at once.
- Each client has a guard of its own: responses to one say nothing about another.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from django_ilert_oauth.exceptions import IlertRejectedError
from django_ilert_oauth.flows._lease import Lease, read_snapshots
from django_ilert_oauth.flows._refresh_request import Outcome, end_grant, note_failure
from django_ilert_oauth.flows._steps import Steps, run_now
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import PAGE, account_rows, database
from django_ilert_oauth.models import ConnectedAccount, Status

CLIENT_CODES = frozenset({"invalid_client", "unauthorized_client"})


class CredentialGuard:
    def __init__(self, *, mark_ended: bool) -> None:
        self._trusts_invalid_grants = mark_ended
        #: The account of each deferred ``invalid_grant`` and when it was noted, by pk.
        self._deferred: dict[Any, tuple[UUID, datetime | None]] = {}

    @property
    def has_only_invalid_grants(self) -> bool:
        return bool(self._deferred)

    def on_invalid_grant(self, lease: Lease, status: int) -> Steps[Outcome]:
        # Without a status there was no token to send.
        if self._trusts_invalid_grants or not status:
            return (yield from end_grant(lease, status))
        error = IlertRejectedError(
            "ilert refused the grant; not believed yet.", code="invalid_grant", status=status
        )
        outcome = yield from note_failure(lease, error)
        self._deferred[lease.account.pk] = _noted(lease.account)
        # Another task may have succeeded while this was being noted.
        if self._trusts_invalid_grants:
            self.succeeded()
        return outcome

    def succeeded(self) -> None:
        self._trusts_invalid_grants = True
        while self._deferred:
            pks = list(self._deferred)[:PAGE]
            for snapshot in read_snapshots(pks):
                account = snapshot.account
                if _noted(account) == self._deferred[account.pk]:
                    # The lease was given back when the ``invalid_grant`` was noted.
                    without_lease = Lease("", snapshot, 0, 0)
                    outcome = run_now(end_grant(without_lease, 0))
                    outcome.send_signal(account)
            for pk in pks:
                del self._deferred[pk]


def _noted(account: ConnectedAccount) -> tuple[UUID, datetime | None]:
    return account.uuid, account.last_error_at


#: This many ``invalid_grant`` in a row make the credentials of a fleet suspect ...
MIN_INVALID_GRANTS = 10
#: ... within this time.
WINDOW = timedelta(hours=1)


def credentials_seem_wrong(client: str) -> bool:
    """Whether the last responses to this client, of all processes, were ``invalid_grant``."""
    accounts = account_rows().of_client(client)
    refused = accounts.filter(
        status=Status.RECONNECT_REQUIRED,
        last_error="invalid_grant",
        last_error_at__gt=database_now(database()) - WINDOW,
    )
    times = refused.order_by("-last_error_at").values_list("last_error_at", flat=True)
    since = times[MIN_INVALID_GRANTS - 1 : MIN_INVALID_GRANTS].first()
    if since is None:
        return False
    return not accounts.filter(Q(refreshed_at__gt=since) | Q(connected_at__gt=since)).exists()
