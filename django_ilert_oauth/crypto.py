"""Tokens at rest: Fernet under keys that belong to one account.

From each configured key, HKDF-SHA256 (RFC 5869; no salt, ``info`` as below) derives 32 bytes that
are the Fernet key of one identity. A ciphertext copied to another row therefore does not open
there. ``info`` is ``django_ilert_oauth.token.v1`` followed by the identity as a JSON list of texts
without white space, in UTF-8::

    django_ilert_oauth.token.v1["7","https://api.ilert.com","acme","grace"]
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .conf import conf
from .exceptions import TokenDecryptionError
from .secret import Secret

_INFO = b"django_ilert_oauth.token.v1"


def encrypt(token: str, identity: Sequence[str]) -> str:
    return _fernet(identity).encrypt(token.encode()).decode("ascii")


def decrypt(ciphertext: str, identity: Sequence[str]) -> Secret:
    """Raises ``TokenDecryptionError`` where no configured key opens it."""
    token = _open(ciphertext, identity)
    if token is None:
        raise TokenDecryptionError(
            "No key in ILERT_OAUTH_ENCRYPTION_KEYS opens this token. Put the key that encrypted it "
            "back into the list, or have the user reconnect."
        )
    return token


def _open(ciphertext: str, identity: Sequence[str]) -> Secret | None:
    try:
        return Secret(_fernet(identity).decrypt(ciphertext.encode()).decode())
    except InvalidToken:
        return None


def _fernet(identity: Sequence[str]) -> MultiFernet:
    info = _INFO + json.dumps(list(identity), ensure_ascii=False, separators=(",", ":")).encode()
    return MultiFernet([Fernet(_derive(key, info)) for key in conf.encryption_keys])


def _derive(key: Secret, info: bytes) -> bytes:
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
    return base64.urlsafe_b64encode(hkdf.derive(base64.urlsafe_b64decode(key)))
