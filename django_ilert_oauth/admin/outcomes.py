"""What came of an action: shown to the administrator, and kept in the history of each account."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.http import HttpRequest
from django.utils.translation import gettext, gettext_lazy, ngettext_lazy

from django_ilert_oauth.error_messages import STOPPED
from django_ilert_oauth.flows._bulk.run_result import RunResult
from django_ilert_oauth.models import ConnectedAccount

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    Accounts = list[ConnectedAccount]

#: Up to this many accounts are named, more are counted only.
MAX_NAMES = 5


@dataclass(frozen=True)
class Success:
    """What a message says of the accounts, and the history of each."""

    message: Any
    entry: StrOrPromise


REFRESHED = Success(
    ngettext_lazy(
        "%(count)d account was refreshed.", "%(count)d accounts were refreshed.", "count"
    ),
    gettext_lazy("Refreshed."),
)
CHECKED = Success(
    ngettext_lazy(
        "%(count)d account was checked with ilert.",
        "%(count)d accounts were checked with ilert.",
        "count",
    ),
    gettext_lazy("Checked with ilert."),
)
DISCONNECTED = Success(
    ngettext_lazy(
        "%(count)d account was disconnected.", "%(count)d accounts were disconnected.", "count"
    ),
    gettext_lazy("Disconnected."),
)
FAILED = ngettext_lazy(
    "%(count)d account failed: %(code)s.", "%(count)d accounts failed: %(code)s.", "count"
)
SKIPPED = ngettext_lazy(
    "%(count)d account was skipped.", "%(count)d accounts were skipped.", "count"
)


@dataclass
class Outcomes:
    success: Success
    done: Accounts = field(default_factory=list)
    #: By error code.
    failed: dict[str, Accounts] = field(default_factory=dict)
    #: Handled by another caller meanwhile, or not reached.
    skipped: Accounts = field(default_factory=list)
    #: Why the run ended early, as in ``RunResult``.
    stopped: str = ""

    @classmethod
    def of_run(
        cls,
        success: Success,
        accounts: Iterable[ConnectedAccount],
        done: Collection[Any],
        result: RunResult,
    ) -> Outcomes:
        outcomes = cls(success, stopped=result.stopped)
        for account in accounts:
            if account.pk in done:
                outcomes.done.append(account)
            elif code := result.failures.get(account.pk):
                outcomes.failed.setdefault(code, []).append(account)
            else:
                outcomes.skipped.append(account)
        return outcomes

    def show(self, request: HttpRequest) -> None:
        if self.done:
            messages.success(request, _text(self.success.message, self.done))
        if self.skipped:
            messages.warning(request, _text(SKIPPED, self.skipped))
        for code, accounts in self.failed.items():
            messages.error(request, _text(FAILED, accounts, code=code))
        if self.stopped:
            messages.error(request, str(STOPPED[self.stopped]))

    def log(self, request: HttpRequest) -> None:
        """By one query for each outcome."""
        _log(request, self.done, str(self.success.entry))
        for code, accounts in self.failed.items():
            _log(request, accounts, gettext("Failed: %(code)s") % {"code": code})


def _text(message: Any, accounts: Accounts, **facts: str) -> str:
    text: str = message % {"count": len(accounts), **facts}
    if len(accounts) > MAX_NAMES:
        return text
    return f"{text} ({', '.join(map(str, accounts))})"


def _log(request: HttpRequest, accounts: Accounts, entry: str) -> None:
    administrator: Any = request.user.pk
    LogEntry.objects.log_actions(administrator, accounts, CHANGE, change_message=entry)
