from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_ilert_oauth.flows import _rotate_keys
from django_ilert_oauth.models import ConnectedAccount
from tests.support.other_callers import held

pytestmark = pytest.mark.django_db

NEW = "n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="


@pytest.fixture(autouse=True)
def new_key(account: ConnectedAccount, settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [NEW, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]


def run(*options: str) -> str:
    out = StringIO()
    call_command("rotate_ilert_keys", *options, stdout=out)
    return out.getvalue()


def test_a_rotation_says_that_old_keys_may_be_dropped() -> None:
    assert run() == (
        "1 re-encrypted, 0 already used the first key, 0 still use old keys, 0 cannot be read.\n"
        "You may remove all keys but the first.\n"
    )


def test_a_dry_run_says_what_is_still_on_old_keys() -> None:
    out = run("--dry-run")
    assert "0 re-encrypted" in out
    assert "1 still use old keys" in out
    assert "Old keys are still needed" in out


def test_verbosity_0_is_silent() -> None:
    assert run("--verbosity=0") == ""


def test_rows_that_stay_busy_keep_the_old_key_needed(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(account)
    monkeypatch.setattr(_rotate_keys, "lease_seconds", lambda: -5)
    assert "Old keys are still needed" in run()


def test_a_row_that_cannot_be_read_is_named_and_fails_the_run(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(refresh_token_ciphertext="gAAAA", username="gr\nace")
    errors = StringIO()
    with pytest.raises(CommandError, match="Do not remove any key"):
        call_command("rotate_ilert_keys", stdout=StringIO(), stderr=errors)
    assert f"ilert account {account.pk} (gr\\nace @ acme)" in errors.getvalue()
