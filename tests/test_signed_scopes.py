from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import signing

from django_ilert_oauth.internal import signed_scopes

USER, OTHER = User(pk=7), User(pk=8)


def test_what_was_signed_for_a_user_comes_back() -> None:
    assert signed_scopes.unsign(USER, signed_scopes.sign(USER, "source:w alert")) == (
        "source:w alert"
    )


def test_several_scopes_may_be_signed() -> None:
    signed = signed_scopes.sign(USER, ["source:w", "alert", "source:r"])
    assert signed_scopes.unsign(USER, signed) == "source:w alert"


def test_what_was_signed_for_another_user_is_empty() -> None:
    assert signed_scopes.unsign(USER, signed_scopes.sign(OTHER, "source:w")) == ""


@pytest.mark.parametrize("minutes", [61, 60 * 24])
def test_what_is_older_than_an_hour_is_empty(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    signed = signed_scopes.sign(USER, "source:w")
    later = time.time() + minutes * 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert signed_scopes.unsign(USER, signed) == ""


def test_what_is_younger_than_an_hour_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = signed_scopes.sign(USER, "source:w")
    later = time.time() + 59 * 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert signed_scopes.unsign(USER, signed) == "source:w"


@pytest.mark.parametrize("forged", ["", "wildcard:d", "a:b:c", ":::", "é:\u202e:\x00", "x" * 9000])
def test_what_nobody_signed_is_empty(forged: str) -> None:
    assert signed_scopes.unsign(USER, forged) == ""


@pytest.mark.parametrize("position", range(0, 60, 7))
def test_a_changed_signature_is_empty(position: int) -> None:
    signed = signed_scopes.sign(USER, "source:w")
    changed = "A" if signed[position] != "A" else "B"
    assert signed_scopes.unsign(USER, signed[:position] + changed + signed[position + 1 :]) == ""


def test_what_the_site_signed_for_something_else_is_empty() -> None:
    assert signed_scopes.unsign(USER, signing.dumps(["7", "wildcard:d"])) == ""


def test_what_was_signed_under_a_key_that_was_dropped_is_empty(settings: Any) -> None:
    signed = signed_scopes.sign(USER, "source:w")
    settings.SECRET_KEY = "another"
    assert signed_scopes.unsign(USER, signed) == ""
