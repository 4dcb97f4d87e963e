"""The pages on which users look after their accounts."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.views import redirect_to_login
from django.contrib.sites.shortcuts import get_current_site
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist
from django.db import connections, transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseForbidden,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.shortcuts import get_object_or_404, resolve_url
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from . import flows
from .conf import conf, is_tenant
from .exceptions import IlertOAuthError, StateError
from .flows._callback_params import single_parameters, take_parameters
from .flows._history import By, acting
from .forms import ConnectForm
from .internal import (
    account_selection,
    authorization_request,
    connect_messages,
    link_parameters,
    scopes,
    signed_scopes,
)
from .internal.own_messages import View, render, with_messages
from .internal.return_urls import back_url, connect_url, safe_next_url
from .internal.rows import database
from .internal.setting_values import DEFAULT_CLIENT
from .models import AuthorizationRequest, ConnectedAccount, Status
from .oauth.secret import Secret


class RedirectToIlert(HttpResponseRedirect):
    """Without the URL in its ``repr``, since that has the state: middleware may log it, or fail."""

    __repr__ = HttpResponse.__repr__


def outside_transactions(view: View) -> View:
    """``ATOMIC_REQUESTS`` would keep a transaction open while ilert is waited for."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def page(*methods: str) -> Callable[[View], View]:
    """For users who are logged in; kept by no cache, shown in no frame."""

    def decorate(view: View) -> View:
        view = login_required(with_messages(view))
        shown = never_cache(csrf_protect(xframe_options_deny(view)))
        return outside_transactions(require_http_methods(methods)(shown))

    return decorate


@page("GET", "HEAD")
def accounts(request: HttpRequest) -> HttpResponse:
    manageable = account_selection.manageable(request)
    usable = account_selection.matching(request, "")
    next_url = safe_next_url(request, request.GET.get("next", ""))
    context = {
        "accounts": sorted({*manageable, *account_selection.accounts_for(request)}, key=_position),
        "manageable": manageable,
        "chosen": account_selection.chosen(request, usable) if len(usable) > 1 else None,
        "next_url": next_url,
        # For pages that lead back to this one, which then still has its Back.
        "page_url": _accounts_url(request, next_url) if next_url else "",
        "connect_url": connect_url(request, next_url=next_url),
    }
    return render(request, "ilert_oauth/accounts.html", context)


@page("GET", "HEAD", "POST")
def connect(request: HttpRequest) -> HttpResponse:
    given = link_parameters.given(request)
    notices = link_parameters.check(request, given)
    if request.method == "POST":
        form = ConnectForm(given, request=request)
        if form.is_valid() and not notices:
            try:
                return RedirectToIlert(_url_at_ilert(request, form))
            except (IlertOAuthError, ImproperlyConfigured) as error:
                connect_messages.show_error(request, error)
    else:
        form = ConnectForm(initial=given, request=request)
    return _connect_page(request, form, notices)


@page("GET", "HEAD", "POST")
def choose(request: HttpRequest) -> HttpResponse:
    given = link_parameters.given(request)
    next_url = safe_next_url(request, given.get("next", ""))
    signed = signed_scopes.sign_again(request.user, given.get("scopes", ""))
    asked = signed_scopes.unsign(request.user, signed)
    accounts = account_selection.matching(request, asked)
    for account in accounts:
        if request.method == "POST" and request.POST.get("account") == str(account.pk):
            account_selection.remember(request, account)
            return HttpResponseRedirect(next_url or reverse("ilert_oauth:accounts"))
    context = {
        "accounts": accounts,
        "chosen": account_selection.chosen(request, accounts),
        "next_url": next_url,
        "signed_scopes": signed,
        "connect_url": connect_url(request, scopes=asked, next_url=next_url),
    }
    return render(request, "ilert_oauth/choose.html", context)


@login_not_required  # Django's LoginRequiredMiddleware would repeat the code in its ``next``
@outside_transactions
@with_messages
def callback(request: HttpRequest) -> HttpResponse:
    take_parameters(request)
    response = _refuse_callback(request) or _finish(request)
    # The address holds the code: it is to reach neither a cache nor another site.
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    return response


@page("GET", "HEAD", "POST")
def disconnect(request: HttpRequest, pk: int) -> HttpResponse:
    account = get_object_or_404(account_selection.manageable_rows(request), pk=pk)
    next_url = safe_next_url(request, link_parameters.given(request).get("next", ""))
    if request.method == "POST":
        flows.disconnect(account, request=request)
        messages.success(request, _("%(account)s is disconnected.") % {"account": account})
        return HttpResponseRedirect(next_url or resolve_url(conf.disconnected_url))
    if account.status == Status.DISCONNECTED:
        messages.info(request, _("%(account)s is disconnected already.") % {"account": account})
        return HttpResponseRedirect(next_url or reverse("ilert_oauth:accounts"))
    context = {"account": account, "next_url": next_url}
    return render(request, "ilert_oauth/disconnect.html", context)


@page("POST")
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    rows = account_selection.manageable_rows(request)
    ended = rows.filter(status=Status.DISCONNECTED).select_for_update()
    # Locked, so that no grant is ended that is made meanwhile.
    with transaction.atomic(using=database()):
        account = get_object_or_404(ended, pk=pk)
        with acting(By.USER):
            account.delete()
    messages.success(request, _("%(account)s is removed.") % {"account": account})
    return HttpResponseRedirect(_accounts_url(request, request.POST.get("next", "")))


def _accounts_url(request: HttpRequest, next_url: str) -> str:
    next_url = safe_next_url(request, next_url)
    return reverse("ilert_oauth:accounts", query={"next": next_url} if next_url else None)


def _position(account: ConnectedAccount) -> tuple[object, ...]:
    """What has ended comes last."""
    return account.status == Status.DISCONNECTED, account.tenant_id, account.username, account.pk


def _url_at_ilert(request: HttpRequest, form: ConnectForm) -> str:
    return flows.start_connect(
        request,
        scopes=form.asked_scopes,
        next_url=form.cleaned_data["next"],
        tenant=form.cleaned_data.get("tenant"),
        account=form.cleaned_data["account"],
        client=form.client,
    )


def _connect_page(request: HttpRequest, form: ConnectForm, notices: list[str]) -> HttpResponse:
    account = form.account_shown
    if account and is_tenant(account.tenant_id):
        form.fields.pop("tenant", None)
    held = "" if account else account_selection.held_scope(request, form.client or DEFAULT_CLIENT)
    requested = authorization_request.requested_scope(form.asked_scopes, account, held)
    usual = account.granted_scope if account else scopes.union(conf.scopes, held)
    new = scopes.missing(usual, requested)
    context = {
        "form": form,
        "notices": notices,
        "account": account,
        "is_extension": bool(account and account_selection.is_usable(account) and new),
        "back_url": back_url(request, form["next"].value() or ""),
        "site_name": _site_name(request),
        "asks": [(scopes.describe(s)[0], s in new) for s in scopes.split(requested)],
    }
    return render(request, "ilert_oauth/connect.html", context)


def _site_name(request: HttpRequest) -> str:
    try:
        return get_current_site(request).name
    except ObjectDoesNotExist:
        return request.get_host()


def _refuse_callback(request: HttpRequest) -> HttpResponse | None:
    """What only looks, such as a browser that prefetches, uses nothing up."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    is_prefetch = "prefetch" in request.headers.get("Sec-Purpose", "")
    return HttpResponseForbidden() if is_prefetch else None


def _finish(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        lost = f"A user came back from ilert without a session. {authorization_request.ADVICE}"
        connect_messages.show_error(request, StateError(lost, code="session_ended"))
        return redirect_to_login(_accounts_url(request, _next_url(request)))
    found, held = None, account_selection.held(request)
    try:
        state = single_parameters(request).get("state", Secret())
        found = authorization_request.find(request, state)
        account = flows.finish_connect(request)
    except (IlertOAuthError, ImproperlyConfigured) as error:
        return _failed(request, error, found)
    next_url = safe_next_url(request, found.next_url)
    if not found.connected_uuid:  # and no reload
        meant = _account_meant(request, found)
        connect_messages.show_connected(request, account, held, meant=meant, next_url=next_url)
    return HttpResponseRedirect(next_url or conf.connected_url)


def _next_url(request: HttpRequest) -> str:
    try:
        return authorization_request.next_url(single_parameters(request).get("state", Secret()))
    except IlertOAuthError:
        return ""


def _account_meant(request: HttpRequest, found: AuthorizationRequest) -> ConnectedAccount | None:
    uuid = found.account_uuid
    rows = account_selection.manageable_rows(request)
    return rows.filter(uuid=uuid).first() if uuid else None


def _failed(
    request: HttpRequest, error: Exception, found: AuthorizationRequest | None
) -> HttpResponse:
    """Back to a page that asks for the same again."""
    account = _account_meant(request, found) if found else None
    connect_messages.show_failure(request, error, account)
    if found is None or isinstance(error, StateError):
        # Where the user sees whether another tab has connected an account meanwhile.
        return HttpResponseRedirect(_accounts_url(request, found.next_url if found else ""))
    client = conf.client_name(found) or DEFAULT_CLIENT
    held = "" if account else account_selection.held_scope(request, client)
    url = connect_url(
        request,
        scopes=scopes.missing(scopes.union(conf.scopes, held), found.requested_scope),
        next_url=safe_next_url(request, found.next_url),
        account=account,
        client=client,
    )
    return HttpResponseRedirect(url)
