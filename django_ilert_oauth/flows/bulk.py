"""Many accounts in one run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet

from .base import database, require_same_ilert
from .refresh import is_too_early, renew

logger = logging.getLogger(__name__)

PAGE = 200


@dataclass
class BulkResult:
    """``skipped`` were renewed less than ``ILERT_OAUTH_MIN_REFRESH_INTERVAL`` ago.

    ``failures`` has the code of each account that failed, by pk.
    """

    refreshed: int = 0
    skipped: int = 0
    failures: dict[Any, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return len(self.failures)


def refresh_many(
    queryset: ConnectedAccountQuerySet,
    *,
    force: bool = False,
    retry_reconnect_required: bool = False,
    limit: int | None = None,
) -> BulkResult:
    """Renews each account; one that fails never stops the rest.

    ``retry_reconnect_required`` asks again for grants that ilert refused before, for the day that a
    wrong client secret is put right.
    """
    result = BulkResult()
    for account in islice(_in_pages(queryset.using(database())), limit):
        try:
            renewed = _renew(account, force, retry_reconnect_required)
        except IlertOAuthError as error:
            result.failures[account.pk] = error.code
        except ImproperlyConfigured:
            raise
        except Exception as error:
            logger.error("Account %s was not refreshed: %s", account.pk, type(error).__name__)
            result.failures[account.pk] = "unexpected"
        else:
            result.refreshed += renewed
            result.skipped += not renewed
    return result


def _renew(account: ConnectedAccount, force: bool, retry_reconnect_required: bool) -> bool:
    require_same_ilert(account)
    return renew(
        account,
        unless=lambda a: not force and is_too_early(a),
        retry_reconnect_required=retry_reconnect_required,
    )


def _in_pages(queryset: ConnectedAccountQuerySet) -> Iterator[ConnectedAccount]:
    """By primary key: no cursor stays open while rows are written, and memory stays flat."""
    ordered = queryset.order_by("pk")
    page = list(ordered[:PAGE])
    while page:
        yield from page
        page = list(ordered.filter(pk__gt=page[-1].pk)[:PAGE])
