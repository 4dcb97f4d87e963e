"""What a scope covers, and what it says in words.

A scope is ``resource`` or ``resource:level``: ``:r`` (the same as none) reads, ``:w`` also creates
and edits, ``:d`` also deletes. ``wildcard`` stands for every resource. ilert adds scopes without
notice, so one that is not known here is passed through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

WILDCARD = "wildcard"
LEVELS = "rwd"

_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

_RESOURCES: dict[str, StrOrPromise] = {
    "action": _("alert actions"),
    "alert": _("alerts"),
    "connector": _("connectors"),
    "incident": _("incidents"),
    "maintenance": _("maintenance windows"),
    "metric": _("metrics"),
    "metric_source": _("metric data sources"),
    "monitor": _("uptime monitors"),
    "policy": _("escalation policies"),
    "profile": _("your profile"),
    "report": _("reports"),
    "schedule": _("schedules and who is on call"),
    "service": _("services"),
    "source": _("alert sources"),
    "status_page": _("status pages"),
    "support_hour": _("support hours"),
    "team": _("teams"),
    "template": _("incident templates"),
    "user": _("users and how they are notified"),
    WILDCARD: _("everything in ilert"),
}

_SENTENCES: dict[str, StrOrPromise] = {
    "r": _("See {things}"),
    "w": _("See, create and edit {things}"),
    "d": _("See, create, edit and delete {things}"),
}


def split(scope: str | Iterable[str]) -> list[str]:
    """Accepts ``"profile source:w"`` and ``["profile", "source:w"]`` alike."""
    return scope.split() if isinstance(scope, str) else [part for s in scope for part in s.split()]


def is_valid(scope: str) -> bool:
    """RFC 6749, section 3.3: one scope-token."""
    return _TOKEN.fullmatch(scope) is not None


def union(*scopes: str | Iterable[str]) -> str:
    """One space-separated string; of each resource only the highest level."""
    highest: dict[str, str] = {}
    for scope in (part for several in scopes for part in split(several)):
        resource, level = _parse(scope)
        if resource not in highest or level > _parse(highest[resource])[1]:
            highest[resource] = scope
    return " ".join(highest.values())


def covers(granted: str | Iterable[str], required: str | Iterable[str]) -> bool:
    held = set(split(granted))
    return all(held.intersection(covering(scope)) for scope in split(required))


def missing(granted: str | Iterable[str], required: str | Iterable[str]) -> list[str]:
    return [scope for scope in split(required) if not covers(granted, scope)]


def covering(scope: str) -> list[str]:
    """Each scope that includes this one, itself among them."""
    resource, level = _parse(scope)
    higher = LEVELS[level:]
    without_level = [resource, WILDCARD] if level == 0 else []
    return [
        *without_level,
        *(f"{name}:{letter}" for name in (resource, WILDCARD) for letter in higher),
    ]


def describe(scope: str | Iterable[str]) -> list[StrOrPromise]:
    """A sentence for each scope; one that is not known here is named as it is."""
    return [_sentence(part) for part in split(union(scope))]


def nearest(scope: str) -> str:
    """The known one that was probably meant; empty for a known one, and where none is like it."""
    spelt = scope.lower().replace(" ", ":").replace("*", WILDCARD)
    levels = ["", *(f":{letter}" for letter in LEVELS)]
    known = ["offline_access", *(f"{name}{level}" for name in _RESOURCES for level in levels)]
    # Several scopes in one are none that is mistyped.
    cutoff = 1 if " " in scope else 0.75
    [found] = get_close_matches(spelt, known, n=1, cutoff=cutoff) or [""]
    return "" if found == scope else found


def _parse(scope: str) -> tuple[str, int]:
    resource, _colon, letter = scope.rpartition(":")
    if resource and letter in tuple(LEVELS):
        return resource, LEVELS.index(letter)
    return scope, 0


def _sentence(scope: str) -> StrOrPromise:
    if scope == "offline_access":
        return _("Stay connected while you are away")
    resource, level = _parse(scope)
    things = _RESOURCES.get(resource)
    if things is None:
        return format_lazy(_("Use what ilert calls “{scope}”"), scope=scope)
    return format_lazy(_SENTENCES[LEVELS[level]], things=things)
