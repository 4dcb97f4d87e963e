"""What administrators can have done to accounts: asked once more, bounded, reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal.rows import account_rows, database
from django_ilert_oauth.models import ConnectedAccount, Reason, Status

from .outcomes import CHECKED, DISCONNECTED, REFRESHED, Report, report_of
from .revocations import tell_of_pending

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = ModelAdmin[ConnectedAccount]
    Accounts = QuerySet[ConnectedAccount]

TEMPLATE = "admin/ilert_oauth/connectedaccount/confirm_action.html"
#: So many accounts at the most for one web request ...
MOST = 100
#: ... and no more than the pace allows in so many seconds.
SECONDS = 20
#: Sent along from the page of one account, to come back to it.
FROM_ACCOUNT = "from_account"


def most_at_once() -> int:
    pace = conf.requests_per_minute
    return min(MOST, max(pace * SECONDS // 60, 1)) if pace else MOST


@dataclass(frozen=True)
class Verb:
    name: str
    title: StrOrPromise
    question: Any
    consequence: StrOrPromise
    #: Others are left alone.
    statuses: tuple[Status, ...]
    #: What does the same to more accounts.
    command: str
    do: Callable[[HttpRequest, list[ConnectedAccount]], Report]

    def respond(self, admin: AccountAdmin, request: HttpRequest, chosen: Accounts) -> HttpResponse:
        """A page that asks, or what comes after the answer."""
        fit = chosen.filter(status__in=self.statuses)
        count = fit.count()
        if not count:
            messages.warning(request, _("None of the chosen accounts is connected."))
        elif count > most_at_once() or "post" not in request.POST:
            return self._ask(admin, request, fit, count, left_alone=chosen.count() - count)
        else:
            accounts = list(fit.select_related("user").order_by("pk"))
            report = self.do(request, accounts)
            report.tell(request)
            report.log(request)
        return HttpResponseRedirect(_way_back(admin, request))

    def _ask(
        self, admin: AccountAdmin, request: HttpRequest, fit: Accounts, count: int, left_alone: int
    ) -> HttpResponse:
        most = most_at_once()
        context = {
            **admin.admin_site.each_context(request),
            "title": self.title,
            "opts": admin.opts,
            "media": admin.media,
            "verb": self,
            "question": self.question % {"count": count},
            "count": count,
            "most": most,
            "left_alone": left_alone,
            "accounts": fit.select_related("user").order_by("pk")[:most],
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "from_account": request.POST.get(FROM_ACCOUNT, ""),
            "way_back": _way_back(admin, request),
        }
        request.current_app = admin.admin_site.name
        return TemplateResponse(request, TEMPLATE, context)


def _way_back(admin: AccountAdmin, request: HttpRequest) -> str:
    """To the page of the account that the action was asked for on, else to the list as it was."""
    pk = request.POST.get(FROM_ACCOUNT, "")
    if pk and [pk] == request.POST.getlist(ACTION_CHECKBOX_NAME):
        name = "admin:ilert_oauth_connectedaccount_change"
        return reverse(name, args=[pk], current_app=admin.admin_site.name)
    return request.get_full_path()


def _refresh(request: HttpRequest, accounts: list[ConnectedAccount]) -> Report:
    done: set[Any] = set()
    result = flows.refresh_many(_rows(accounts), force=True, on_done=done.add)
    return report_of(result, accounts, dict.fromkeys(done, REFRESHED))


def _check(request: HttpRequest, accounts: list[ConnectedAccount]) -> Report:
    done: set[Any] = set()
    result = flows.check_many(_rows(accounts), on_done=done.add)
    return report_of(result, accounts, dict.fromkeys(done, CHECKED))


def _disconnect(request: HttpRequest, accounts: list[ConnectedAccount]) -> Report:
    # One commit, after which ilert is told of all at the same time.
    with transaction.atomic(using=database()):
        for account in accounts:
            flows.disconnect(account, reason=Reason.ADMIN, request=request)
    tell_of_pending(request, [account.uuid for account in accounts])
    report = Report()
    report.accounts[DISCONNECTED] = accounts
    return report


def _rows(accounts: list[ConnectedAccount]) -> Any:
    return account_rows().filter(pk__in=[account.pk for account in accounts])


REFRESH = Verb(
    name="refresh_accounts",
    title=_("Refresh now"),
    question=ngettext_lazy(
        "Renew the tokens of %(count)d account now?",
        "Renew the tokens of %(count)d accounts now?",
        "count",
    ),
    consequence=_(
        "Each is renewed even if that was done a moment ago. A grant that ilert refuses is marked, "
        "and its user has to reconnect. If ilert cannot be reached, nothing changes."
    ),
    statuses=(Status.CONNECTED,),
    command="refresh_ilert_tokens --force --within 1d",
    do=_refresh,
)
CHECK = Verb(
    name="check_accounts",
    title=_("Check with ilert"),
    question=ngettext_lazy(
        "Ask ilert about %(count)d account?", "Ask ilert about %(count)d accounts?", "count"
    ),
    consequence=_(
        "Tenant, username and scopes are stored as ilert names them. A token that has run out is "
        "renewed first. If ilert cannot be reached, nothing changes."
    ),
    statuses=(Status.CONNECTED,),
    command="check_ilert_accounts",
    do=_check,
)
DISCONNECT = Verb(
    name="disconnect_accounts",
    title=_("Disconnect"),
    question=ngettext_lazy(
        "Disconnect %(count)d account?", "Disconnect %(count)d accounts?", "count"
    ),
    consequence=_(
        "The tokens are wiped and the grant is ended at ilert, which may honour the last access "
        "token for up to an hour. What this site does in ilert in the name of these users stops "
        "working until they connect again."
    ),
    statuses=(Status.CONNECTED, Status.RECONNECT_REQUIRED),
    command="",
    do=_disconnect,
)
