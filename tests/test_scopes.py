from __future__ import annotations

import pytest

from django_ilert_oauth.internal import scopes

#: ilert's table of scopes, as the contract page has it.
RESOURCES = [
    "profile",
    "policy",
    "schedule",
    "source",
    "support_hour",
    "monitor",
    "action",
    "connector",
    "maintenance",
    "report",
    "template",
    "service",
    "status_page",
    "team",
    "user",
    "alert",
    "incident",
    "metric",
    "metric_source",
]


@pytest.mark.parametrize(
    ("granted", "required", "holds"),
    [
        ("source", "source", True),
        ("source", "source:r", True),
        ("source:r", "source", True),
        ("source:w", "source", True),
        ("source:w", "source:r", True),
        ("source:d", "source:w", True),
        ("source:d", "source", True),
        ("source", "source:w", False),
        ("source:r", "source:w", False),
        ("source:w", "source:d", False),
        ("profile source:w", "source:r profile", True),
        ("profile source:w", "profile team", False),
        ("wildcard", "source", True),
        ("wildcard:r", "source", True),
        ("wildcard", "source:w", False),
        ("wildcard:d", "source:w team:d", True),
        ("wildcard:w", "team:d", False),
        ("source:d", "wildcard", False),
        ("metric", "metric_source", False),
        ("metric_source", "metric", False),
        ("source", "", True),
        ("", "", True),
        ("", "source", False),
        ("brand_new:x", "brand_new:x", True),
        ("brand_new:x", "brand_new", False),
        ("brand_new", "brand_new:x", False),
        ("source:r", "source:rw", False),
        ("source:w", "source:wd", False),
        (":w", "source", False),
        ("a:b:w", "a:b:r", True),
        ("a:b:w", "a", False),
    ],
)
def test_a_higher_level_covers_the_lower_ones(granted: str, required: str, holds: bool) -> None:
    assert scopes.covers(granted, required) is holds


@pytest.mark.parametrize("required", [["source:r", "profile"], ["source:r profile"]])
def test_scopes_come_as_text_or_as_list(required: list[str]) -> None:
    assert scopes.covers(["profile source:w"], required)


def test_what_is_missing_is_named_as_it_is_asked_for() -> None:
    assert scopes.missing("source:w", "source:r team:w alert") == ["team:w", "alert"]


@pytest.mark.parametrize(
    ("given", "together"),
    [
        ([["profile"], "source:w"], "profile source:w"),
        (["source", "source:w"], "source:w"),
        (["source:d", "source:w source"], "source:d"),
        (["source", "source:r"], "source"),
        (["b a", "a c"], "b a c"),
        (["wildcard source:w"], "wildcard source:w"),
        (["brand_new:x brand_new"], "brand_new:x brand_new"),
        (["source:r source:rw"], "source:r source:rw"),
        ([], ""),
    ],
)
def test_of_each_resource_the_highest_level_is_asked_for(given: list[str], together: str) -> None:
    assert scopes.union(*given) == together


@pytest.mark.parametrize("scope", ["profile", "source:w", "offline_access", "brand-new.v2/x"])
def test_any_token_of_the_rfc_may_be_a_scope(scope: str) -> None:
    assert scopes.is_valid(scope)


@pytest.mark.parametrize("scope", ["", "a b", 'a"b', "a\\b", "a\n", "ä", "\x7f", "a\0"])
def test_what_the_rfc_does_not_allow_is_no_scope(scope: str) -> None:
    assert not scopes.is_valid(scope)


def test_scopes_are_read_out_as_sentences() -> None:
    sentences = scopes.describe("profile source:w team:d user:r offline_access brand_new:x")
    assert [str(sentence) for sentence in sentences] == [
        "See your profile",
        "See, create and edit alert sources",
        "See, create, edit and delete teams",
        "See users and how they are notified",
        "Stay connected while you are away",
        "Use what ilert calls “brand_new:x”",
    ]


def test_a_resource_is_read_out_once() -> None:
    assert [str(sentence) for sentence in scopes.describe("source source:w")] == [
        "See, create and edit alert sources"
    ]


@pytest.mark.parametrize("resource", [*RESOURCES, "wildcard"])
def test_each_scope_that_ilert_documents_has_words_of_its_own(resource: str) -> None:
    [sentence] = scopes.describe(resource)
    assert str(sentence).startswith("See ")
    assert "{" not in str(sentence)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sources:w", "source:w"),
        ("Source:W", "source:w"),
        ("profile source", ""),
        ("source w", "source:w"),
        ("*", "wildcard"),
        ("statuspage", "status_page"),
        ("source:write", "source:w"),
        ("offline-access", "offline_access"),
        ("source", ""),
        ("shop:w", ""),
        ("", ""),
    ],
)
def test_a_mistyped_scope_is_like_the_one_that_was_meant(given: str, meant: str) -> None:
    assert scopes.nearest(given) == meant
