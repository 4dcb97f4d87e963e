"""Whom a run believes: grants that ilert refuses, or its own credentials.

No code is documented for a wrong client secret; it may look like ``invalid_grant``. So refusals at
the start of a run are put off until another answer shows that the credentials are right.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from django_ilert_oauth.models import Status

from .base import account_rows
from .lease import give_back
from .renewal import Refusal, end_grant

logger = logging.getLogger(__name__)

#: So many refusals and nothing else speak against the credentials.
ENOUGH = 10


#: How long refusals are remembered between runs.
MEMORY = timedelta(hours=1)


def credentials_seem_wrong() -> bool:
    """Whether the last answers to all of this site's processes were refusals, and enough."""
    refused = account_rows().filter(
        status=Status.RECONNECT_REQUIRED,
        last_error="invalid_grant",
        last_error_at__gt=timezone.now() - MEMORY,
    )
    times = refused.order_by("-last_error_at").values_list("last_error_at", flat=True)
    since = times[ENOUGH - 1 : ENOUGH].first()
    if since is None:
        return False
    return not account_rows().filter(Q(refreshed_at__gt=since) | Q(connected_at__gt=since)).exists()


class FirstAnswers:
    """Shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put_off: list[Refusal] = []
        self._trusted = False

    @property
    def speak_against_credentials(self) -> bool:
        return len(self._put_off) >= ENOUGH

    def put_off(self, refusal: Refusal) -> bool:
        """False where the grant is to be ended at once: no token was sent, or all is well."""
        with self._lock:
            if self._trusted or not refusal.status:
                return False
            self._put_off.append(refusal)
            return True

    def trust(self) -> None:
        """Ends the grants put off; too late once there were enough."""
        with self._lock:
            if self.speak_against_credentials:
                return
            self._trusted = True
            refusals, self._put_off = self._put_off, []
        for refusal in refusals:
            _end_safely(refusal)

    def close(self, *, spare: bool) -> None:
        """At the end of a run: too few refusals speak against nothing but themselves.

        A run that was stopped spares them: it has not heard the rest.
        """
        if not spare:
            self.trust()
        for refusal in self._put_off:
            give_back(refusal.lease_id, [refusal.account.pk])


def _end_safely(refusal: Refusal) -> None:
    account = refusal.account
    try:
        end_grant(refusal).announce(account)
    except Exception as error:
        logger.error("The end of account %s was not noted: %s", account.pk, type(error).__name__)
        give_back(refusal.lease_id, [account.pk])
