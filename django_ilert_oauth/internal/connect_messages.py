"""What a user is told who comes back from ilert with an account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext as _

from django_ilert_oauth.models import ConnectedAccount

from . import scopes as scope_names
from .return_urls import connect_url

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise


def tell(
    request: HttpRequest,
    account: ConnectedAccount,
    held: Mapping[UUID, str],
    *,
    meant: ConnectedAccount | None,
    next_url: str,
) -> None:
    """``held`` is what each account had before; ``meant`` is the one that was to be reconnected."""
    before = held.get(account.uuid, "")
    lost = scope_names.missing(account.granted_scope, before)
    text = _("%(account)s is connected.") % {"account": account}
    if gained := scope_names.missing(before, account.granted_scope) if before else []:
        text += " " + _("New: %(sentences)s.") % {"sentences": _joined(gained)}
    if lost:
        text += " " + _("ilert no longer allows this site to: %(sentences)s.") % {
            "sentences": _joined(lost)
        }
        url = connect_url(request, scopes=lost, account=account, next_url=next_url)
        _warn(request, text, url, _("Ask again"))
    elif meant and meant != account:
        text += " " + _(
            "%(other)s, which was to be reconnected, is not: for that, log in at ilert as "
            "%(username)s."
        ) % {"other": meant, "username": meant.username}
        _warn(request, text, connect_url(request, account=meant, next_url=next_url), _("Reconnect"))
    else:
        messages.success(request, text, fail_silently=True)


def _joined(scopes: list[str]) -> str:
    return "; ".join(str(sentence) for sentence in scope_names.describe(scopes))


def _warn(request: HttpRequest, text: str, url: str, label: StrOrPromise) -> None:
    link = format_html('{} <a class="ilert-button ilert-quiet" href="{}">{}</a>', text, url, label)
    messages.warning(request, link, fail_silently=True)
