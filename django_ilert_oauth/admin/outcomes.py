"""What came of an action: told to who asked for it, and written to the history of each account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.http import HttpRequest
from django.utils.translation import gettext_lazy, ngettext_lazy

from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.flows._bulk.runner import RunResult
from django_ilert_oauth.models import ConnectedAccount

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

#: So many are named, more are counted.
NAMES = 5


@dataclass(frozen=True, eq=False)
class Kind:
    """``text`` is for messages, ``entry`` for the history; empty where nothing was tried."""

    level: int
    text: Any
    entry: StrOrPromise


REFRESHED = Kind(
    messages.SUCCESS,
    ngettext_lazy(
        "%(count)d account was refreshed.", "%(count)d accounts were refreshed.", "count"
    ),
    gettext_lazy("Refreshed."),
)
CHECKED = Kind(
    messages.SUCCESS,
    ngettext_lazy(
        "%(count)d account was checked with ilert.",
        "%(count)d accounts were checked with ilert.",
        "count",
    ),
    gettext_lazy("Checked with ilert."),
)
DISCONNECTED = Kind(
    messages.SUCCESS,
    ngettext_lazy(
        "%(count)d account was disconnected.", "%(count)d accounts were disconnected.", "count"
    ),
    gettext_lazy("Disconnected."),
)
REFUSED = Kind(
    messages.WARNING,
    ngettext_lazy(
        "%(count)d account was refused: its user has to reconnect it.",
        "%(count)d accounts were refused: their users have to reconnect them.",
        "count",
    ),
    gettext_lazy("Refused by ilert: the user has to reconnect."),
)
UNREACHABLE = Kind(
    messages.ERROR,
    ngettext_lazy(
        "%(count)d account is as it was: ilert could not be reached. Try again later.",
        "%(count)d accounts are as they were: ilert could not be reached. Try again later.",
        "count",
    ),
    gettext_lazy("Tried, but ilert could not be reached."),
)
UNREADABLE = Kind(
    messages.ERROR,
    ngettext_lazy(
        "%(count)d account cannot be read: put the lost key back into "
        "ILERT_OAUTH_ENCRYPTION_KEYS, or have the user reconnect.",
        "%(count)d accounts cannot be read: put the lost key back into "
        "ILERT_OAUTH_ENCRYPTION_KEYS, or have the users reconnect.",
        "count",
    ),
    gettext_lazy("Tried, but the tokens cannot be read."),
)
ELSEWHERE = Kind(
    messages.ERROR,
    ngettext_lazy(
        "%(count)d account belongs to another ilert than ILERT_OAUTH_API_URL names.",
        "%(count)d accounts belong to another ilert than ILERT_OAUTH_API_URL names.",
        "count",
    ),
    gettext_lazy("Tried, but the account belongs to another ilert."),
)
TAKEN = Kind(
    messages.ERROR,
    ngettext_lazy(
        "%(count)d account has a new name at ilert that another account of its user has already: "
        "delete one of the two.",
        "%(count)d accounts have a new name at ilert that another account of their user has "
        "already: delete one of each two.",
        "count",
    ),
    gettext_lazy("Checked with ilert: another account has its new name."),
)
FAILED = Kind(
    messages.ERROR,
    ngettext_lazy(
        "%(count)d account failed and is as it was; its page names the error.",
        "%(count)d accounts failed and are as they were; their pages name the error.",
        "count",
    ),
    gettext_lazy("Tried, but failed."),
)
LEFT_ALONE = Kind(
    messages.WARNING,
    ngettext_lazy(
        "%(count)d account was left alone.", "%(count)d accounts were left alone.", "count"
    ),
    "",
)

KINDS = {
    ReconnectRequiredError.code: REFUSED,
    TokenDecryptionError.code: UNREADABLE,
    EndpointMismatchError.code: ELSEWHERE,
    "identity_taken": TAKEN,
    **dict.fromkeys(
        ["unavailable", "unreachable", "timeout", "server_error", "rate_limited"], UNREACHABLE
    ),
}

STOPPED = {
    "credentials": gettext_lazy(
        "ilert refused all that were asked for, so nothing was marked. Either "
        "ILERT_OAUTH_CLIENT_ID and ILERT_OAUTH_CLIENT_SECRET are wrong, or all of these grants "
        "have ended: refresh_ilert_tokens --mark-ended settles that."
    ),
    "invalid_client": gettext_lazy(
        "ilert does not know this client. Check ILERT_OAUTH_CLIENT_ID and "
        "ILERT_OAUTH_CLIENT_SECRET."
    ),
    "outage": gettext_lazy("ilert cannot be reached, so the rest was left alone."),
    "database": gettext_lazy("The database failed, so the rest was left alone."),
}


@dataclass
class Report:
    accounts: dict[Kind, list[ConnectedAccount]] = field(default_factory=lambda: defaultdict(list))
    notes: list[StrOrPromise] = field(default_factory=list)

    def tell(self, request: HttpRequest) -> None:
        """One message for each kind, naming the accounts where they are few."""
        for kind, accounts in sorted(self.accounts.items(), key=lambda item: item[0].level):
            text = kind.text % {"count": len(accounts)}
            if len(accounts) <= NAMES:
                text = f"{text} ({', '.join(map(str, accounts))})"
            messages.add_message(request, kind.level, text)
        for note in self.notes:
            messages.error(request, str(note))

    def log(self, request: HttpRequest) -> None:
        """By one query for each kind."""
        who: Any = request.user.pk
        for kind, accounts in self.accounts.items():
            if kind.entry:
                LogEntry.objects.log_actions(who, accounts, CHANGE, change_message=str(kind.entry))


def report_of(
    result: RunResult, accounts: Iterable[ConnectedAccount], done: Mapping[Any, Kind]
) -> Report:
    """``done`` has the kind of each account, by key, that the run got through."""
    report = Report()
    if result.stopped:
        report.notes.append(STOPPED[result.stopped])
    for account in accounts:
        kind = done.get(account.pk) or _failure(result, account)
        report.accounts[kind].append(account)
    return report


def _failure(result: RunResult, account: ConnectedAccount) -> Kind:
    code = result.failures.get(account.pk)
    is_marked = result.stopped != "credentials" or code != ReconnectRequiredError.code
    return KINDS.get(code, FAILED) if code and is_marked else LEFT_ALONE
