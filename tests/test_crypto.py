from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.oauth.secret import Secret
from tests.support import ilert_guide

KEY = "h3SWrXqcbGMlQIdYjnM9DKOXjcdnYWbu9SLrW_4XhNQ="
UUID = "2f6b5c4e-8f0e-4b39-9f6a-0d6a3b9d1c57"
API_URL = "https://api.ilert.com"
PLACE = (UUID, API_URL, "refresh_token")
TOKEN = ilert_guide.REFRESH_TOKEN

#: Made once by ``fernet_of`` below: what is stored today has to open for ever.
STORED = (
    "gAAAAABrCBtjVNIxdOJDx-CZj4RPmfPYqcrWMBSpTUeU9tIzegkZWT4F-sK8llze46t7vpcbNfLzV3ykfT8BznCK"
    "18AUfLgF0MbmIaN2eNuJN4UOlLsyJqjuMGFYDAIR5PNDq9c-VI7DKWREglOWpzcxsKgglUHXAORetccGhizumoSf"
    "bcuIV6Qte3Ji2-LlztAaBTlax0ns3FbDCcWl8knM19p9aVtXZK4I7Er7QpjAs_0saxG47Vi96eqoZjVMjCgK4k1j"
    "v9Zu16G5uOFfCT8gNowuptfDlIXPXrx5HGBdBw53Qf6H0wy3hoThfIcnUdbMfJUYepXfGTa8GcSCOvFWXw-4xmZe"
    "FnUur0-TdwH1zTwsscjK_lI="
)


def fernet_of(info: str) -> Fernet:
    """By the words of the module's docstring, with nothing of its code."""
    derived = HKDF(SHA256(), 32, salt=None, info=info.encode("utf-8")).derive(
        base64.urlsafe_b64decode(KEY)
    )
    return Fernet(base64.urlsafe_b64encode(derived))


def encrypted(token: str = TOKEN, place: tuple[str, ...] = PLACE) -> str:
    return crypto.encrypt(Secret(token), place)


def opens(ciphertext: str, place: tuple[str, ...] = PLACE) -> bool:
    try:
        return crypto.decrypt(ciphertext, place) == TOKEN
    except TokenDecryptionError:
        return False


def test_what_was_encrypted_comes_back_and_does_not_show_itself() -> None:
    for token in (TOKEN, ilert_guide.ACCESS_TOKEN, "x", "tökén ✓"):
        opened = crypto.decrypt(encrypted(token), PLACE)
        assert opened == token
        assert token not in f"{opened!r}"


@pytest.mark.parametrize(
    ("ciphertext", "token", "does"),
    [(STORED, TOKEN, True), (STORED, "another", False), ("unreadable", TOKEN, False)],
    ids=["its own", "another", "unreadable"],
)
def test_a_ciphertext_holds_the_token_that_it_opens_to(
    ciphertext: str, token: str, does: bool
) -> None:
    assert crypto.holds(ciphertext, PLACE, Secret(token)) == does


def test_the_same_token_never_looks_the_same_twice() -> None:
    assert encrypted() != encrypted()


def test_the_format_is_the_documented_one() -> None:
    documented = fernet_of(f'django_ilert_oauth.token.v1["{UUID}","{API_URL}","refresh_token"]')
    assert documented.decrypt(encrypted()) == TOKEN.encode()
    assert opens(documented.encrypt(TOKEN.encode()).decode())


def test_what_was_stored_by_the_first_release_still_opens() -> None:
    assert opens(STORED)


def test_a_ciphertext_opens_for_no_other_row_or_column() -> None:
    others = [
        (UUID, API_URL, "access_token"),
        (UUID, "https://evil.example", "refresh_token"),
        (UUID, "refresh_token"),
        (UUID.replace("2", "3", 1), API_URL, "refresh_token"),
        (UUID + "refresh_token",),
    ]
    assert [other for other in others if opens(encrypted(), other)] == []


def test_after_a_rotation_old_ciphertext_opens_and_new_is_made_with_the_first_key(
    settings: Any,
) -> None:
    old_key, new_key = KEY, Fernet.generate_key().decode()
    old = encrypted()
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key, old_key]
    new = encrypted()
    assert opens(old)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new_key]
    assert opens(new)
    assert not opens(old)
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [old_key]
    assert not opens(new)


def test_another_secret_key_changes_nothing(settings: Any) -> None:
    ciphertext = encrypted()
    settings.SECRET_KEY = "another"
    settings.SECRET_KEY_FALLBACKS = []
    assert opens(ciphertext)


def test_what_is_no_ciphertext_raises_and_is_not_returned() -> None:
    for ciphertext in ("", "x", TOKEN, "ä", STORED[:-9], STORED[1:]):
        with pytest.raises(TokenDecryptionError) as caught:
            crypto.decrypt(ciphertext, PLACE)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert str(caught.value) == (
            "No key in ILERT_OAUTH_ENCRYPTION_KEYS decrypts this token. Put back the key that "
            "encrypted it, or the row's api_url if that has changed, or have the user reconnect."
        )


def test_a_token_that_is_no_text_is_in_no_error() -> None:
    """An error about the encoding would carry all of it."""
    broken = crypto.encrypt(Secret(TOKEN + "\ud800"), PLACE)
    assert crypto.decrypt(broken, PLACE) == TOKEN + "?"


def test_what_another_program_has_written_in_another_encoding_is_in_no_error() -> None:
    [fernet] = crypto._derive_all(tuple(conf.encryption_keys), PLACE)
    written = fernet.encrypt(TOKEN.encode() + b"\xff").decode()
    assert crypto.decrypt(written, PLACE) == TOKEN + "\ufffd"


def test_the_error_and_its_frames_show_neither_a_key_nor_a_token() -> None:
    with pytest.raises(TokenDecryptionError) as caught:
        crypto.decrypt(encrypted(), (UUID, API_URL, "access_token"))
    rendered = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(rendered.format())
    assert "crypto.py" in shown
    assert KEY not in shown
    assert TOKEN not in shown


def test_a_ciphertext_is_told_by_the_number_of_the_key_that_opens_it(settings: Any) -> None:
    old = encrypted()
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [Fernet.generate_key().decode(), KEY]
    numbers = [crypto.key_number(ciphertext, PLACE) for ciphertext in (encrypted(), old, "x")]
    assert numbers == [1, 2, 0]


def test_a_rotation_brings_a_token_under_the_first_key_and_leaves_it_there(settings: Any) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = [Fernet.generate_key().decode(), KEY]
    rotated = crypto.rotate(STORED, PLACE)
    assert crypto.key_number(rotated, PLACE) == 1
    assert opens(rotated)
    assert crypto.rotate(rotated, PLACE) == rotated
    with pytest.raises(TokenDecryptionError):
        crypto.rotate(STORED, (UUID, "access_token"))
