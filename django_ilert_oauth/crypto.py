"""Tokens at rest: Fernet under keys that belong to one account.

From each configured key, HKDF-SHA256 (RFC 5869; no salt, ``info`` as below) derives 32 bytes that
are the Fernet key of one identity. A ciphertext copied to another row therefore does not open
there. ``info`` is ``django_ilert_oauth.token.v1`` followed by the identity as a JSON list of texts
without white space, in UTF-8::

    django_ilert_oauth.token.v1["7","https://api.ilert.com","acme","grace"]

``cryptography`` is imported where it is used first: a start of the site should not wait for it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .conf import conf
from .exceptions import TokenDecryptionError
from .secret import Secret

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_INFO = b"django_ilert_oauth.token.v1"


def encrypt(token: str, identity: Sequence[str]) -> str:
    return _fernets(identity)[0].encrypt(token.encode()).decode("ascii")


def decrypt(ciphertext: str, identity: Sequence[str]) -> Secret:
    """Raises ``TokenDecryptionError`` where no configured key opens it."""
    for fernet in _fernets(identity):
        if (token := _opened(ciphertext, fernet)) is not None:
            return token
    raise TokenDecryptionError(
        "No key in ILERT_OAUTH_ENCRYPTION_KEYS opens this token. Put the key that encrypted it "
        "back into the list, or have the user reconnect."
    )


def rotate(ciphertext: str, identity: Sequence[str]) -> str:
    """The same token under the first key; unchanged where it is there already.

    Raises ``TokenDecryptionError``.
    """
    if key_number(ciphertext, identity) == 1:
        return ciphertext
    return encrypt(decrypt(ciphertext, identity), identity)


def key_number(ciphertext: str, identity: Sequence[str]) -> int:
    """Which of the configured keys opens it, counted from 1; 0 for none."""
    for number, fernet in enumerate(_fernets(identity), start=1):
        if _opened(ciphertext, fernet) is not None:
            return number
    return 0


def _opened(ciphertext: str, fernet: Fernet) -> Secret | None:
    from cryptography.fernet import InvalidToken

    try:
        return Secret(fernet.decrypt(ciphertext.encode()).decode())
    except InvalidToken:
        return None


def _fernets(identity: Sequence[str]) -> tuple[Fernet, ...]:
    return _derive_all(tuple(conf.encryption_keys), tuple(identity))


@lru_cache(maxsize=256)
def _derive_all(keys: tuple[Secret, ...], identity: tuple[str, ...]) -> tuple[Fernet, ...]:
    """Kept for a while, since reading and writing an account's tokens take the same keys."""
    from cryptography.fernet import Fernet

    info = _INFO + json.dumps(identity, ensure_ascii=False, separators=(",", ":")).encode()
    return tuple(Fernet(_derive(key, info)) for key in keys)


def _derive(key: Secret, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
    return base64.urlsafe_b64encode(hkdf.derive(base64.urlsafe_b64decode(key)))
