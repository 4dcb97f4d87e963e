"""How the accounts are, above their list: numbers that lead to what they count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext_lazy as _

from django_ilert_oauth import flows
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import LastRun

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

#: Tokens of ilert live for an hour.
MAX_SILENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Figure:
    """``severity`` is that of a number above 0: ``good``, ``plain``, ``warning`` or ``bad``."""

    label: StrOrPromise
    query: str
    severity: str
    count: int


@dataclass(frozen=True)
class Summary:
    figures: list[Figure]
    #: Nothing refreshes what has expired.
    is_idle: bool


def summary(accounts: Any) -> Summary:
    health = flows.health(accounts)
    reconnect = "status__exact=reconnect_required"
    figures = [
        Figure(_("connected"), "status__exact=connected", "good", health.connected),
        Figure(_("need reconnecting"), reconnect, "bad", health.needs_reconnecting),
        Figure(_("refresh is overdue"), "expiring=overdue", "plain", health.overdue),
        Figure(_("grant ends within 30 days"), "expiring=grant-30d", "warning", health.ending),
        Figure(_("failing"), "status__exact=connected&error=any", "bad", health.failing),
    ]
    return Summary(figures, is_idle=bool(health.overdue) and _is_idle(health))


def _is_idle(health: flows.Health) -> bool:
    oldest = database_now(database()) - MAX_SILENCE
    kinds = (LastRun.Kind.REFRESH, LastRun.Kind.QUEUE)
    return all(health.last_runs.get(kind, oldest) <= oldest for kind in kinds)
