"""E-mails to users whose account needs reconnecting, or soon will.

Who is to be told is asked of the database: after the commit that ends a grant, and at the end of
each run, which also sends what was not sent before. ``notified_at`` says who has been told. One
caller has the account's lease while it sends, so of several only one does; where it dies, the lease
lapses and the next run sends.
"""

from __future__ import annotations

import logging
import random
import secrets
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.db.models import F, Q
from django.db.transaction import TransactionManagementError
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone, translation

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.rows import account_rows, database, row_of
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.models.queryset import ENDING_WITHIN

from ._bulk.credential_guard import credentials_seem_wrong
from ._lease import Lease, Snapshot, read_snapshots, release, take_lease
from ._steps import is_interrupt
from ._storing import DATABASE_ERRORS

logger = logging.getLogger(__name__)

#: Of the end of a grant. Whoever turns notices on does not tell of what ended years ago.
MAX_AGE = timedelta(days=30)
#: Of one run, for each of the two occasions.
MAX_NOTICES = 100
#: A run in which this many could not be sent leaves the others to the next one.
MAX_FAILURES = 3


def notify_after_commit(account: ConnectedAccount) -> None:
    # Django has no hook for a caller that commits by hand: the next run tells its users.
    with suppress(TransactionManagementError):
        # No partial: Django logs the name of a hook that fails, and a partial has none.
        transaction.on_commit(
            lambda: notify_users(uuid=account.uuid), using=database(), robust=True
        )


def notify_users(**only: Any) -> None:
    """Sends what is to be sent, or ``only`` that of some accounts; never fails a run."""
    try:
        if conf.notify_users and not conf.read_only:
            _notify(_to_be_told(**only))
    except (ImproperlyConfigured, *DATABASE_ERRORS) as error:
        logger.warning("Users were not notified: %s", type(error).__name__)


def _to_be_told(**only: Any) -> list[Snapshot]:
    """In random order: an address that is refused each time holds up no other."""
    now, window = timezone.now(), F("refresh_token_expires_at") - ENDING_WITHIN
    is_first = Q(notified_at=None)
    ended = Q(status=Status.RECONNECT_REQUIRED, status_changed_at__gt=now - MAX_AGE) & (
        is_first | Q(notified_at__lt=F("status_changed_at"))
    )
    ending = Q(
        status=Status.CONNECTED,
        refresh_token_expires_at__range=(now, now + ENDING_WITHIN),
        # A refresh has not moved the end, so none will.
        refreshed_at__gt=F("grant_extended_at"),
    ) & (is_first | Q(notified_at__lt=F("grant_extended_at")) | Q(notified_at__lt=window))
    accounts = account_rows().filter(**only).order_by("?")
    for name in filter(credentials_seem_wrong, conf.client_keys().values()):
        # Perhaps refused by mistake: nothing that their users could change.
        accounts = accounts.exclude(pk__in=account_rows().of_client(name))
    # A query for each, of keys alone: for both at once MariaDB reads every row.
    keys = (accounts.filter(which).values_list("pk", flat=True) for which in (ended, ending))
    pks = [pk for found in keys for pk in found[:MAX_NOTICES]]
    random.shuffle(pks)
    return read_snapshots(pks)


def _notify(snapshots: list[Snapshot]) -> None:
    failures = 0
    for snapshot in snapshots:
        failures += not _has_been_told(snapshot)
        if failures == MAX_FAILURES:
            return


def _has_been_told(snapshot: Snapshot) -> bool:
    account, lease = snapshot.account, take_lease(snapshot)
    if lease is None:
        return True
    try:
        # Another run may have sent it before this one had the lease.
        if row_of(account).filter(notified_at=account.notified_at).exists():
            _send(account)
            _note(lease)
    except Exception as error:
        if is_interrupt(error):
            raise
        reference = secrets.token_hex(4)
        kind = type(error).__name__
        logger.warning(
            "The notice of account %s was not sent: %s (reference %s)", account.pk, kind, reference
        )
        return False
    finally:
        release(lease)
    return True


def _note(lease: Lease) -> None:
    account = lease.account
    # This host may be behind the one that has ended the grant.
    now = max(timezone.now(), account.status_changed_at, account.grant_extended_at)
    row_of(account).filter(lease_id=lease.id).update(notified_at=now)


def _send(account: ConnectedAccount) -> None:
    user = account.user
    address = getattr(user, get_user_model().get_email_field_name(), "")
    if not (address and user.is_active):
        return
    with translation.override(_language(user)):
        context = _context(account)
        subject = render_to_string("ilert_oauth/email/subject.txt", context)
        text = render_to_string("ilert_oauth/email/message.txt", context)
        html = render_to_string("ilert_oauth/email/message.html", context)
    message = EmailMultiAlternatives(subject=" ".join(subject.split()), body=text, to=[address])
    message.attach_alternative(html, "text/html")
    message.send()


def _language(user: Any) -> str:
    """A user model of a site may have one."""
    language = str(getattr(user, "language", ""))
    return language if translation.check_for_language(language) else settings.LANGUAGE_CODE


def _context(account: ConnectedAccount) -> dict[str, Any]:
    has_ended = account.status == Status.RECONNECT_REQUIRED
    base = conf.redirect_uri or ""
    connect_url = reverse("ilert_oauth:connect", query={"account": account.pk})
    return {
        "account": account,
        "user": account.user,
        "site": urlsplit(base).netloc,
        "ends_at": None if has_ended else account.refresh_token_expires_at,
        "reconnect_url": urljoin(base, connect_url),
    }
