"""A fixture for sites that test with pytest; loaded by its entry point, before any settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import FakeIlert


@pytest.fixture
def fake_ilert(request: pytest.FixtureRequest) -> Iterator[FakeIlert]:
    """An ilert in memory: see ``django_ilert_oauth.testing.fake_ilert``."""
    # Only here: pytest loads this module in every project and before coverage looks on.
    from .testing import _fake_ilert

    # By pytest-django's own fixture where there is one: it undoes settings in an order of its own.
    has_own = request.config.pluginmanager.hasplugin("django")
    for name, value in _fake_ilert.missing_settings().items() if has_own else ():
        setattr(request.getfixturevalue("settings"), name, value)
    with _fake_ilert.fake_ilert() as ilert:
        yield ilert
