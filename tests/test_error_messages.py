"""What users are told of exceptions."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from django.core.exceptions import ImproperlyConfigured
from django.utils import translation

from django_ilert_oauth import exceptions
from django_ilert_oauth.error_messages import explain

DETAIL = "a detail for developers"


def http_error(
    status: int, kind: type[exceptions.IlertHTTPError] = exceptions.IlertHTTPError
) -> exceptions.IlertHTTPError:
    response = requests.Response()
    response.status_code = status
    return kind(DETAIL, response=response, message=DETAIL)


SENTENCES: list[tuple[Exception, str]] = [
    (exceptions.StateError(DETAIL), "This request to connect has ended"),
    (exceptions.AuthorizationDeniedError(DETAIL), "Access was declined at ilert"),
    (exceptions.IlertUnavailableError(DETAIL), "ilert could not be reached. Nothing was changed."),
    (exceptions.IlertUnavailableError(DETAIL, code="rate_limited"), "ilert is too busy"),
    (exceptions.IlertRejectedError(DETAIL), "ilert did not accept the request."),
    (exceptions.ReconnectRequiredError(DETAIL), "ilert has ended this site's access"),
    (exceptions.EndpointMismatchError(DETAIL), "The account belongs to a different ilert"),
    (exceptions.TokenDecryptionError(DETAIL), "This site can no longer decrypt"),
    (exceptions.IlertOAuthError(DETAIL), "ilert did not accept the request."),
    (ImproperlyConfigured(DETAIL), "This site is not set up correctly"),
    (http_error(403, exceptions.IlertScopeError), "This site is not allowed to do that"),
    (http_error(402, exceptions.IlertPlanError), "Your plan at ilert does not include that"),
    (http_error(400), "ilert did not accept what was sent."),
    (http_error(401), "ilert has ended this site's access"),
    (http_error(403), "ilert does not let you do that."),
    (http_error(404), "ilert does not have that"),
    (http_error(429), "ilert is too busy"),
    (http_error(503), "ilert could not be reached, or failed to respond"),
    (exceptions.IlertHTTPError(DETAIL), "ilert could not be reached, or failed to respond"),
    (requests.ConnectionError(DETAIL), "ilert could not be reached, or failed to respond"),
    (requests.Timeout(DETAIL), "ilert could not be reached, or failed to respond"),
    (requests.JSONDecodeError(DETAIL, "", 0), "ilert could not be reached, or failed to respond"),
    (ValueError(DETAIL), "Something went wrong."),
    (FileNotFoundError(DETAIL), "Something went wrong."),
]


def name(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Exception) else ""


@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=name)
def test_each_exception_has_a_sentence_for_users(error: Exception, sentence: str) -> None:
    assert str(explain(error)).startswith(sentence)


@pytest.mark.parametrize("error", [error for error, _ in SENTENCES], ids=name)
def test_no_sentence_tells_what_is_for_developers(error: Exception) -> None:
    assert DETAIL not in str(explain(error))


@pytest.mark.parametrize("kind", exceptions.__all__)
def test_no_exception_of_ours_is_told_as_an_unknown_one(kind: str) -> None:
    assert explain(getattr(exceptions, kind)(DETAIL)) != explain(Exception())


def test_the_sentence_is_in_the_language_of_whoever_sees_it() -> None:
    sentence = explain(requests.Timeout())
    with translation.override("de"):
        assert str(sentence).startswith("ilert war nicht zu erreichen")
