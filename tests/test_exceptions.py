from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from django_ilert_oauth import exceptions
from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    EndpointMismatchError,
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
    StateError,
    TokenDecryptionError,
)

TREE = {
    IlertOAuthError: Exception,
    StateError: IlertOAuthError,
    AuthorizationDeniedError: IlertOAuthError,
    IlertUnavailableError: IlertOAuthError,
    IlertRejectedError: IlertOAuthError,
    ReconnectRequiredError: IlertRejectedError,
    EndpointMismatchError: IlertOAuthError,
    TokenDecryptionError: IlertOAuthError,
}
EXAMPLES = [
    *(kind("What happened.", code="a_code") for kind in TREE),
    IlertUnavailableError("Later.", code="rate_limited", retry_after=17.5),
    IlertRejectedError("No.", code="invalid_scope", status=400),
    ReconnectRequiredError("Gone.", status=401),
]


def test_the_tree_is_the_documented_one() -> None:
    kinds = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass)]
    assert {kind: kind.__base__ for kind in kinds} == TREE


def test_the_tree_is_drawn_in_the_docstring() -> None:
    drawing = exceptions.__doc__ or ""
    assert [kind.__name__ for kind in TREE if f" {kind.__name__}" not in drawing] == []


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_an_error_survives_pickling_and_copying_whole(error: IlertOAuthError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


@pytest.mark.parametrize("kind", TREE)
def test_each_kind_has_a_code_of_its_own_that_fits_the_column(
    kind: type[IlertOAuthError],
) -> None:
    assert kind("What happened.").code == kind.code != ""
    assert len(kind.code) <= 40
    assert [other for other in TREE if other.code == kind.code] == [kind]


def test_the_defaults_say_that_nothing_more_is_known() -> None:
    assert IlertUnavailableError("Later.").retry_after is None
    assert IlertRejectedError("No.").status == ReconnectRequiredError("Gone.").status == 0
