from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import requests

from django_ilert_oauth import exceptions, session
from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    EndpointMismatchError,
    IlertHTTPError,
    IlertOAuthError,
    IlertPlanError,
    IlertRejectedError,
    IlertScopeError,
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
OF_CALLS: dict[Any, Any] = {
    IlertHTTPError: requests.HTTPError,
    IlertScopeError: IlertHTTPError,
    IlertPlanError: IlertHTTPError,
}
EXAMPLES = [
    *(kind("What happened.", code="a_code") for kind in TREE),
    IlertUnavailableError("Later.", code="rate_limited", retry_after=17.5),
    IlertRejectedError("No.", code="invalid_scope", status=400),
    ReconnectRequiredError("Gone.", status=401),
]


def test_the_tree_is_the_documented_one() -> None:
    exported = [getattr(exceptions, name) for name in exceptions.__all__]
    defined = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass)]
    assert {kind: kind.__base__ for kind in exported} == OF_CALLS | TREE
    assert set(defined) == set(TREE)


def test_the_tree_is_drawn_in_the_docstring() -> None:
    drawing = exceptions.__doc__ or ""
    assert [name for name in exceptions.__all__ if f" {name} " not in drawing] == [
        "IlertOAuthError"
    ]
    assert "    IlertOAuthError\n" in drawing


def test_a_name_that_does_not_exist_is_said_not_to() -> None:
    with pytest.raises(AttributeError, match=r"\.exceptions' has no attribute 'XError'"):
        getattr(exceptions, "XError")  # noqa: B009


def test_the_error_of_calls_can_be_imported_with_the_session_too() -> None:
    assert session.IlertHTTPError is IlertHTTPError


def test_an_error_says_by_default_that_nothing_more_is_known() -> None:
    for kind in OF_CALLS:
        error = kind("What happened.")
        assert (error.code, error.detailed_code, error.message, error.correlation_id) == ("",) * 4
        assert getattr(error, "missing_scopes", []) == []
    assert IlertUnavailableError("Later.").retry_after is None
    assert IlertRejectedError("No.").status == ReconnectRequiredError("Gone.").status == 0


def test_an_error_survives_pickling_and_copying_unchanged() -> None:
    for error in EXAMPLES:
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
            assert type(twin) is type(error)
            assert (str(twin), vars(twin)) == (str(error), vars(error))


def test_each_kind_has_a_code_of_its_own_no_longer_than_the_column() -> None:
    codes = [kind("What happened.").code for kind in TREE]
    assert codes == [kind.code for kind in TREE]
    assert len(set(codes) - {""}) == len(TREE)
    assert max(map(len, codes)) <= 40
