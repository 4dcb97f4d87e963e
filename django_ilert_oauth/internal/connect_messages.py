"""What a user is told who comes back from ilert; ``error_messages.py`` words what went wrong."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.translation import gettext as _

from django_ilert_oauth.error_messages import STAYS_CONNECTED, explain
from django_ilert_oauth.exceptions import AuthorizationDeniedError
from django_ilert_oauth.models import ConnectedAccount

from . import account_selection
from . import scopes as scope_names
from .return_urls import connect_url

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

logger = logging.getLogger(__name__)


def show_connected(
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
            "%(other)s has not been reconnected: to do that, log in at ilert as %(username)s."
        ) % {"other": meant, "username": meant.username}
        _warn(request, text, connect_url(request, account=meant, next_url=next_url), _("Reconnect"))
    else:
        messages.success(request, text)


def show_failure(request: HttpRequest, error: Exception, account: ConnectedAccount | None) -> None:
    """Who declines more access has made no error, and support need not look for one."""
    is_declined = isinstance(error, AuthorizationDeniedError) and error.code == "access_denied"
    if is_declined and account and account_selection.is_usable(account):
        text = STAYS_CONNECTED % {"account": account}
        messages.info(request, text)
    else:
        show_error(request, error)


def show_error(request: HttpRequest, error: Exception) -> None:
    """With a reference, by which support finds in the log what a user was shown."""
    reference = secrets.token_hex(4)
    logger.warning(
        "An ilert account was not connected: %s (%s, reference %s)",
        error,
        getattr(error, "code", "setting"),
        reference,
    )
    text = _("%(error_message)s Reference: %(reference)s")
    text %= {"error_message": explain(error), "reference": reference}
    messages.error(request, text)


def _joined(scopes: list[str]) -> str:
    return "; ".join(str(sentence) for sentence in scope_names.describe(scopes))


def _warn(request: HttpRequest, text: str, url: str, label: StrOrPromise) -> None:
    values = {"content": label, "style": "quiet", "href": url}
    button = render_to_string("ilert_oauth/elements/button.html", values)
    messages.warning(request, format_html("{} {}", text, button))
