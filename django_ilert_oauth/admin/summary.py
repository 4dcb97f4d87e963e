"""A few numbers above the list, each a link to the accounts it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.models import ConnectedAccount, Status

from .filters import DAY, MONTH, failed_within, grant_ends_within, refresh_is_overdue

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise


@dataclass(frozen=True)
class Figure:
    """``severity`` is that of a number above 0: ``good``, ``plain``, ``warning`` or ``bad``."""

    label: StrOrPromise
    query: str
    severity: str
    count: int


def figures(accounts: QuerySet[ConnectedAccount]) -> list[Figure]:
    """By one query."""
    rows: list[tuple[StrOrPromise, str, str, Q]] = [
        (_("connected"), "status__exact=connected", "good", Q(status=Status.CONNECTED)),
        (
            _("need reconnecting"),
            "status__exact=reconnect_required",
            "bad",
            Q(status=Status.RECONNECT_REQUIRED),
        ),
        (_("refresh is overdue"), "expiring=overdue", "plain", refresh_is_overdue()),
        (_("grant ends within 30 days"), "expiring=grant-30d", "warning", grant_ends_within(MONTH)),
        (_("failed in the last day"), "error=day", "bad", failed_within(DAY)),
    ]
    counts = {f"n{number}": Count("pk", filter=row[3]) for number, row in enumerate(rows)}
    found = accounts.aggregate(**counts)
    return [
        Figure(label, query, severity, found[f"n{number}"])
        for number, (label, query, severity, _condition) in enumerate(rows)
    ]
