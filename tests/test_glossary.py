"""Sources and pages use standard terms, and none of the project's former words for them."""

from __future__ import annotations

import re
from pathlib import Path

#: Each former word, also as part of a name, and what to say.
TERMS = {
    "announce[ds]?": "send a signal, log",
    "anew": "again",
    "answer(s|ed)?": "response, respond",
    "apart": "separately, second connection",
    "at the most": "at most",
    "bare": "plain, without a level",
    "beaten": "superseded",
    "explanations?": "error message",
    "fits?|fitting|unfit": "matching",
    "holes?": "vulnerability",
    "in (your|its|their) (own )?name": "on your behalf",
    "lea?ve?s?(ft)? alone": "skipped",
    "left alone": "skipped",
    "let go": "release",
    "log-ins?": "login",
    "(longest|most|shortest|enough) (seconds|length|at|to)": "max_..., min_...",
    "main job": "walkthrough",
    "mend(s|ed)?": "fix",
    "moods?": "severity",
    "not everything was done": "some ... are left, failed",
    "own copy": "working copy",
    "paces?": "rate limit",
    "pretend": "fake",
    "put off": "deferred",
    "refusals?": "invalid_grant, denied",
    "renew(s|ed|al)?": "refresh",
    "ran out|runs? out": "expired",
    "speaks? against": "make suspect",
    "surprises?": "unexpected request",
    "text(?= or (a |an )?(list|iterable))|a text": "string",
    "to the letter": "exactly",
    "tries": "retries, attempts",
    "trouble": "retry",
    "way back": "return URL",
    "whole( numbers?)?": "integer; complete",
    "wish(es)?": "authorization request",
    "witness(es)?": "sample",
}
#: A path, and the words that are right there.
EXCEPTIONS = {
    # FakeIlert.answer() is public: its definition, and what it says of an unexpected request.
    "django_ilert_oauth/testing/_fake_ilert.py": {"answer"},
    "tests/test_testing.py": {"answer"},
    # ilert's own sentence.
    "example_project/ilert_standin/scopes.py": {"in your name"},
    "tests/standin/test_authorize.py": {"in your name"},
}
ROOT = Path(__file__).parents[1]
SOURCES = [
    "CHANGELOG.rst",
    "README.rst",
    *(
        str(path.relative_to(ROOT))
        for folder in ("django_ilert_oauth", "docs", "example_project", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".html", ".py", ".rst") and path != Path(__file__)
    ),
]
WORDS = re.compile(rf"\b(?:{'|'.join(f'(?:{term})' for term in TERMS)})\b")


def former_words(text: str) -> set[str]:
    """With names split into their words: ``main_job``, ``MainJob`` and "main job" are the same.

    Calls of ``FakeIlert.answer()`` count as none.
    """
    split = re.sub(r"\.answer(?=\()|(?<=[a-z])(?=[A-Z])|[_\s#]+", " ", text)
    return {match[0] for match in WORDS.finditer(split.lower())}


def test_no_former_word_is_back_but_for_the_exceptions() -> None:
    found = {path: former_words(f"{path}\n{(ROOT / path).read_text()}") for path in SOURCES}
    assert {path: words for path, words in found.items() if words} == EXCEPTIONS


def test_a_word_is_found_however_it_is_written() -> None:
    for text in ("main_job", "MainJob", "The main\n# job", "MAIN_JOB"):
        assert former_words(text) == {"main job"}


def test_words_that_contain_another_are_no_former_ones() -> None:
    assert former_words("retries, Troubleshooting, a benefit, compartment, pacemaker") == set()


def test_only_a_call_of_the_method_may_be_named_answer() -> None:
    assert former_words('fake_ilert.answer("GET", path)') == set()
    for text in ("def answer(", "answer(", "ilert.answer", "the last answer", "an_answer_is_kept("):
        assert former_words(text) == {"answer"}
