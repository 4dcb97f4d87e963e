"""The pages on which users look after their own accounts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.contrib.sites.shortcuts import get_current_site
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from . import choice, flows, scopes, signed_scopes, state
from .conf import conf, is_tenant
from .exceptions import IlertOAuthError, StateError
from .explanations import explain
from .flows.callback import take_answer
from .flows.connect import requested_scope, safe_next_url
from .forms import ConnectForm
from .links import connect_url
from .models import ConnectedAccount, Status
from .secret import Secret

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponse]


def outside_transactions(view: View) -> View:
    """``ATOMIC_REQUESTS`` would keep a transaction open while ilert is waited for."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def page(*methods: str) -> Callable[[View], View]:
    """For users who are logged in; kept by no cache, shown in no frame."""

    def decorate(view: View) -> View:
        shown = never_cache(csrf_protect(xframe_options_deny(login_required(view))))
        return outside_transactions(require_http_methods(methods)(shown))

    return decorate


@page("GET", "HEAD")
def accounts(request: HttpRequest) -> HttpResponse:
    own = ConnectedAccount.objects.for_user(request.user).order_by("tenant_id", "username")
    return render(request, "ilert_oauth/accounts.html", {"accounts": own})


@page("GET", "HEAD", "POST")
def connect(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        form = ConnectForm(request.POST, user=request.user)
        if form.is_valid():
            try:
                return HttpResponseRedirect(_url_at_ilert(request, form))
            except (IlertOAuthError, ImproperlyConfigured) as error:
                _tell(request, error)
                if isinstance(error, StateError):
                    return redirect("ilert_oauth:accounts")
    else:
        form = ConnectForm(initial=request.GET.dict(), user=request.user)
    return _connect_page(request, form)


@page("GET", "HEAD", "POST")
def choose(request: HttpRequest) -> HttpResponse:
    given = request.POST if request.method == "POST" else request.GET
    next_url = safe_next_url(request, given.get("next", ""))
    asked = signed_scopes.unsign(request.user, given.get("scopes", ""))
    accounts = choice.fitting(request, asked)
    for account in accounts:
        if request.method == "POST" and request.POST.get("account") == str(account.pk):
            choice.remember(request, account)
            return HttpResponseRedirect(next_url or reverse("ilert_oauth:accounts"))
    context = {
        "accounts": accounts,
        "next_url": next_url,
        "signed_scopes": given.get("scopes", ""),
        "connect_url": connect_url(request, scopes=asked, next_url=next_url),
    }
    return render(request, "ilert_oauth/choose.html", context)


@outside_transactions
def callback(request: HttpRequest) -> HttpResponse:
    take_answer(request)
    is_get = request.method == "GET"
    response = _finish(request) if is_get else HttpResponseNotAllowed(["GET"])
    # The address holds the code: it is to reach neither a cache nor another site.
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    return response


@page("GET", "HEAD", "POST")
def disconnect(request: HttpRequest, pk: int) -> HttpResponse:
    account = get_object_or_404(ConnectedAccount.objects.for_user(request.user), pk=pk)
    if request.method == "POST":
        flows.disconnect(account, request=request)
        text = _("%(account)s is disconnected.") % {"account": account}
        messages.success(request, text, fail_silently=True)
        return redirect(conf.disconnected_url)
    if account.status == Status.DISCONNECTED:
        text = _("%(account)s is disconnected already.") % {"account": account}
        messages.info(request, text, fail_silently=True)
        return redirect("ilert_oauth:accounts")
    return render(request, "ilert_oauth/disconnect.html", {"account": account})


def _url_at_ilert(request: HttpRequest, form: ConnectForm) -> str:
    return flows.start_connect(
        request,
        scopes=form.cleaned_data["scopes"],
        next_url=form.cleaned_data["next"],
        tenant=form.cleaned_data.get("tenant"),
        account=form.cleaned_data["account"],
    )


def _connect_page(request: HttpRequest, form: ConnectForm) -> HttpResponse:
    account = _own_account(request, form["account"].value() or "")
    if account and is_tenant(account.tenant_id):
        form.fields.pop("tenant", None)
    requested = requested_scope(form.asked_scopes, account)
    new = scopes.missing(account.granted_scope if account else conf.scopes, requested)
    context = {
        "form": form,
        "account": account,
        "site_name": _site_name(request),
        "asks": [(scopes.describe(s)[0], s in new) for s in scopes.split(requested)],
    }
    return render(request, "ilert_oauth/connect.html", context)


def _site_name(request: HttpRequest) -> str:
    try:
        return get_current_site(request).name
    except ObjectDoesNotExist:
        return request.get_host()


def _own_account(request: HttpRequest, pk: str) -> ConnectedAccount | None:
    if not (pk.isascii() and pk.isdigit() and len(pk) < 19):
        return None
    return ConnectedAccount.objects.for_user(request.user).filter(pk=pk).first()


def _finish(request: HttpRequest) -> HttpResponse:
    returned_state = take_answer(request).get("state", Secret())
    if not request.user.is_authenticated:
        lost = f"A user came back from ilert without a session. {state.ADVICE}"
        _tell(request, StateError(lost, code="session_ended"))
        return redirect_to_login(reverse("ilert_oauth:accounts"))
    wishes = state.wishes(request, returned_state)
    try:
        account = flows.finish_connect(request)
    except (IlertOAuthError, ImproperlyConfigured) as error:
        return _failed(request, error, wishes)
    if wishes is None:  # a reload
        return redirect("ilert_oauth:accounts")
    text = _("%(account)s is connected.") % {"account": account}
    messages.success(request, text, fail_silently=True)
    return HttpResponseRedirect(safe_next_url(request, wishes.next_url) or conf.connected_url)


def _failed(request: HttpRequest, error: Exception, wishes: state.Wishes | None) -> HttpResponse:
    """Back to a page that asks for the same again."""
    _tell(request, error)
    if wishes is None or isinstance(error, StateError):
        return redirect("ilert_oauth:accounts")
    url = connect_url(
        request,
        scopes=scopes.missing(conf.scopes, wishes.requested_scope),
        next_url=safe_next_url(request, wishes.next_url),
        account=_own_account(request, wishes.account),
    )
    return HttpResponseRedirect(url)


def _tell(request: HttpRequest, error: Exception) -> None:
    """By the reference, support finds in the log what a user was told."""
    reference = secrets.token_hex(4)
    logger.warning(
        "An ilert account was not connected: %s (%s, reference %s)",
        error,
        getattr(error, "code", "setting"),
        reference,
    )
    text = _("%(explanation)s Reference: %(reference)s")
    text %= {"explanation": explain(error), "reference": reference}
    messages.error(request, text, fail_silently=True)
