"""What some tests need beside the packages of all environments."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def is_missing(what: str, how: str) -> NoReturn:
    """Skips; in CI, where everything must be there, it is an error."""
    reason = f"needs {what}: {how}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
