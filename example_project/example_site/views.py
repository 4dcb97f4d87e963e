from __future__ import annotations

from itertools import islice
from typing import Any

import requests
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from django_ilert_oauth.exceptions import IlertOAuthError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession

from .forms import AlertSourceForm

ALERT_SOURCES = "/api/alert-sources"
MOST_SHOWN = 100
#: Seconds that a visitor is kept waiting when ilert asks for fewer requests.
PATIENCE = 5


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def account(request: HttpRequest, pk: int) -> HttpResponse:
    account = get_object_or_404(ConnectedAccount.objects.for_user(request.user), pk=pk)
    try:
        with IlertSession(account, max_wait=PATIENCE) as ilert:
            return _account_page(request, ilert)
    except ReconnectRequiredError as error:
        messages.error(request, str(error))
        return redirect("ilert_oauth:accounts")
    except (IlertOAuthError, requests.RequestException) as error:
        messages.error(request, _explain(error))
        return redirect("home")


def _account_page(request: HttpRequest, ilert: IlertSession) -> HttpResponse:
    form = AlertSourceForm(request.POST) if request.method == "POST" else None
    if form and form.is_valid():
        created = _read(ilert.post(ALERT_SOURCES, json=form.alert_source()))
        messages.success(request, f"The alert source {created['name']} was created.")
        return redirect(request.path)
    person = _read(ilert.get("/api/users/current"))
    sources = list(islice(ilert.list(ALERT_SOURCES), MOST_SHOWN))
    context = {
        "account": ilert.account,
        "person": person,
        "sources": sources,
        "form": form or AlertSourceForm(initial={"escalation_policy": _usual_policy(sources)}),
    }
    return render(request, "account.html", context)


def _read(response: requests.Response) -> Any:
    response.raise_for_status()
    return response.json()


def _usual_policy(sources: list[dict[str, Any]]) -> object:
    policies = (source.get("escalationPolicy") for source in sources)
    return next((policy["id"] for policy in policies if policy), None)


def _explain(error: IlertOAuthError | requests.RequestException) -> str:
    """What ``requests`` says would show whole URLs."""
    if isinstance(error, IlertOAuthError):
        return str(error)
    if error.response is None:
        return "ilert could not be reached. Please try again in a minute."
    return f"ilert did not do that: its answer was HTTP {error.response.status_code}."
