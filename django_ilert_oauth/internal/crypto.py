"""Tokens at rest: Fernet under keys that belong to one column of one row, and to one ilert.

From each configured key, HKDF-SHA256 (RFC 5869; no salt, ``info`` as below) derives 32 bytes that
are the Fernet key of one place. A ciphertext copied to another row or column therefore does not
open there, nor once another ``api_url`` is written beside it: it would be sent there. ``info`` is
``django_ilert_oauth.token.v1`` followed by the place as a JSON list of strings without white space,
in UTF-8. The place of a token is its account's ``uuid`` and ``api_url`` and the name of the token::

    django_ilert_oauth.token.v1["2f6b5c4e-8f0e-4b39-9f6a-0d6a3b9d1c57","https://api.ilert.com","refresh_token"]

``cryptography`` is imported where it is used first: a start of the site should not wait for it.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import TYPE_CHECKING

from django_ilert_oauth.conf import conf, key_source
from django_ilert_oauth.exceptions import TokenDecryptionError
from django_ilert_oauth.oauth.secret import Secret

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_INFO = b"django_ilert_oauth.token.v1"

#: What a ciphertext belongs to, such as the uuid of an account and ``refresh_token``.
Place = tuple[str, ...]


def encrypt(token: Secret, place: Place) -> str:
    # An error about a lone surrogate would carry the token.
    [first, *_others] = _derive_all(tuple(conf.encryption_keys), place)
    return first.encrypt(token.reveal().encode(errors="replace")).decode("ascii")


def decrypt(ciphertext: str, place: Place) -> Secret:
    """The token; raises ``TokenDecryptionError`` where no configured key opens it."""
    _number, token = _open(ciphertext, place)
    if token is None:
        raise TokenDecryptionError(
            "No key in ILERT_OAUTH_ENCRYPTION_KEYS decrypts this token. Put back the key that "
            "encrypted it, or the row's api_url if that has changed, or have the user reconnect."
        )
    return token


def holds(ciphertext: str, place: Place, token: Secret) -> bool:
    """Whether it opens to this token; False where no key opens it."""
    return _open(ciphertext, place)[1] == token


def rotate(ciphertext: str, place: Place) -> str:
    """The same token under the first key; unchanged where it is there already.

    Raises ``TokenDecryptionError``.
    """
    if key_number(ciphertext, place) == 1:
        return ciphertext
    return encrypt(decrypt(ciphertext, place), place)


def key_number(ciphertext: str, place: Place) -> int:
    """Which of the configured keys opens it, counted from 1; 0 for none."""
    return _open(ciphertext, place)[0]


def _open(ciphertext: str, place: Place) -> tuple[int, Secret | None]:
    """The number of the key and the token. Another process may write under a new key already."""
    while True:
        keys = conf.encryption_keys
        for number, fernet in enumerate(_derive_all(tuple(keys), place), start=1):
            if (token := _opened(ciphertext, fernet)) is not None:
                return number, token
        if not key_source.has_others(than=keys):
            return 0, None


def _opened(ciphertext: str, fernet: Fernet) -> Secret | None:
    from cryptography.fernet import InvalidToken

    try:
        return Secret(fernet.decrypt(ciphertext.encode()).decode(errors="replace"))
    except InvalidToken:
        return None


@lru_cache(maxsize=256)
def _derive_all(keys: tuple[Secret, ...], place: Place) -> tuple[Fernet, ...]:
    """Kept for a while, since reading and writing an account's tokens take the same keys."""
    from cryptography.fernet import Fernet

    info = _INFO + json.dumps(place, ensure_ascii=False, separators=(",", ":")).encode()
    return tuple(Fernet(_derive(key, info)) for key in keys)


def _derive(key: Secret, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
    return base64.urlsafe_b64encode(hkdf.derive(base64.urlsafe_b64decode(key.reveal())))
