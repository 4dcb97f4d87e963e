"""What the list and the page of an account show of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from django.contrib import admin
from django.contrib.admin.utils import display_for_value
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timeuntil
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal import crypto, scopes
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from django_ilert_oauth.templatetags.ilert_oauth_times import ago

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise


#: So many events are shown.
EVENTS = 50


@admin.display(description=_("account"), ordering="username")
def account(row: ConnectedAccount | PendingRevocation) -> str:
    return str(row)


@admin.display(description=_("client"), ordering="client_id")
def client(account: ConnectedAccount) -> StrOrPromise:
    return conf.client_name(account) or _("not configured")


@admin.display(description=_("state"), ordering="status")
def state(account: ConnectedAccount) -> SafeString:
    if not account.is_readable:
        return _badge("unreadable", account.status_text)
    badge = _badge(account.status, account.get_status_display())
    reason = account.get_reason_display()
    return (
        format_html('{} <span class="ilert-reason">{}</span>', badge, reason) if reason else badge
    )


@admin.display(description=_("scopes"), ordering="granted_scope")
def scope(account: ConnectedAccount) -> SafeString:
    """Each with what it means."""
    parts = ((scopes.describe(part)[0], part) for part in scopes.split(account.granted_scope))
    return format_html_join(" ", '<span class="ilert-scope" title="{}">{}</span>', parts)


@admin.display(description=_("what this site may do"))
def scope_sentences(account: ConnectedAccount) -> StrOrPromise:
    is_usable = account.status == Status.CONNECTED and account.is_readable
    sentences = ((sentence,) for sentence in account.scope_sentences if is_usable)
    items = format_html_join("", "<li>{}</li>", sentences)
    return format_html('<ul class="ilert-scopes">{}</ul>', items) if items else _("nothing")


@admin.display(description=_("access expires"), ordering="access_token_expires_at")
def access_expires(account: ConnectedAccount) -> str:
    return relative_time(account.access_token_expires_at)


@admin.display(description=_("grant expires"), ordering="refresh_token_expires_at")
def grant_expires(account: ConnectedAccount) -> str:
    return relative_time(account.refresh_token_expires_at)


@admin.display(description=_("last refreshed"), ordering="refreshed_at")
def last_refreshed(account: ConnectedAccount) -> str:
    return relative_time(account.refreshed_at)


@admin.display(description=_("last error"), ordering="last_error_at")
def last_error(row: ConnectedAccount | PendingRevocation) -> str:
    if not row.last_error:
        return "-"
    return format_html(
        '<span class="ilert-error">{}</span> {}', row.last_error, relative_time(row.last_error_at)
    )


@admin.display(description=_("access token"))
def access_token(account: ConnectedAccount) -> StrOrPromise:
    return _storage(account, "access_token")


@admin.display(description=_("refresh token"))
def refresh_token(account: ConnectedAccount) -> StrOrPromise:
    return _storage(account, "refresh_token")


@admin.display(description=_("events"))
def events(account: ConnectedAccount) -> str:
    """The latest."""
    rows = (
        (relative_time(e.at), e.get_kind_display(), e.get_by_display(), e.code, e.reference)
        for e in account.events[:EVENTS]
    )
    cells = "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>"
    heading = format_html(
        "<tr><th>{}</th><th>{}</th><th>{}</th><th>{}</th><th>{}</th></tr>",
        *(gettext("when"), gettext("what"), gettext("by"), gettext("code"), gettext("reference")),
    )
    body = format_html_join("", cells, rows)
    return format_html("<table>{}{}</table>", heading, body) if body else "-"


def relative_time(at: datetime | None) -> str:
    """Relative, and exact on hovering."""
    if at is None:
        return "-"
    now = timezone.now()
    text = gettext("in %s") % timeuntil(at, now, depth=1) if at > now else ago(at)
    exact = display_for_value(at, "")
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), exact, text)


def _badge(state: str, text: StrOrPromise) -> SafeString:
    return format_html('<span class="ilert-state ilert-{}">{}</span>', state, text)


def _storage(account: ConnectedAccount, token_name: str) -> StrOrPromise:
    ciphertext = getattr(account, f"{token_name}_ciphertext")
    if not ciphertext:
        return _("none")
    number = crypto.key_number(ciphertext, account.place_of(token_name))
    if not number:
        return _("stored, encrypted; cannot be read: no configured key decrypts it")
    if number == 1:
        return _("stored, encrypted with the first key")
    return _("stored, encrypted with an old key: run rotate_ilert_keys")
