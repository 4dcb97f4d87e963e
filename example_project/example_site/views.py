from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import requests
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from django_ilert_oauth.decorators import IlertHttpRequest, ilert_account_required
from django_ilert_oauth.error_messages import explain
from django_ilert_oauth.exceptions import IlertOAuthError, IlertScopeError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession

from .forms import AlertSourceForm

ALERT_SOURCES, SCHEDULES = "/api/alert-sources", "/api/schedules"
MOST_SHOWN = 100
#: Seconds that a visitor is kept waiting when ilert asks for fewer requests.
PATIENCE = 5


@require_safe
@login_required
def account(request: HttpRequest, pk: int) -> HttpResponse:
    account = get_object_or_404(ConnectedAccount.objects.for_user(request.user), pk=pk)
    return _at_ilert(request, account, _account_page)


@require_http_methods(["GET", "HEAD", "POST"])
@ilert_account_required("source:w")
def new_alert_source(request: IlertHttpRequest) -> HttpResponse:
    return _at_ilert(request, request.ilert_account, _new_alert_source_page)


@require_safe
@ilert_account_required
def schedules(request: IlertHttpRequest) -> HttpResponse:
    """Names no scope: what is missing is asked for when ilert refuses."""
    return _at_ilert(request, request.ilert_account, _schedules_page)


def _at_ilert(
    request: HttpRequest,
    account: ConnectedAccount,
    page: Callable[[HttpRequest, IlertSession], HttpResponse],
) -> HttpResponse:
    try:
        with IlertSession(account, max_wait=PATIENCE) as ilert:
            return page(request, ilert)
    except (IlertOAuthError, requests.RequestException) as error:
        if isinstance(error, IlertScopeError) and hasattr(request, "ilert_account"):
            raise
        messages.error(request, explain(error))
        needs_user = isinstance(error, ReconnectRequiredError)
        return redirect("ilert_oauth:accounts" if needs_user else "home")


def _account_page(request: HttpRequest, ilert: IlertSession) -> HttpResponse:
    context = {
        "account": ilert.account,
        "person": _read(ilert.get("/api/users/current")),
        "sources": _alert_sources(ilert),
    }
    return render(request, "account.html", context)


def _new_alert_source_page(request: HttpRequest, ilert: IlertSession) -> HttpResponse:
    form = AlertSourceForm(request.POST or None, _alert_sources(ilert))
    if form.is_valid():
        created = _read(ilert.post(ALERT_SOURCES, json=form.alert_source()))
        messages.success(request, _("The alert source %(name)s was created.") % created)
        return redirect("account", pk=ilert.account.pk)
    return render(request, "new_alert_source.html", {"account": ilert.account, "form": form})


def _schedules_page(request: HttpRequest, ilert: IlertSession) -> HttpResponse:
    found = list(islice(ilert.list(SCHEDULES), MOST_SHOWN))
    return render(request, "schedules.html", {"account": ilert.account, "schedules": found})


def _alert_sources(ilert: IlertSession) -> list[dict[str, Any]]:
    return list(islice(ilert.list(ALERT_SOURCES), MOST_SHOWN))


def _read(response: requests.Response) -> Any:
    response.raise_for_status()
    return response.json()
