"""The pending revocations: what ilert has not confirmed yet, and what was given up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.internal.rows import pending_revocations
from django_ilert_oauth.models import PendingRevocation

from . import display
from .filters import ErrorFilter
from .read_only import ReadOnlyAdmin


@admin.display(description=_("since"), ordering="created_at")
def since(pending: PendingRevocation) -> str:
    return display.relative_time(pending.created_at)


@admin.display(description=_("next attempt"), ordering="next_attempt_at")
def next_attempt(pending: PendingRevocation) -> str:
    if pending.next_attempt_at is None and pending.given_up_at is None:
        return gettext("at the next run")
    return display.relative_time(None if pending.given_up_at else pending.next_attempt_at)


@admin.display(description=_("given up"), ordering="given_up_at")
def given_up(pending: PendingRevocation) -> str:
    if pending.given_up_at is None:
        return "-"
    advice = gettext("if the grant is still valid, have the user remove this app in ilert")
    return format_html("{}: {}", display.relative_time(pending.given_up_at), advice)


FIELDS: list[Any] = [
    "username",
    "tenant_id",
    "api_url",
    "client_id",
    "grant_ends_at",
    "created_at",
    "attempts",
    display.last_error,
    next_attempt,
    given_up,
]


@admin.register(PendingRevocation)
class PendingRevocationAdmin(ReadOnlyAdmin):
    list_display = [
        display.account,
        since,
        "attempts",
        display.last_error,
        next_attempt,
        given_up,
        "api_url",
    ]
    list_filter = [("given_up_at", admin.EmptyFieldListFilter), ErrorFilter, "api_url"]
    search_fields = ["tenant_id", "username"]
    fieldsets = [(None, {"fields": FIELDS})]
    readonly_fields = FIELDS


def show_pending(request: HttpRequest, uuids: Iterable[UUID]) -> None:
    """A message on how many grants of these accounts are not revoked yet, or cannot be."""
    rows = pending_revocations().filter(account_uuid__in=list(uuids))
    if count := rows.filter(given_up_at=None).count():
        text = ngettext(
            "%(count)d grant is not revoked at ilert yet: refresh_ilert_tokens will try again.",
            "%(count)d grants are not revoked at ilert yet: refresh_ilert_tokens will try again.",
            count,
        )
        messages.warning(request, text % {"count": count})
    if count := rows.exclude(given_up_at=None).count():
        text = ngettext(
            "%(count)d grant cannot be revoked from here: have its user remove this app in ilert.",
            "%(count)d grants cannot be revoked from here: have their users remove this app in "
            "ilert.",
            count,
        )
        messages.error(request, text % {"count": count})
