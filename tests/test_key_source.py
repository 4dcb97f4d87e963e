"""Encryption keys from a callable, such as one that asks a vault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from django_ilert_oauth.checks import check_settings
from django_ilert_oauth.conf import conf
from django_ilert_oauth.conf import key_source as conf_key_source
from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.internal import crypto, key_source
from django_ilert_oauth.oauth.secret import Secret
from tests.support.other_callers import beside

PLACE = ("uuid", "refresh_token")
TOKEN = Secret("the-token")


class Vault:
    def __init__(self) -> None:
        self.keys: Any = [Fernet.generate_key().decode()]
        self.asked = 0
        self.is_sealed = False
        self.on_asked: Callable[[], object] = lambda: None

    def __call__(self) -> Any:
        self.asked += 1
        self.on_asked()
        if self.is_sealed:
            raise ConnectionError(f"sealed: {self.keys}")
        return self.keys


vault_of_the_path = Vault()


@pytest.fixture
def vault(settings: Any) -> Vault:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = vault = Vault()
    return vault


def written_by_another_process(vault: Vault) -> str:
    """Under a new key, which it has got from the vault."""
    old, vault.keys = vault.keys, [Fernet.generate_key().decode(), *vault.keys]
    settings_of_the_other = key_source.KeySource().keys()
    assert settings_of_the_other
    ciphertext = crypto._derive_all(tuple(settings_of_the_other), PLACE)[0].encrypt(b"the-token")
    assert conf.encryption_keys == old
    return ciphertext.decode()


def test_a_callable_is_asked_once(vault: Vault) -> None:
    for _ in range(3):
        assert crypto.decrypt(crypto.encrypt(TOKEN, PLACE), PLACE) == TOKEN
    assert vault.asked == 1


def test_a_dotted_path_names_a_callable(settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = f"{__name__}.vault_of_the_path"
    assert conf.encryption_keys == vault_of_the_path.keys


def test_another_callable_is_asked_for_itself(vault: Vault, settings: Any) -> None:
    assert conf.encryption_keys == vault.keys
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = other = Vault()
    assert conf.encryption_keys == other.keys


@pytest.mark.parametrize("opens", [crypto.decrypt, crypto.key_number])
def test_it_is_asked_again_for_a_token_that_no_key_opens(
    vault: Vault, opens: Callable[..., object]
) -> None:
    assert conf.encryption_keys
    assert opens(written_by_another_process(vault), PLACE) in (TOKEN, 1)
    assert conf.encryption_keys == vault.keys


def test_tokens_that_no_key_opens_ask_it_once_a_minute(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conf.encryption_keys
    for _ in range(3):
        with pytest.raises(TokenDecryptionError):
            crypto.decrypt("gAAAA", PLACE)
    assert vault.asked == 2
    monkeypatch.setattr(key_source, "PAUSE", -1.0)
    monkeypatch.setattr("django_ilert_oauth.conf.key_source._paused_until", 0.0)
    assert crypto.decrypt(written_by_another_process(vault), PLACE) == TOKEN


def test_a_vault_that_is_away_leaves_the_keys_of_before(
    vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    keys = conf.encryption_keys
    vault.is_sealed = True
    with pytest.raises(TokenDecryptionError):
        crypto.decrypt("gAAAA", PLACE)
    assert conf.encryption_keys == keys
    assert "could not be loaded: ConnectionError. The previous keys are used." in caplog.text
    assert vault.keys[0] not in caplog.text


def test_while_it_is_asked_again_other_threads_use_the_keys_of_before(vault: Vault) -> None:
    """To store a token that cannot wait until the vault is back."""
    encrypted: list[Secret] = []

    def encrypt() -> None:
        vault.on_asked = lambda: None
        encrypted.append(crypto.decrypt(crypto.encrypt(TOKEN, PLACE), PLACE))

    keys, vault.is_sealed = conf.encryption_keys, True
    vault.on_asked = lambda: beside(encrypt)
    with pytest.raises(TokenDecryptionError):
        crypto.decrypt("gAAAA", PLACE)
    assert (encrypted, vault.asked, conf.encryption_keys) == ([TOKEN], 2, keys)


def test_keys_that_another_thread_has_got_meanwhile_are_tried(vault: Vault) -> None:
    tried = conf.encryption_keys
    crypto.decrypt(written_by_another_process(vault), PLACE)
    assert conf_key_source.has_others(than=tried)
    assert vault.asked == 3


def test_a_vault_that_is_away_at_the_start_is_told_without_what_it_said(vault: Vault) -> None:
    vault.is_sealed = True
    with pytest.raises(ImproperlyConfigured, match="not be loaded: ConnectionError") as raised:
        crypto.encrypt(TOKEN, PLACE)
    assert raised.value.__context__ is None
    vault.is_sealed = False
    assert conf.encryption_keys == vault.keys


@pytest.mark.parametrize(("keys", "told"), [(None, "is not set"), (["short"], "must be a list")])
def test_what_is_no_list_of_keys_is_told_and_not_kept(vault: Vault, keys: Any, told: str) -> None:
    good, vault.keys = vault.keys, keys
    with pytest.raises(ImproperlyConfigured, match=told):
        crypto.encrypt(TOKEN, PLACE)
    vault.keys = good
    assert conf.encryption_keys == good


def test_the_check_says_that_a_path_leads_nowhere(settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = "site.vault.keys"
    [message] = check_settings(None)
    assert message.msg == "ILERT_OAUTH_ENCRYPTION_KEYS could not be loaded: ModuleNotFoundError."
