from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from django_ilert_oauth import crypto
from django_ilert_oauth.exceptions import TokenDecryptionError
from tests import seed

KEY = "h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ="
IDENTITY = ("7", "https://api.ilert.com", "acme", "grace")
TOKEN = seed.REFRESH_TOKEN

#: Made once by ``fernet_of`` below: what is stored today has to open for ever.
STORED = (
    "gAAAAABrBXe4L9AejGSuIlARV3hz4-CUniHu-FFw6GmVmO0jkCo8iS-wIi6kBOstRLSMLRoOalcb6SVikhla7lRk"
    "JrikDNrkx3qKHrG7X4mtAjyAzYPEUHBSBnnoOr5YouuM2xL5JrL31WEsEwi2RpAANGVO1RJctN25s5DAEjWETWM4"
    "cXt6D0HNp_IbhsbbYAGzIEX1LqCh8DZbj1vezWWs0vuyNkGiMNN1fXmdkS5EawsYKFvmLH_4bIy_LukMsWp6oVFx"
    "l-hPrMgYHJavZ1ZO52ZAayUiZ0Q49vmxbbPvUEAfOaVaSdhp92OOmL-8hpEOROAjtWjLe6Jcy3x-73BxyZTZXdIi"
    "7-tX7mjglUJyU7K5N2802gw="
)


def fernet_of(info: str) -> Fernet:
    """By the words of the module's docstring, with nothing of its code."""
    derived = HKDF(SHA256(), 32, salt=None, info=info.encode("utf-8")).derive(
        base64.urlsafe_b64decode(KEY)
    )
    return Fernet(base64.urlsafe_b64encode(derived))


def opens(ciphertext: str, identity: tuple[str, ...] = IDENTITY) -> bool:
    try:
        return crypto.decrypt(ciphertext, identity) == TOKEN
    except TokenDecryptionError:
        return False


@pytest.mark.parametrize("token", [TOKEN, seed.ACCESS_TOKEN, "x", "tökén ✓"])
def test_what_was_encrypted_comes_back(token: str) -> None:
    assert crypto.decrypt(crypto.encrypt(token, IDENTITY), IDENTITY) == token


def test_what_comes_back_does_not_show_itself() -> None:
    assert TOKEN not in repr(crypto.decrypt(crypto.encrypt(TOKEN, IDENTITY), IDENTITY))


def test_the_same_token_never_looks_the_same_twice() -> None:
    assert crypto.encrypt(TOKEN, IDENTITY) != crypto.encrypt(TOKEN, IDENTITY)


def test_the_format_is_the_documented_one() -> None:
    documented = fernet_of(
        'django_ilert_oauth.token.v1["7","https://api.ilert.com","acme","grace"]'
    )
    assert documented.decrypt(crypto.encrypt(TOKEN, IDENTITY)) == TOKEN.encode()
    assert opens(documented.encrypt(TOKEN.encode()).decode())


def test_names_beyond_ascii_are_utf8_in_the_format() -> None:
    documented = fernet_of('django_ilert_oauth.token.v1["7","https://x","acme","gräce \\"✓\\""]')
    ciphertext = documented.encrypt(TOKEN.encode()).decode()
    assert opens(ciphertext, ("7", "https://x", "acme", 'gräce "✓"'))


def test_what_was_stored_by_the_first_release_still_opens() -> None:
    assert opens(STORED)


@pytest.mark.parametrize("column", range(4))
def test_a_ciphertext_opens_for_no_other_identity(column: int) -> None:
    other = list(IDENTITY)
    other[column] += "x"
    assert not opens(crypto.encrypt(TOKEN, IDENTITY), tuple(other))


def test_no_two_identities_run_together() -> None:
    ciphertext = crypto.encrypt(TOKEN, ("7", "https://x", "ac", "me"))
    assert not opens(ciphertext, ("7", "https://x", "a", "cme"))
    assert not opens(ciphertext, ("7", "https://x", 'ac","me'))


def test_after_a_rotation_old_ciphertext_opens_and_new_is_made_with_the_first_key(
    settings: Any,
) -> None:
    old_key, new_key = KEY, Fernet.generate_key().decode()
    old = crypto.encrypt(TOKEN, IDENTITY)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key, old_key]
    new = crypto.encrypt(TOKEN, IDENTITY)
    assert opens(old)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key]
    assert opens(new)
    assert not opens(old)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [old_key]
    assert not opens(new)


def test_another_secret_key_changes_nothing(settings: Any) -> None:
    ciphertext = crypto.encrypt(TOKEN, IDENTITY)
    settings.SECRET_KEY = "another"
    settings.SECRET_KEY_FALLBACKS = []
    assert opens(ciphertext)


@pytest.mark.parametrize("ciphertext", ["", "x", TOKEN, "ä", STORED[:-1], STORED[1:]])
def test_what_is_no_ciphertext_raises_and_is_not_returned(ciphertext: str) -> None:
    with pytest.raises(TokenDecryptionError) as caught:
        crypto.decrypt(ciphertext, IDENTITY)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert TOKEN not in str(caught.value)


def test_the_error_and_its_frames_show_neither_a_key_nor_a_token() -> None:
    with pytest.raises(TokenDecryptionError) as caught:
        crypto.decrypt(crypto.encrypt(TOKEN, IDENTITY), ("8", *IDENTITY[1:]))
    rendered = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(rendered.format())
    assert "crypto.py" in shown
    assert KEY not in shown
    assert TOKEN not in shown
