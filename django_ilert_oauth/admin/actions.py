"""The actions of administrators on accounts: confirmed, bounded, with their outcomes shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth import flows
from django_ilert_oauth.conf import conf
from django_ilert_oauth.error_messages import explain
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.flows._client import require_writable
from django_ilert_oauth.internal.rows import account_rows, database
from django_ilert_oauth.models import ConnectedAccount, Reason, Status

from .outcomes import CHECKED, DISCONNECTED, REFRESHED, Outcomes, Success
from .revocations import show_pending

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = ModelAdmin[ConnectedAccount]
    Accounts = QuerySet[ConnectedAccount]

TEMPLATE = "admin/ilert_oauth/connectedaccount/confirm_action.html"
#: For one web request, which is not to take long: so many accounts at most ...
MAX_ACCOUNTS = 100
#: ... and no more than the rate limit allows in so many seconds.
MAX_SECONDS = 20
#: Sent along from the page of one account, to come back to it.
FROM_ACCOUNT = "from_account"


def max_accounts() -> int:
    per_minute = conf.requests_per_minute
    return min(MAX_ACCOUNTS, max(per_minute * MAX_SECONDS // 60, 1)) if per_minute else MAX_ACCOUNTS


@dataclass(frozen=True)
class Action:
    name: str
    title: StrOrPromise
    question: Any
    consequence: StrOrPromise
    #: Accounts of another status are skipped.
    statuses: tuple[Status, ...]
    #: What does the same to more accounts, and what is said where the site's queue does.
    command: str
    in_background: StrOrPromise
    run: Callable[[HttpRequest, list[ConnectedAccount]], Outcomes]

    def respond(self, admin: AccountAdmin, request: HttpRequest, chosen: Accounts) -> HttpResponse:
        """A page that asks; once it is confirmed, the list or the account with the outcomes."""
        eligible = chosen.filter(status__in=self.statuses)
        count = eligible.count()
        queue = configured_queue() if count > max_accounts() else None
        if not count:
            messages.warning(request, _("None of the chosen accounts is connected."))
        elif not self._is_confirmed(request, count, queue):
            skipped = chosen.count() - count
            return self._ask(admin, request, eligible, queue, count=count, skipped=skipped)
        else:
            self._do(request, list(eligible.select_related("user").order_by("pk")), queue)
        return HttpResponseRedirect(_return_url(admin, request))

    def _do(self, request: HttpRequest, accounts: list[ConnectedAccount], queue: Any) -> None:
        try:
            outcomes = self._hand_over(queue, accounts) if queue else self.run(request, accounts)
        except IlertOAuthError as error:  # of the site, as on a copy that is read-only
            messages.error(request, explain(error))
            return
        outcomes.show(request)
        outcomes.log(request)

    def _is_confirmed(self, request: HttpRequest, count: int, queue: Any) -> bool:
        """In the background, for as many as the page has told: their keys are not sent along."""
        told = request.POST.get("count", str(count))
        is_possible = told == str(count) if queue else count <= max_accounts()
        return "post" in request.POST and is_possible

    def _hand_over(self, queue: Any, accounts: list[ConnectedAccount]) -> Outcomes:
        require_writable()
        queue.enqueue(self.name, [account.pk for account in accounts])
        entry = gettext("%(action)s: handed to the background") % {"action": self.title}
        return Outcomes(Success(self.in_background, entry), done=accounts)

    def _ask(
        self, admin: AccountAdmin, request: HttpRequest, chosen: Accounts, queue: Any, **facts: int
    ) -> HttpResponse:
        limit = max_accounts()
        accounts = list(chosen.select_related("user").order_by("pk")[:limit])
        pks = [account.pk for account in accounts]
        context = {
            **admin.admin_site.each_context(request),
            "title": self.title,
            # What Django's breadcrumbs of a page end with, in each of its versions.
            "original": self.title,
            "has_view_permission": True,
            "opts": admin.opts,
            "media": admin.media,
            "action": self,
            "question": self.question % facts,
            **facts,
            "max_accounts": limit,
            "queue": queue,
            "accounts": accounts,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "chosen": request.POST.getlist(ACTION_CHECKBOX_NAME) if queue else pks,
            "select_across": request.POST.get("select_across", "0") if queue else "0",
            "from_account": request.POST.get(FROM_ACCOUNT, ""),
            "return_url": _return_url(admin, request),
        }
        request.current_app = admin.admin_site.name
        return TemplateResponse(request, TEMPLATE, context)


def configured_queue() -> Any:
    """The tasks that a worker of the site takes, Celery's before Django's own; None without one."""
    for name in ("tasks", "background"):
        # Without Celery; without Django's tasks; or with a backend that takes none of ours.
        with suppress(Exception):
            module = import_module(f"django_ilert_oauth.{name}")
            if module.has_workers():
                return module
    return None


def _return_url(admin: AccountAdmin, request: HttpRequest) -> str:
    """The page of the account that the action was asked for on, else the list as it was."""
    pk = request.POST.get(FROM_ACCOUNT, "")
    if pk and [pk] == request.POST.getlist(ACTION_CHECKBOX_NAME):
        name = "admin:ilert_oauth_connectedaccount_change"
        return reverse(name, args=[pk], current_app=admin.admin_site.name)
    return request.get_full_path()


def _refresh(request: HttpRequest, accounts: list[ConnectedAccount]) -> Outcomes:
    done: set[Any] = set()
    result = flows.refresh_many(_rows(accounts), force=True, on_done=done.add)
    return Outcomes.of_run(REFRESHED, accounts, done, result)


def _check(request: HttpRequest, accounts: list[ConnectedAccount]) -> Outcomes:
    done: set[Any] = set()
    result = flows.check_many(_rows(accounts), on_done=done.add)
    return Outcomes.of_run(CHECKED, accounts, done, result)


def _disconnect(request: HttpRequest, accounts: list[ConnectedAccount]) -> Outcomes:
    # One commit, after which all are revoked at the same time.
    with transaction.atomic(using=database()):
        for account in accounts:
            flows.disconnect(account, reason=Reason.ADMIN, request=request)
    show_pending(request, [account.uuid for account in accounts])
    return Outcomes(DISCONNECTED, done=accounts)


def _rows(accounts: list[ConnectedAccount]) -> Any:
    return account_rows().filter(pk__in=[account.pk for account in accounts])


REFRESH = Action(
    name="refresh_accounts",
    title=_("Refresh now"),
    question=ngettext_lazy(
        "Refresh the tokens of %(count)d account now?",
        "Refresh the tokens of %(count)d accounts now?",
        "count",
    ),
    consequence=_(
        "Each is refreshed even if it was refreshed a moment ago. If ilert refuses a grant, its "
        "user has to reconnect. If ilert cannot be reached, nothing changes."
    ),
    statuses=(Status.CONNECTED,),
    command="refresh_ilert_tokens --force --within 1d",
    in_background=_("%(count)d accounts are being refreshed in the background."),
    run=_refresh,
)
CHECK = Action(
    name="check_accounts",
    title=_("Check with ilert"),
    question=ngettext_lazy(
        "Ask ilert about %(count)d account?", "Ask ilert about %(count)d accounts?", "count"
    ),
    consequence=_(
        "Tenant, username and scopes are stored as ilert names them. A token that has expired is "
        "refreshed first. If ilert cannot be reached, nothing changes."
    ),
    statuses=(Status.CONNECTED,),
    command="check_ilert_accounts",
    in_background=_("%(count)d accounts are being checked in the background."),
    run=_check,
)
DISCONNECT = Action(
    name="disconnect_accounts",
    title=_("Disconnect"),
    question=ngettext_lazy(
        "Disconnect %(count)d account?", "Disconnect %(count)d accounts?", "count"
    ),
    consequence=_(
        "The tokens are wiped and the grant is revoked at ilert, which may honour the last access "
        "token for up to an hour. What this site does in ilert on behalf of these users stops "
        "working until they connect again."
    ),
    statuses=(Status.CONNECTED, Status.RECONNECT_REQUIRED),
    command="disconnect_ilert_accounts --reason admin",
    in_background=_("%(count)d accounts are being disconnected in the background."),
    run=_disconnect,
)
