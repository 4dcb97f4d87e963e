from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from django_ilert_oauth.secret import Secret

PLAIN = "hunter2"


@dataclass
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "holder", [Secret(PLAIN), [Secret(PLAIN)], {"token": Secret(PLAIN)}, Holder(Secret(PLAIN))]
)
def test_a_secret_is_masked_wherever_it_is_shown(holder: object) -> None:
    assert PLAIN not in repr(holder)


def test_an_empty_secret_does_not_show_that_it_is_empty() -> None:
    assert repr(Secret()) == repr(Secret(PLAIN))


def test_a_secret_is_an_ordinary_text() -> None:
    secret = Secret(PLAIN)
    assert secret == PLAIN
    assert f"{secret}" == str(secret) == PLAIN
    assert hash(secret) == hash(PLAIN)
    assert type(str(secret)) is str


def test_a_pickled_secret_stays_masked() -> None:
    copy = pickle.loads(pickle.dumps(Secret(PLAIN)))  # noqa: S301
    assert copy == PLAIN
    assert PLAIN not in repr(copy)


def test_nothing_can_be_hung_on_a_secret() -> None:
    with pytest.raises(AttributeError):
        Secret(PLAIN).note = ""  # type: ignore[attr-defined]
